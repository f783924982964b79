package lab

import (
	"io"
	"os"
	"syscall"
	"testing"
)

// copyFile copies the bytes of a file, links followed, as cp(1) does without
// options: the mode is given, owner and time are those of the moment.
func copyFile(src, dst string, mode os.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	// A child that another test forks while the copy is open for writing holds it
	// open until its exec, and a program that is open for writing cannot be run
	// (ETXTBSY): nobody forks meanwhile.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// WriteProgram writes a program that is run soon; see copyFile for why that is
// not os.WriteFile.
func WriteProgram(t testing.TB, path string, data []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatalf("cannot write a program: %v", err)
	}
}
