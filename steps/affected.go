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

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
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
func (e *Env) needRestart(ctx context.Context) []string {
	mine := map[int]bool{}
	for _, u := range e.servers() {
		if server, err := u.find(ctx, before); err == nil {
			for _, p := range server.PIDs() {
				mine[p] = true
			}
		}
	}
	changed := e.changedInodes()
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

// changedInodes are the files of the jail that go away, by inode.
func (e *Env) changedInodes() map[uint64]string {
	out := map[uint64]string{}
	for _, op := range e.set.Ops {
		if op.Old != nil && !op.Hold && op.Kind != changeset.Rmdir {
			out[op.Old.Ino] = op.Path
		}
	}
	return out
}

// findAffected takes into the run the servers of this jail that no package of it
// is of, but that have files mapped which change: Apache beside nginx, when the C
// library is replaced. They are restarted and checked too.
func (e *Env) findAffected(ctx context.Context) error {
	if e.Recipes == nil {
		return nil
	}
	inodes := e.changedInodes()
	for _, r := range e.Recipes.All() {
		if !r.HasProcesses() || e.unit(r.Name) != nil {
			continue
		}
		ed, ok := editionIn(viewOf(e.Root), r)
		if !ok {
			continue
		}
		u := newUnit(e, r.At(ed))
		server, err := u.learn(ctx)
		if err != nil {
			return err
		}
		path := ""
		for _, pid := range server.PIDs() {
			if p := mapped(pid, inodes); p != "" {
				path = p
			}
		}
		if path == "" {
			continue
		}
		u.facts.Affected = true
		e.note(event.Info, fmt.Sprintf("%s of this jail has %s loaded, which changes: it is restarted and checked too", u.name(), path), "")
		u.tellLost(server)
		e.units = append([]*unit{u}, e.units...)
		e.Affected = append(e.Affected, u.recipe[before])
	}
	if len(e.Affected) == 0 || e.Scratch != "" {
		return nil
	}
	if err := e.keepRecipes(); err != nil {
		return err
	}
	return e.addBaseline(ctx)
}

// addBaseline records how the affected servers answer, beside what is recorded.
func (e *Env) addBaseline(ctx context.Context) error {
	report := e.before()
	for _, u := range e.servers() {
		if !u.facts.Affected {
			continue
		}
		t, err := u.target(before)
		if err != nil {
			return err
		}
		set, err := checks.Standard(t, checks.Config{})
		if err != nil {
			return err
		}
		now := checks.BaselineEvery(ctx, set.Checks(), e.Options.Looks).Results
		report.Results = append(report.Results, now...)
		report.Down = false
		if e.judge != nil {
			e.judge.Results = append(e.judge.Results, now...)
		}
	}
	e.baseline = &report
	return e.saveJSON("baseline.json", report)
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
