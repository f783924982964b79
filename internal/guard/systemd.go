package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// manager is a connection to the host's systemd.
type manager struct{ conn *dbus.Conn }

// patience bounds a talk with systemd that has no bound of its own: a daemon-reload
// reads every unit of the host.
const patience = 15 * time.Second

// withSystemd calls do with a connection; where systemd is not init it does nothing.
func withSystemd(ctx context.Context, do func(*manager) error) error {
	if !Booted() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// The private socket needs no bus, and answers root at any time, early at boot
	// and late at shutdown as well.
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		var berr error
		if conn, berr = dbus.NewSystemConnectionContext(ctx); berr != nil {
			return fmt.Errorf("cannot talk to systemd: %w", err)
		}
	}
	defer conn.Close()
	return do(&manager{conn})
}

// Unit is a service that runs, or at the next boot would run, a program of a jail.
type Unit struct {
	Name string
	// Runs is which of the processes asked for belongs to it; 0: none.
	Runs int
	// Main says that systemd takes that process, or its parent, for the unit's own.
	Main bool
	// AtBoot says that it is enabled.
	AtBoot bool
	// Programs are the last parts of the words of its command lines, "nginx".
	Programs []string
}

// Units finds the services that masters (the numbers of servers' first processes,
// with the names of their programs) belong to, and those loaded ones that start a
// program chrooted into the directory of that device and inode. Without systemd
// there are none.
//
// A process counts as a unit's if that takes it, or its parent, for its main
// process, or knows none and is one that starts such a server: what was started
// out of a unit by hand or by a job (ssh, cron, a timer) does not.
func Units(ctx context.Context, masters map[int][]string, dev, ino uint64) ([]Unit, error) {
	var out []Unit
	err := withSystemd(ctx, func(m *manager) error {
		list, err := m.conn.ListUnitsByPatternsContext(ctx, nil, []string{"*.service"})
		if err != nil {
			return fmt.Errorf("cannot ask systemd for its units: %w", err)
		}
		running := map[string]int{}
		for pid := range masters {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err == nil {
				running[unitOf(string(text))] = pid
			}
		}
		for _, l := range list {
			if l.LoadState != "loaded" || !unitName.MatchString(l.Name) || strings.HasPrefix(l.Name, "jailup-recover") {
				continue
			}
			p, err := m.conn.GetUnitTypePropertiesContext(ctx, l.Name, "Service")
			if err != nil {
				continue // it was unloaded meanwhile
			}
			u := Unit{Name: l.Name}
			chrooted := sameDir(text(p["RootDirectory"]), dev, ino)
			for _, when := range []string{"ExecStartPre", "ExecStart"} {
				for _, argv := range commands(p[when]) {
					chrooted = chrooted || entersJail(argv, dev, ino)
					u.Programs = append(u.Programs, programs(argv)...)
				}
			}
			if pid, ok := running[l.Name]; ok {
				main, _ := p["MainPID"].(uint32)
				u.Main = main != 0 && (int(main) == pid || int(main) == parentOf(pid))
				if u.Main || main == 0 && (chrooted || serves(p) && u.Starts(masters[pid])) {
					u.Runs = pid
				}
			}
			if u.Runs == 0 && !chrooted {
				continue
			}
			state, err := m.conn.GetUnitPropertyContext(ctx, l.Name, "UnitFileState")
			if err == nil {
				s, _ := state.Value.Value().(string)
				u.AtBoot = s == "enabled" || s == "generated"
			}
			out = append(out, u)
		}
		return nil
	})
	return out, err
}

// Starts tells whether one of those programs is in the unit's command lines.
func (u Unit) Starts(programs []string) bool {
	return slices.ContainsFunc(programs, func(p string) bool { return slices.Contains(u.Programs, p) })
}

// serves tells whether, by a unit's properties, what it starts is there to stay: of
// a job that has ended only what it left behind is.
func serves(p map[string]any) bool {
	remains, _ := p["RemainAfterExit"].(bool)
	return text(p["Type"]) != "oneshot" || remains
}

// programs are the last parts of the words of a command line. In one of jailup that
// starts no server for good ("jailup upgrade nginx") the names mean no program.
func programs(argv []string) []string {
	var out []string
	for _, w := range splitWords(argv) {
		out = append(out, path.Base(w))
	}
	if slices.Contains(out, "jailup") && !slices.Contains(out, "start") && !slices.Contains(out, "restart") {
		return nil
	}
	return out
}

