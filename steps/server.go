package steps

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

func (e *Env) spec() service.Spec {
	r := e.Recipe
	spec := service.Spec{
		Name: r.Name, Executables: r.Executables, Start: r.Service.Start, PIDFiles: r.Service.PIDFiles,
		OneShot: r.Service.OneShot, QuitOnce: r.Service.QuitOnce,
		Quit: unix.SignalNum(r.Service.Quit), Term: unix.SignalNum(r.Service.Term), Reload: unix.SignalNum(r.Service.Reload),
	}
	for _, o := range r.Service.Options {
		spec.Flags = append(spec.Flags, service.Flag{Name: o.Name, Instance: o.Instance, Default: o.Default})
	}
	if len(e.Argv) > 0 {
		spec.Start, spec.Exact = e.Argv, true
	}
	return spec
}

// extraExes are the executables that lie in the stage while they are exchanged:
// a server that still runs one of them is the server.
func (e *Env) extraExes() []service.Inode {
	if e.stage == nil {
		return nil
	}
	set, err := e.changes()
	if err != nil {
		return nil
	}
	var out []service.Inode
	for _, op := range set.Ops {
		if op.Stage == "" || !e.isExecutable(op.Path) {
			continue
		}
		if info, err := jail.StatAt(int(e.stage.Dir().Fd()), op.Stage); err == nil && info.IsRegular() {
			out = append(out, service.Inode{Dev: info.Dev, Ino: info.Ino})
		}
	}
	return out
}

func (e *Env) isExecutable(p string) bool {
	for _, x := range e.Recipe.Executables {
		if phys, err := e.Root.Physical(x); err == nil && phys == p || x == p {
			return true
		}
	}
	return false
}

// checkSet makes the checks out of the server's own configuration.
func (e *Env) checkSet() (*checks.Set, error) {
	conf, err := e.configuration()
	if err != nil {
		return nil, &Error{Err: fmt.Errorf("cannot read the configuration of %s: %w", e.Recipe.Name, err), Hint: "test it: jailup run --jail " + e.Root.Path() + " -- " + e.Recipe.Executables[0] + " -t"}
	}
	dev, ino := e.Root.DevIno()
	t := checks.Target{
		Server: func(ctx context.Context) (checks.Processes, error) {
			// Checks look at the same time; the controller takes one call at a time.
			e.finding.Lock()
			defer e.finding.Unlock()
			s, err := e.Control().Find(ctx)
			if err != nil {
				return checks.Processes{}, err
			}
			p := checks.Processes{All: s.PIDs()}
			if s.Master != nil {
				p.Master = s.Master.PID
			}
			return p, nil
		},
		RootDev: dev, RootIno: ino, Files: e.Root, Parents: e.Root,
	}
	t.Nginx(conf)
	return checks.Standard(t, e.Options.Checks)
}

// stop ends the old server: gracefully, then harder. It is done when no process
// of it is left. Before the first signal the fact is saved that there may be one.
type stop struct{ e *Env }

func (s *stop) Name() string { return "stop" }

func (s *stop) Do(ctx context.Context, run *Run) error {
	e := s.e
	e.startProber(run)
	run.Facts.Signalled = true
	if err := run.Save(); err != nil {
		return err
	}
	e.stopped = time.Now() // with the first signal it accepts nothing more
	_, err := e.Control().Stop(ctx, service.StopOptions{Grace: run.Facts.Grace})
	sys.Point("stopped")
	return err
}

// Undo starts the old server, where it ran before, and looks whether it is well.
func (s *stop) Undo(ctx context.Context, run *Run) error {
	e := s.e
	if !run.Facts.Signalled || !run.Facts.WasRunning {
		return nil
	}
	// The old one is judged by what it was told, not by what was to come.
	e.conf, e.judge = nil, nil
	// One that was told to end may still be there, and go any moment.
	if _, err := e.Control().Stop(ctx, service.StopOptions{Grace: run.Facts.Grace}); err != nil {
		return err
	}
	return e.startAndVerify(ctx, run, true)
}

// startAndVerify starts the server and waits until it is as the baseline says.
// The soak is left out where time matters more: while going back.
func (e *Env) startAndVerify(ctx context.Context, run *Run, back bool) error {
	if err := e.startServer(ctx, run); err != nil {
		return err
	}
	policy := e.Options.Policy
	if back {
		policy.Soak = 0
	}
	return e.verifyNow(ctx, policy)
}

func (e *Env) startServer(ctx context.Context, run *Run) error {
	set, err := e.checkSet()
	if err == nil {
		e.marks = set.Mark()
	}
	_, err = e.Control().Start(ctx, service.StartOptions{Argv: run.Facts.Argv})
	if !e.stopped.IsZero() {
		e.away, e.stopped = max(e.away, time.Since(e.stopped)), time.Time{}
	}
	return err
}

// start starts the new server.
type start struct{ e *Env }

func (s *start) Name() string { return "start" }

func (s *start) Do(ctx context.Context, run *Run) error { return s.e.startServer(ctx, run) }

// Undo stops the new server, after its evidence was kept.
func (s *start) Undo(ctx context.Context, run *Run) error {
	e := s.e
	e.keepEvidence(ctx)
	if _, err := e.openStage(&run.Facts); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	_, err := e.Control().Stop(ctx, service.StopOptions{Grace: min(run.Facts.Grace, 5*time.Second)})
	return err
}

// verify looks whether the new server is as well as the old one was, and stays
// so for the soak time.
type verify struct{ e *Env }

func (s *verify) Name() string { return "verify" }

func (s *verify) Do(ctx context.Context, run *Run) error {
	e := s.e
	if err := e.verifyNow(ctx, e.Options.Policy); err != nil {
		return err
	}
	if !run.Facts.WasRunning {
		_, err := e.Control().Stop(ctx, service.StopOptions{Grace: run.Facts.Grace})
		return err
	}
	return nil
}

func (s *verify) Undo(context.Context, *Run) error { return nil }

func (e *Env) verifyNow(ctx context.Context, policy checks.Policy) error {
	set, err := e.checkSet()
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
	if err != nil && ctx.Err() == nil {
		if bad := report.With(checks.Unhealthy); len(bad) > 0 {
			return fail(ErrUnhealthy, "", "%s is not well: %s", e.Recipe.Name, bad[0].Detail)
		}
		return fail(ErrUnhealthy, "", "%s is not well: %w", e.Recipe.Name, err)
	}
	return err
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
func (e *Env) startProber(run *Run) {
	if e.prober != nil || !run.Facts.WasRunning {
		return
	}
	conf, err := e.configuration()
	if err != nil {
		return
	}
	t := checks.Target{Files: e.Root, Parents: e.Root}
	t.Nginx(conf)
	e.prober = checks.NewProber(t)
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
	server, _ := e.Control().Find(ctx)
	_ = e.saveJSON("evidence/processes.json", server.All())
	if conf, err := e.configuration(); err == nil {
		for i, log := range conf.ErrorLogs() {
			if data := e.tail(log); data != nil {
				_ = e.saveText(fmt.Sprintf("evidence/error-%d.log", i), data)
			}
		}
	}
	if pc, ok := e.Control().(*service.ProcessController); ok {
		if lines := pc.Output(); len(lines) > 0 {
			_ = e.saveJSON("evidence/start-output.json", lines)
		}
	}
}

const tailSize = 64 << 10

func (e *Env) tail(p string) []byte {
	f, err := e.Root.OpenFile(p)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	off := max(0, st.Size()-tailSize)
	buf := make([]byte, min(tailSize, st.Size()))
	n, _ := f.ReadAt(buf, off)
	return buf[:n]
}

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
