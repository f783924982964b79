package steps

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
)

// arm compares every path of the changeset with the jail once more, by digest,
// starts the guardian, and has it hold the units that would start something in
// the jail. After it the server may be stopped.
type arm struct{ e *Env }

func (s *arm) Name() string { return "arm" }

func (s *arm) Do(ctx context.Context, run *Run) error {
	e := s.e
	w, err := e.worker(&run.Facts)
	if err != nil {
		return err
	}
	defer w.Close()
	drift, err := w.Drift()
	if err != nil {
		return err
	}
	if len(drift) > 0 {
		return fail(ErrStale, "run it again: it begins anew from what is there now",
			"cannot go on: %s was changed while the upgrade was prepared (%d paths in all)", drift[0], len(drift))
	}
	if err := e.undamaged(w, &run.Facts); err != nil {
		return err
	}
	if err := e.roomForInstall(&run.Facts); err != nil {
		return err
	}
	if err := e.makeReserve(); err != nil {
		return err
	}
	if e.Guard == nil || e.guardian != nil {
		return nil
	}
	held, err := e.findUnits(ctx)
	if err != nil {
		return fail(nil, "see whether systemd is well: systemctl is-system-running", "cannot guard jail %s: %w", e.Root.Path(), err)
	}
	run.Facts.Held = held
	e.saveServers(&run.Facts)
	if err := run.Save(); err != nil {
		return err
	}
	if e.guardian, err = e.Guard(held); err != nil {
		hint := ""
		if guard.Booted() {
			hint = "a run needs " + guard.EtcUnits + " writable, and " + e.StateDir + ": so init starts no mixed jail after a power cut"
		}
		return fail(nil, hint, "cannot guard jail %s: %w", e.Root.Path(), err)
	}
	return nil
}

// Undo takes the guard away. That it cannot is no reason to be stuck: the next
// recovery does it, at boot as well.
func (s *arm) Undo(_ context.Context, run *Run) error {
	s.e.freeReserve(&run.Facts)
	s.e.disarm()
	return nil
}

// disarm ends the guardian, which takes the persistent guard away.
func (e *Env) disarm() {
	if err := e.guardian.Disarm(); err != nil {
		e.note(event.Warning, err.Error()+"; what holds its unit may still be there", "jailup recover --jail "+e.Root.Path())
	}
	e.guardian = nil
}

// findUnits finds the units that run, or would run, something of the jail, and
// notes which of the servers belongs to which.
func (e *Env) findUnits(ctx context.Context) ([]string, error) {
	if !guard.Booted() {
		return nil, nil
	}
	masters := map[int]*unit{}
	pids := map[int][]string{}
	for _, u := range e.servers() {
		u.facts.Unit = ""
		if server, err := u.find(ctx, before); err == nil && server.Master != nil {
			masters[server.Master.PID] = u
			pids[server.Master.PID] = u.programs()
		}
	}
	dev, ino := e.Root.DevIno()
	found, err := guard.Units(ctx, pids, dev, ino)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Name)
		// Of another one it is not certain that its start starts the server: then the
		// recovery at boot does it.
		if u := masters[f.Runs]; u != nil && (f.Main || f.AtBoot && f.Starts(u.programs())) {
			u.facts.Unit = f.Name
		}
	}
	// A server that jailup itself started last time belongs to no unit now, and
	// still is one's at the next boot.
	for _, f := range found {
		for _, u := range e.servers() {
			if u.facts.Unit == "" && f.AtBoot && f.Starts(u.programs()) {
				u.facts.Unit = f.Name
			}
		}
	}
	return names, nil
}

// programs are the names of the server's executables.
func (u *unit) programs() []string {
	var out []string
	for _, x := range u.recipe[before].Executables {
		out = append(out, path.Base(x))
	}
	return out
}

// atInit tells whether the server is init's to start: at boot, where it belongs to
// a unit that is still there. That unit is ordered after the recovery.
func (u *unit) atInit(ctx context.Context) bool {
	return u.e.Boot && u.facts.Unit != "" && guard.Known(ctx, u.facts.Unit)
}

// InitUnits are the units of the servers that ran before the run, for init to
// start. Only in a recovery at boot there are any.
func (e *Env) InitUnits(ctx context.Context) []string {
	var out []string
	for _, u := range e.servers() {
		if u.facts.Running && u.atInit(ctx) {
			out = append(out, u.facts.Unit)
		}
	}
	return out
}

// startAtBoot starts the servers that ran before a run which is committed, and
// that belong to no unit: at boot nothing of them is left.
func (e *Env) startAtBoot(ctx context.Context) error {
	if !e.Boot {
		return nil
	}
	mine := func(u *unit) bool { return wasRunning(u) && mayStart(u) && !u.atInit(ctx) }
	if !slices.ContainsFunc(e.servers(), mine) {
		return nil
	}
	if err := e.startAll(ctx, after, mine); err != nil {
		return fmt.Errorf("cannot start the server again: %w", err)
	}
	return nil
}