// splitWords takes apart what a shell, or an option, would.
func splitWords(argv []string) []string {
	var words []string
	for _, a := range argv {
		words = append(words, strings.FieldsFunc(a, func(r rune) bool { return strings.ContainsRune(" \t\n='\";&|()", r) })...)
	}
	return words
}

// Known tells whether systemd could start a unit.
func Known(ctx context.Context, unit string) bool {
	known := false
	_ = withSystemd(ctx, func(m *manager) error {
		p, err := m.conn.GetUnitPropertyContext(ctx, unit, "LoadState")
		if err == nil {
			s, _ := p.Value.Value().(string)
			known = s == "loaded"
		}
		return nil
	})
	return known
}

// Queue has systemd start units when what they are ordered after is done, and does
// not wait for them: they may wait for the caller.
func Queue(ctx context.Context, units []string) error {
	if len(units) == 0 {
		return nil
	}
	var errs []error
	err := withSystemd(ctx, func(m *manager) error {
		for _, u := range units {
			_ = m.conn.ResetFailedUnitContext(ctx, u) // of failures before the cut there are none
			if _, err := m.conn.StartUnitContext(ctx, u, "replace", nil); err != nil {
				errs = append(errs, fmt.Errorf("cannot queue the start of %s: %w", u, err))
			}
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// scope moves a process into a unit of its own.
func scope(ctx context.Context, name, what string, pid int) error {
	return withSystemd(ctx, func(m *manager) error {
		done := make(chan string, 1)
		_, err := m.conn.StartTransientUnitContext(ctx, name, "fail", []dbus.Property{
			dbus.PropDescription(what), dbus.PropPids(uint32(pid)), dbus.PropSlice("system.slice"),
			{Name: "CollectMode", Value: godbus.MakeVariant("inactive-or-failed")},
		}, done)
		if err != nil {
			return fmt.Errorf("cannot have unit %s: %w", name, err)
		}
		select {
		case result := <-done:
			if result != "done" {
				return fmt.Errorf("cannot have unit %s: its start is %s", name, result)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(patience):
			return fmt.Errorf("cannot have unit %s: systemd does not answer", name)
		}
		return nil
	})
}

// unitOf finds the service in the text of /proc/PID/cgroup: of systemd's own
// hierarchy where there is one (cgroup v1 and hybrid), else of version 2. As in
// systemd's paths, the unit is what follows the slices.
func unitOf(cgroups string) string {
	unified, named := "", ""
	for line := range strings.Lines(cgroups) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		switch part[1] {
		case "":
			unified = part[2]
		case "name=systemd":
			named = part[2]
		}
	}
	if named == "" || named == "/" {
		named = unified
	}
	for word := range strings.SplitSeq(strings.Trim(named, "/"), "/") {
		if strings.HasSuffix(word, ".slice") {
			continue
		}
		word = strings.TrimPrefix(word, "_") // what else would look like a file of the kernel's
		if unitName.MatchString(word) && !strings.HasPrefix(word, "user@") {
			return word
		}
		break
	}
	return ""
}

func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return -1
	}
	var state string
	ppid := -1
	_, _ = fmt.Sscan(string(b[strings.LastIndexByte(string(b), ')')+1:]), &state, &ppid)
	if ppid <= 1 {
		return -1
	}
	return ppid
}

func text(v any) string {
	s, _ := v.(string)
	return strings.TrimPrefix(s, "-")
}

// commands reads a property such as ExecStart: an array of structures whose second
// member is the command line.
func commands(v any) [][]string {
	list, _ := v.([][]any)
	var out [][]string
	for _, c := range list {
		if len(c) > 1 {
			if argv, ok := c[1].([]string); ok {
				out = append(out, argv)
			}
		}
	}
	return out
}

// entersJail tells whether a command line is one that changes its root to the
// directory.
func entersJail(argv []string, dev, ino uint64) bool {
	words := splitWords(argv)
	tools := []string{"chroot", "schroot", "jk_chrootlaunch", "start-stop-daemon", "bwrap", "unshare", "systemd-nspawn", "proot", "nsenter"}
	enters := slices.ContainsFunc(words, func(w string) bool {
		return slices.Contains(tools, path.Base(w)) && !sameDir(w, dev, ino)
	})
	return enters && slices.ContainsFunc(words, func(w string) bool { return sameDir(w, dev, ino) })
}

func sameDir(p string, dev, ino uint64) bool {
	if !path.IsAbs(p) {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(p, &st) == nil && st.Dev == dev && st.Ino == ino
}
