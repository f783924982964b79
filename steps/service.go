package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/service"
)

// The results of runs that control a server, beside those of package event.
const (
	Started   = "started"
	Stopped   = "stopped"
	Restarted = "restarted"
)

// control is one start, stop or restart. It is no pipeline: nothing in the jail
// changes, so there is nothing to take back.
type control struct {
	e   *Env
	u   *unit
	run *Run
	out Outcome
}

// told does one step and tells of it.
func (c *control) told(name string, do func() error) error {
	c.e.Events.StepStart(name)
	began := time.Now()
	if err := do(); err != nil {
		c.out.Step = name
		return err
	}
	c.e.Events.StepDone(name, time.Since(began), "")
	return nil
}

// Start starts the server and waits until it passes its checks, without a soak.
// One that runs already is left alone: ErrCurrent. One that does not pass them is
// left as it is, with the evidence kept; where ctx was cancelled it is stopped
// again.
func Start(ctx context.Context, e *Env, f Facts) Outcome {
	return e.controlled(ctx, f, Started, (*control).start)
}

// Stop ends the server as an upgrade does. One that is down is ErrCurrent.
func Stop(ctx context.Context, e *Env, f Facts) Outcome {
	return e.controlled(ctx, f, Stopped, (*control).stop)
}

// Restart stops and starts the server, with the command line that it was started
// with, and waits until it is as well as it was before. The configuration is
// tested first, in a sandbox: what would not start again is not stopped. A
// server that is down is started.
func Restart(ctx context.Context, e *Env, f Facts) Outcome {
	return e.controlled(ctx, f, Restarted, (*control).restart)
}

func (e *Env) controlled(ctx context.Context, f Facts, result string, do func(*control, context.Context, service.Server) error) Outcome {
	c := &control{e: e, u: e.servers()[len(e.servers())-1], run: pipeline.NewRun(e.Run, f, nowhere{}, nil)}
	err := CheckJail(e.Root, e.Recipe)
	if err == nil {
		var server service.Server
		if server, err = c.u.learn(ctx); err == nil {
			err = do(c, ctx, server)
		}
	}
	c.out.Facts, c.out.Err, c.out.Evidence = c.run.Facts, err, e.evidence
	c.out.Verdict = e.Verdict()
	switch {
	case err == nil:
		c.out.Result = result
	case errors.Is(err, ErrCurrent):
		c.out.Result = event.Current
	case errors.Is(err, ErrStuck):
		c.out.Result = event.Stuck
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), ErrInterrupted):
		c.out.Result = event.Interrupted
	default:
		c.out.Result = event.Failed
	}
	return c.out
}

func (c *control) start(ctx context.Context, server service.Server) error {
	if server.Master != nil {
		return fail(ErrCurrent, "", "%s runs already: process %d", c.e.Recipe.Name, server.Master.PID)
	}
	if err := c.bringUp(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), ErrInterrupted) {
			_, serr := c.u.stop(context.WithoutCancel(ctx), before, service.StopOptions{Grace: c.run.Facts.Grace})
			return errors.Join(err, serr)
		}
		return c.hinted(nil, err)
	}
	return nil
}

// bringUp starts the server and waits until it is well. Why it is not is kept.
func (c *control) bringUp(ctx context.Context) error {
	e := c.e
	err := c.told("start", func() error { return e.startAll(ctx, before, everyone) })
	if err == nil {
		policy := e.Options.Policy
		// What answers may have been changed on purpose, and there is nothing to go
		// back to: it is told.
		policy.Soak, policy.AcceptInconclusive = 0, true
		err = c.told("verify", func() error { return e.verifyNow(ctx, policy, before, everyone) })
	}
	if err != nil {
		e.keepEvidence(context.WithoutCancel(ctx))
	}
	return err
}

// hinted says what to look at and what to type when a server is not well.
func (c *control) hinted(kind, err error) error {
	e := c.e
	hint := "look at " + e.file("evidence") + ", mend the cause, then: jailup restart " + e.Recipe.Name + " --jail " + e.Root.Path()
	return &Error{Kind: kind, Err: err, Hint: hint}
}

func (c *control) stop(ctx context.Context, server service.Server) error {
	if !server.Running() {
		return fail(ErrCurrent, "", "%s is down already", c.e.Recipe.Name)
	}
	return c.bringDown(ctx)
}

// bringDown is not cut short by a signal: half a stop is worse than a whole one,
// and each of its levels has a limit.
func (c *control) bringDown(ctx context.Context) error {
	e := c.e
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return c.told("stop", func() error {
		rep, err := c.u.stop(context.WithoutCancel(ctx), before, service.StopOptions{Grace: c.run.Facts.Grace})
		if err != nil {
			e.keepEvidence(context.WithoutCancel(ctx))
			return &Error{Kind: ErrStuck, Err: err, Hint: "look at what still runs, then: jailup stop " + e.Recipe.Name + " --jail " + e.Root.Path()}
		}
		if rep.Level > service.Graceful {
			e.note(event.Warning, fmt.Sprintf("%s did not end gracefully: it was %s", e.Recipe.Name,
				map[service.Level]string{service.Harder: "ended at once", service.Killed: "killed"}[rep.Level]), "")
		}
		if n := len(rep.Survived); n > 0 {
			e.note(event.Info, fmt.Sprintf("%d other processes from the same executable are left alone", n), "")
		}
		return nil
	})
}

func (c *control) restart(ctx context.Context, server service.Server) error {
	e := c.e
	if !server.Running() {
		e.note(event.Info, e.Recipe.Name+" is down; it is started", "")
		return c.start(ctx, server)
	}
	c.u.tellLost(server)
	if err := c.told("test", func() error { return c.u.testConfiguration(ctx) }); err != nil {
		return err
	}
	set, err := e.checkSet(before, everyone)
	if err != nil {
		return err
	}
	report := checks.BaselineEvery(ctx, set.Checks(), e.Options.Looks)
	e.baseline = &report
	e.judge = &checks.Report{} // it may be restarted because its ports or sites were changed
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.startProber()
	defer func() { c.out.Downtime = e.Downtime() }()
	if err := c.bringDown(ctx); err != nil {
		return err
	}
	// From here on it only goes forward: nobody wants a server left down.
	if err := c.bringUp(context.WithoutCancel(ctx)); err != nil {
		return c.hinted(ErrStuck, err)
	}
	return nil
}

// testConfiguration runs the server's own test of its configuration on a view of
// the jail.
func (u *unit) testConfiguration(ctx context.Context) error {
	if u.facts.Outside != nil {
		return u.testOnHost(ctx)
	}
	e, test := u.e, u.testArgv(before)
	if !e.Options.Rehearse || len(test) == 0 {
		return nil
	}
	res, err := e.Root.Run(ctx, jail.Box{Argv: u.loudly(test), Env: u.environment(), Changes: u.ownLogs()})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, jail.ErrNoSandbox):
		e.note(event.Warning, "the configuration is not tested: "+err.Error(), "")
		return nil
	case err != nil:
		return err
	case len(u.failures(res)) == 0:
		return nil
	}
	if err := e.saveText("rehearsal.txt", res.Output); err != nil {
		return err
	}
	return fail(nil, "mend the configuration; to restart all the same: --rehearse=false",
		"cannot restart %s: it does not pass %s, and runs on as it is: %s", e.Recipe.Name, strings.Join(test, " "), ending(res))
}
