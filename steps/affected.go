package steps

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/service"
)

// jailSize adds up the files of the jail, in bytes: what a snapshot needs.
func (e *Env) jailSize(ctx context.Context) int64 {
	var total int64
	var walk func(dir string)
	walk = func(dir string) {
		names, err := e.Root.ReadDir(dir)
		if err != nil || ctx.Err() != nil {
			return
		}
		for _, n := range names {
			p := path.Join(dir, n)
			info, err := e.Root.Lstat(p)
			if err != nil || info.MountID != e.Root.MountID() {
				continue
			}
			if info.IsDir() {
				walk(p)
			} else if info.IsRegular() {
				total += info.Size
			}
		}
	}
	walk("/")
	return total
}

// needRestart names other processes of the jail that have files mapped which
// change: they keep the old ones until they are started again.
func (e *Env) needRestart(server service.Server) []string {
	mine := map[int]bool{}
	for _, p := range server.PIDs() {
		mine[p] = true
	}
	changed := map[uint64]string{}
	for _, op := range e.set.Ops {
		if op.Old != nil && !op.Hold && op.Kind != changeset.Rmdir {
			changed[op.Old.Ino] = op.Path
		}
	}
	dev, ino := e.Root.DevIno()
	var out []string
	entries, _ := os.ReadDir("/proc")
	for _, d := range entries {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || mine[pid] {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", d.Name(), "root"), &st) != nil || uint64(st.Dev) != dev || st.Ino != ino {
			continue
		}
		if p := mapped(pid, changed); p != "" {
			comm, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "comm"))
			out = append(out, fmt.Sprintf("%d (%s): %s", pid, event.Clean(strings.TrimSpace(string(comm)), 20), p))
		}
	}
	return out
}

// mapped returns a changed file that a process has mapped; the fifth field of a
// line of /proc/PID/maps is the inode (proc_pid_maps(5)).
func mapped(pid int, changed map[uint64]string) string {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "maps"))
	if err != nil {
		return ""
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 {
			continue
		}
		ino, err := strconv.ParseUint(fields[4], 10, 64)
		if p, ok := changed[ino]; err == nil && ok {
			return p
		}
	}
	return ""
}
