package checks

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
)

// proc is a process as proc(5) shows it. PID and start name it for good.
type proc struct {
	pid, ppid int
	state     byte
	start     uint64 // clock ticks since boot
	title     string // begin of its command line, where somebody read it
}

func (p proc) key() string { return fmt.Sprintf("%d@%d", p.pid, p.start) }

// began is when the process was started; a time long ago if that is not known.
func (p proc) began() time.Time {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return time.Time{}
	}
	up, err := strconv.ParseFloat(strings.SplitN(string(b), " ", 2)[0], 64)
	if err != nil {
		return time.Time{}
	}
	// proc(5) counts in hundredths of a second, whatever the kernel does.
	age := up - float64(p.start)/100
	return time.Now().Add(-time.Duration(age * float64(time.Second)))
}

// pidOf takes the number out of a key, for messages.
func pidOf(key string) string {
	pid, _, _ := strings.Cut(key, "@")
	return pid
}

// readProc reads /proc/PID/stat. A process that ended, zombies included, is
// not there. The name stands in parentheses and may hold any byte, so fields
// are counted from the last parenthesis.
func readProc(pid int) (proc, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return proc{}, false
	}
	p := proc{pid: pid, state: fields[0][0]}
	p.ppid, err = strconv.Atoi(fields[1])
	if err != nil {
		return proc{}, false
	}
	p.start, err = strconv.ParseUint(fields[19], 10, 64)
	if err != nil || p.state == 'Z' || p.state == 'X' {
		return proc{}, false
	}
	return p, true
}

// effectiveUID reads the uid that a process acts as.
func effectiveUID(pid int) (string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if f := strings.Fields(rest); len(f) > 1 {
				return f[1], true
			}
		}
	}
	return "", false
}

// title reads the begin of a process's command line, with the arguments parted
// by blanks. Nginx writes its role there.
func title(pid int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := io.ReadFull(f, b)
	return strings.TrimSpace(event.Clean(strings.ReplaceAll(string(b[:n]), "\x00", " "), 256))
}

// place is a directory by device and inode.
type place struct{ dev, ino uint64 }

// rootAt finds a process's root: the text of the link is another one in another
// mount namespace.
func rootAt(pid int) (at place, known bool) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/root/.", pid), &st); err != nil {
		return place{}, false
	}
	return place{uint64(st.Dev), st.Ino}, true //nolint:unconvert // Dev is narrower on some architectures
}

// socketInodes adds the socket inodes among the first max descriptors of a
// process, which are the oldest: listening sockets come early.
func socketInodes(pid, max int, into map[uint64]int) error {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	defer dir.Close()
	buf := make([]byte, 64)
	for done := 0; done < max; {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
			if err != nil {
				continue
			}
			if ino, ok := socketLink(string(buf[:n])); ok {
				if _, known := into[ino]; !known {
					into[ino] = pid
				}
			}
		}
		done += len(names)
		if err == io.EOF || len(names) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func socketLink(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	ino, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return ino, err == nil
}

// ephemeral is the range that the kernel takes ports from when nobody asks for
// one (ip(7), ip_local_port_range).
func ephemeral() (low, high int) {
	low, high = 32768, 60999
	f, err := os.Open("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return low, high
	}
	defer f.Close()
	var a, b int
	if n, _ := fmt.Fscan(bufio.NewReader(f), &a, &b); n == 2 {
		return a, b
	}
	return low, high
}
