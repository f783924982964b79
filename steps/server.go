package steps

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// stop ends the old servers, the web server before what it needs: gracefully, then
// harder. It is done when no process of them is left. Before the first signal the
// fact is saved that there may be one.
type stop struct{ e *Env }

func (s *stop) Name() string { return "stop" }

func (s *stop) Do(ctx context.Context, run *Run) error {
	e := s.e
	e.startProber()
	run.Facts.Signalled = true
	e.saveServers(&run.Facts)
	if err := run.Save(); err != nil {
		run.Facts.Signalled = false // nobody was, and nobody is to be restarted for it
		return err
	}
	e.stopped = time.Now() // with the first signal it accepts nothing more
	err := e.stopAll(ctx, before, run.Facts.Grace, everyone)
	sys.Point("stopped")
	return err
}

// stopAll ends the servers that are chosen, in the order opposite to that in which
// they start. One that does not end keeps no other from being stopped.
func (e *Env) stopAll(ctx context.Context, s side, grace time.Duration, chosen func(*unit) bool) error {
	var errs []error
	for _, u := range e.reversed() {
		if !chosen(u) {
			continue
		}
		_, err := u.stop(ctx, s, service.StopOptions{Grace: grace})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Undo starts the old servers, those that ran before, and looks whether they are
// well. The soak is left out: time matters more.
func (s *stop) Undo(ctx context.Context, run *Run) error {
	e := s.e
	if !run.Facts.Signalled || !e.anyRunning() {
		return nil
	}
	e.freeReserve(&run.Facts)
	// The old ones are judged by what they were told, not by what was to come.
	e.forget()
	wasRunning := func(u *unit) bool { return wasRunning(u) && !u.atInit(ctx) }
	// One that was told to end may still be there, and go any moment.
	// One that does not end, or does not start, keeps no other down.
	stopped := e.stopAll(ctx, before, run.Facts.Grace, wasRunning)
	if err := errors.Join(stopped, e.startAll(ctx, before, wasRunning)); err != nil {
		return err
	}
	policy := e.Options.Policy
	// The tree is the old one and so is the server. That little can be seen of it
	// is told, and is nothing that a person could undo.
	policy.Soak, policy.AcceptInconclusive = 0, true
	verdict := e.verdict
	err := e.verifyNow(ctx, policy, before, wasRunning)
	e.verdict = verdict // it is told of the server that the run was for
	if errors.Is(err, ErrUnhealthy) && e.onlyLogged {
		// It runs, holds its addresses and answers as before: nothing that a person
		// would have to be woken for.
		e.note(event.Warning, err.Error(), "")
		return nil
	}
	return err
}

// forget drops what is known of the configurations: they are read again, from the
// jail as it is.
func (e *Env) forget() {
	for _, u := range e.servers() {
		u.conf = nil
	}
	e.judge = nil
}

// startAll starts the servers that are chosen, those that others need first. One
// that does not start keeps no other down: the sites that can answer do.
func (e *Env) startAll(ctx context.Context, s side, chosen func(*unit) bool) error {
	if set, err := e.checkSet(s, chosen); err == nil {
		e.marks = set.Mark()
	}
	e.elsewhere = false
	var errs []error
	for _, u := range e.servers() {
		if !chosen(u) {
			continue
		}
		err := u.ready(ctx)
		if err == nil {
			err = u.start(ctx, s)
		}
		errs = append(errs, err)
	}
	if e.elsewhere {
		// The start that came second has complained in the log, and is no fault.
		if set, err := e.checkSet(s, chosen); err == nil {
			e.marks = set.Mark()
		}
	}
	if !e.stopped.IsZero() {
		e.away, e.stopped = max(e.away, time.Since(e.stopped)), time.Time{}
	}
	return errors.Join(errs...)
}

// Which servers of a run are meant.
func everyone(*unit) bool     { return true }
func wasRunning(u *unit) bool { return u.facts.Running }

// mayStart leaves out one that is down and must stay so: somebody else has its
// address.
func mayStart(u *unit) bool { return !u.facts.Taken }

// ready waits until what the server needs answers: the sockets to which its
// configuration hands requests for PHP. It does not wait for long: a server
// starts without them as well, and the checks tell what is missing.
func (u *unit) ready(ctx context.Context) error {
	conf, err := u.configuration()
	if err != nil {
		return nil // the checks tell
	}
	for _, p := range conf.pools() {
		if !u.e.ownPool(p.Address) {
			continue
		}
		for range 100 {
			if checks.Answers(ctx, u.e.Root, p.Network, p.Address) {
				break
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// ownPool tells whether one of the servers of this run listens on an address.
func (e *Env) ownPool(address string) bool {
	for _, u := range e.servers() {
		if conf, err := u.configuration(); err == nil {
			if fpm, ok := conf.(fpmSite); ok && slices.ContainsFunc(fpm.Pools, func(p phpconf.Pool) bool { return p.Address == address }) {
				return true
			}
		}
	}
	return false
}

// start starts the new servers.
type start struct{ e *Env }

func (s *start) Name() string { return "start" }

func (s *start) Do(ctx context.Context, run *Run) error {
	s.e.halveReserve(&run.Facts)
	// Those that were down are started for the checks as well, and stopped again.
	return s.e.startAll(ctx, after, mayStart)
}

// Undo stops the new server, after its evidence was kept.
func (s *start) Undo(ctx context.Context, run *Run) error {
	e := s.e
	e.keepEvidence(ctx)
	if _, err := e.openStage(&run.Facts); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return e.stopAll(ctx, after, min(run.Facts.Grace, 5*time.Second), mayStart)
}

// verify looks whether the new server is as well as the old one was, and stays
// so for the soak time.
type verify struct{ e *Env }

func (s *verify) Name() string { return "verify" }

func (s *verify) Do(ctx context.Context, run *Run) error {
	e := s.e
	if err := e.verifyNow(ctx, e.Options.Policy, after, mayStart); err != nil {
		return err
	}
	// The commit is written next, and a full btrfs has no room even for that.
	e.freeReserve(&run.Facts)
	return e.stopAll(ctx, after, run.Facts.Grace, func(u *unit) bool { return !u.facts.Running && mayStart(u) })
}

func (s *verify) Undo(context.Context, *Run) error { return nil }

func (e *Env) verifyNow(ctx context.Context, policy checks.Policy, s side, chosen func(*unit) bool) error {
	if !slices.ContainsFunc(e.servers(), chosen) {
		return nil // nothing was started
	}
	set, err := e.checkSet(s, chosen)
	if err != nil {
		return err
	}
	if e.marks != nil {
		set.Since(e.marks)
	}
	before := e.before()
	if e.judge != nil {
		before = *e.judge
	}
	report, err := checks.Verify(ctx, set.Checks(), before, policy, func(r checks.Result) {
		e.Events.Check(r.Name, checkStatus(r.Verdict), r.Detail)
	})
	if serr := e.saveJSON("checks.json", report); serr != nil {
		e.note(event.Warning, serr.Error(), "")
	}
	bad := report.With(checks.Unhealthy)
	e.onlyLogged = len(bad) > 0 && !slices.ContainsFunc(bad, func(r checks.Result) bool { return r.Observation.Kind != checks.KindLog })
	v, why := report.Why()
	switch {
	case ctx.Err() != nil:
	case err != nil && v != checks.Inconclusive:
		e.verdict = checks.Unhealthy
	default:
		e.verdict = v
	}
	if v == checks.Inconclusive && err == nil {
		e.note(event.Warning, "inconclusive: whether "+e.Recipe.Name+" is well could not be seen: "+why, "")
	}
	if errors.Is(err, checks.ErrInconclusive) && ctx.Err() == nil {
		return e.inconclusive(why)
	}
	if err != nil && ctx.Err() == nil {
		if len(bad) > 0 {
			return fail(ErrUnhealthy, "", "%s is not well: %s", e.Recipe.Name, bad[0].Detail)
		}
		return fail(ErrUnhealthy, "", "%s is not well: %w", e.Recipe.Name, err)
	}
	return err
}

// Verdict is that of the last checks of this run: healthy, unhealthy or
// inconclusive; "" where none were made.
func (e *Env) Verdict() string { return string(e.verdict) }

// inconclusive is the failure of a server of which too little could be seen.
func (e *Env) inconclusive(why string) error {
	return &Error{
		Kind: ErrUnhealthy,
		Err:  fmt.Errorf("%w: whether %s is well could not be seen: %s", checks.ErrInconclusive, e.Recipe.Name, event.Clean(why, 300)),
		Hint: "name a page to ask for under checks: in the configuration, or take it unseen with --accept-inconclusive",
	}
}

func checkStatus(v checks.Verdict) string {
	switch v {
	case checks.Healthy:
		return event.CheckOK
	case checks.BrokenBefore:
		return event.CheckBefore
	case checks.Inconclusive:
		return event.CheckSkipped
	}
	return event.CheckFailed
}

// startProber begins to measure the downtime, as long as the server still runs.
func (e *Env) startProber() {
	if e.prober != nil || !e.anyRunning() {
		return
	}
	all := checks.Target{Files: e.Root, Parents: e.Root}
	for _, u := range e.servers() {
		if conf, err := u.configuration(); err == nil && u.facts.Running {
			var t checks.Target
			conf.fill(&t)
			if u.name() == e.Recipe.Name || len(all.Listens) == 0 {
				// What visitors see: where there is a web server, not what is behind it.
				all.Listens, all.VHosts = t.Listens, t.VHosts
			}
		}
	}
	e.prober = checks.NewProber(all)
	e.prober.Start()
}

// Downtime ends the measuring and returns the longest time without an answer, in
// milliseconds; nil where nothing listened.
func (e *Env) Downtime() *int64 {
	if e.prober == nil {
		return nil
	}
	e.prober.Stop()
	gap, ok := e.prober.Gap()
	if !ok {
		return nil
	}
	// A stop and start between two probes is seen by none of them.
	ms := max(gap, e.away).Milliseconds()
	return &ms
}

// keepEvidence saves what tells why the new server was not well, before anything
// is undone.
func (e *Env) keepEvidence(ctx context.Context) {
	if e.evidence != "" {
		return
	}
	dir := e.file("evidence")
	if err := sys.MkdirAll(dir, 0o700); err != nil {
		e.note(event.Warning, err.Error(), "")
		return
	}
	e.evidence = dir
	for _, u := range e.servers() {
		dir := "evidence/"
		if u.part() != "" {
			dir += u.part() + "-"
		}
		server, _ := u.find(ctx, after)
		_ = e.saveJSON(dir+"processes.json", server.All())
		if conf, err := u.configuration(); err == nil {
			for i, log := range conf.logs() {
				if data := u.tail(log); data != nil {
					_ = e.saveText(fmt.Sprintf("%serror-%d.log", dir, i), data)
				}
			}
		}
		if pc, ok := u.controller(after).(*service.ProcessController); ok {
			if lines := pc.Output(); len(lines) > 0 {
				_ = e.saveJSON(dir+"start-output.json", lines)
			}
		}
	}
}

const tailSize = 64 << 10

func (e *Env) saveText(name string, data []byte) error {
	return sys.WriteFileAtomic(filepath.Join(e.RunDir(), name), data, 0o600)
}

// State tells from the disk where the jail stands.
func (e *Env) State(f *Facts) (changeset.Verdict, error) {
	w, err := e.worker(f)
	if err != nil {
		return changeset.Verdict{}, err
	}
	defer w.Close()
	return w.Inspect()
}
