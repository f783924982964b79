package service

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shareSockets tells whether two processes have a socket in common, beside
// their standard streams: a listening one is handed from father to son.
func (c *ProcessController) shareSockets(a, b *proc) bool {
	have := map[string]bool{}
	for fd, s := range c.sockets(a.PID) {
		if fd > 2 {
			have[s] = true
		}
	}
	for fd, s := range c.sockets(b.PID) {
		if fd > 2 && have[s] {
			return true
		}
	}
	return false
}

// sockets names the sockets that a process has open ("socket:[4711]"), by
// descriptor; none if that cannot be seen.
func (c *ProcessController) sockets(pid int) map[int]string {
	dir, err := os.Open(path.Join(c.procRoot, strconv.Itoa(pid), "fd"))
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(4096)
	found := map[int]string{}
	buf := make([]byte, 64)
	for _, n := range names {
		fd, err := strconv.Atoi(n)
		if err != nil {
			continue
		}
		m, err := unix.Readlinkat(int(dir.Fd()), n, buf)
		if err == nil && strings.HasPrefix(string(buf[:m]), "socket:[") {
			found[fd] = string(buf[:m])
		}
	}
	return found
}
