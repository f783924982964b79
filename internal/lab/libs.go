package lab

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// inTree follows links as a process in the tree would, an absolute one from the
// tree's root.
func inTree(tree, path string) (string, error) {
	fd, err := unix.Open(tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	f, err := unix.Openat2(fd, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return "", fmt.Errorf("cannot find %s in the unpacked packages: %w", path, err)
	}
	defer unix.Close(f)
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(f))
}

// ldsoLine is one library of ld.so's list: "name => /path (0x...)" or, for the
// interpreter itself, "/path (0x...)".
var ldsoLine = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

// loadedBy lists the interpreter of a program of the tree and the libraries
// that the tree's own interpreter would load for it, and for what it loads
// itself later: extensions, modules.
func loadedBy(tree, program string, later ...string) ([]string, error) {
	file, err := inTree(tree, program)
	if err != nil {
		return nil, err
	}
	interp, err := interpreter(file)
	if err != nil || interp == "" {
		return nil, err // or a static program
	}
	args := []string{"--list", program}
	if len(later) > 0 {
		args = append([]string{"--preload", strings.Join(later, " ")}, args...)
	}
	cmd := exec.Command(interp, args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: tree}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cannot list the libraries of %s: %w: %s", program, err, tail(string(out)))
	}
	libs := []string{interp}
	for _, m := range ldsoLine.FindAllStringSubmatch(string(out), -1) {
		libs = appendNew(libs, m[1])
	}
	return libs, nil
}

// interpreter is what an ELF program names as its own, or "".
func interpreter(file string) (string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return "", err
			}
			return strings.TrimRight(string(b), "\x00"), nil
		}
	}
	return "", nil
}
