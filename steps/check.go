package steps

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
)

// Check looks at the server now and judges it by itself, without a baseline. The
// error is ErrUnhealthy where it is not well or down, or where too little could be
// seen and that is not accepted (checks.ErrInconclusive as well); any other error means that
// it could not be looked at.
func Check(ctx context.Context, e *Env) (checks.Report, error) {
	if err := CheckJail(e.Root, e.Recipe); err != nil {
		return checks.Report{}, err
	}
	set, err := e.checkSet(before, everyone)
	if err != nil {
		return checks.Report{}, err
	}
	for _, n := range set.Notes() {
		e.note(event.Info, n, "")
	}
	for _, n := range e.fitNow(ctx) {
		e.note(event.Warning, n, "upgrade the jail, or the host, whichever is behind")
	}
	report := checks.Baseline(ctx, set.Checks())
	for i, r := range report.Results {
		// A site that answers 502 and the like is not well, whatever it did before.
		if status := r.Observation.Values["status"]; r.Observation.Kind == checks.KindHTTP && !r.Observation.OK && len(status) == 3 && status[0] == '5' {
			report.Results[i].Verdict, report.Results[i].Detail = checks.Unhealthy, r.Observation.Detail
		}
	}
	if ctx.Err() != nil {
		return report, fmt.Errorf("cannot check %s: %w", e.Recipe.Name, context.Cause(ctx))
	}
	for _, r := range report.Results {
		e.Events.Check(r.Name, checkStatus(r.Verdict), r.Detail)
	}
	e.findings()
	e.dangers(ctx)
	return report, e.judged(report)
}

func (e *Env) judged(report checks.Report) error {
	jail := " --jail " + e.Root.Path()
	var why string
	e.verdict, why = report.Why()
	for _, u := range e.servers() {
		// The report says of a server alone that it is down, and of one of several.
		r, ok := report.Get(strings.TrimSpace(string(checks.KindProcess) + " " + u.part()))
		if ok && r.Observation.Absent || !ok && report.Down && len(e.servers()) == 1 {
			e.verdict = checks.Unhealthy
			return fail(ErrUnhealthy, "start it with: jailup start "+u.name()+jail, "%s is down", u.name())
		}
	}
	switch {
	case e.verdict == checks.Healthy:
		return nil
	case e.verdict == checks.Inconclusive && e.Options.Policy.AcceptInconclusive:
		e.note(event.Warning, "inconclusive: whether "+e.Recipe.Name+" is well could not be seen: "+why, "")
		return nil
	case e.verdict == checks.Inconclusive:
		return e.inconclusive(why)
	}
	var what []string
	for _, r := range report.With(checks.Unhealthy) {
		what = append(what, r.Name+": "+r.Detail)
	}
	more := ""
	if len(what) > 3 {
		more = fmt.Sprintf("; and %d more", len(what)-3)
		what = what[:3]
	}
	hint := "see its log, and what was done to it: jailup history" + jail
	if os.Geteuid() != 0 {
		hint = "only root can look into its processes: use sudo"
	}
	return fail(ErrUnhealthy, hint,
		"%s is not well: %s%s", e.Recipe.Name, strings.Join(what, "; "), more)
}
