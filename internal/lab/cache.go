package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Cache is a folder that outlives the run, shared by all test packages of one
// user: $JAILUP_TEST_CACHE, else a folder in the user's cache directory.
// Whoever writes in it holds its own lock (see withLock): packages run at the
// same time.
func Cache(t testing.TB) string {
	t.Helper()
	dir, err := cacheDir()
	if err != nil {
		t.Fatalf("cannot make the test cache: %v", err)
	}
	return dir
}

func cacheDir() (string, error) {
	dir := os.Getenv("JAILUP_TEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			base = filepath.Join(os.TempDir(), "cache-"+strconv.Itoa(os.Getuid()))
		}
		dir = filepath.Join(base, "jailup-test")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// withLock runs do while this process alone holds the named lock of the cache.
func withLock(name string, do func() error) error {
	dir, err := cacheDir()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot lock %s: %w", f.Name(), err)
	}
	return do()
}

// lockByte takes one byte of a file of the cache for this open file alone, and
// tells whether it was free. The lock ends when the file is closed, also by
// death of the process, so it can never be left behind.
func lockByte(name string, n int64) (*os.File, bool, error) {
	dir, err := cacheDir()
	if err != nil {
		return nil, false, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, false, err
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: n, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		f.Close()
		if err == unix.EAGAIN || err == unix.EACCES {
			return nil, false, nil
		}
		return nil, false, err
	}
	return f, true, nil
}

// FreePort is a TCP port of 127.0.0.1 on which nobody listens, and which no
// other test of this user is given until this one ends. It lies below the
// range from which the kernel picks ports for outgoing connections, so that it
// cannot be taken by accident in between.
func FreePort(t testing.TB) int {
	t.Helper()
	const low = 20000
	high := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		var first int
		if _, err := fmt.Sscan(string(b), &first); err == nil && first < high {
			high = first
		}
	}
	if high < low+1000 {
		high = 60000
	}
	for range 1000 {
		port := low + rand.IntN(high-low)
		f, free, err := lockByte("ports", int64(port))
		if err != nil {
			t.Fatalf("cannot reserve a port: %v", err)
		}
		if !free {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			f.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { f.Close() })
		return port
	}
	t.Fatal("cannot find a free port of 127.0.0.1")
	return 0
}
