package steps

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/recipes"
)

// site reads the server's configuration out of a tree; that of one on the host
// from the host, whatever the tree is.
func (u *unit) site(files confFiles, s side) (site, error) {
	o := u.facts.Outside
	if o == nil {
		return readSite(files, u.recipe[s], u.argv(s), u.environment())
	}
	host, err := u.e.hostTree()
	if err != nil {
		return nil, err
	}
	return o.site(host, u.argv(s), u.environment())
}

// hostTree is the host's tree, opened once in a run.
func (e *Env) hostTree() (*jail.Root, error) {
	e.opening.Lock()
	defer e.opening.Unlock()
	if e.host == nil {
		host, err := openHost()
		if err != nil {
			return nil, err
		}
		e.host = host
	}
	return e.host, nil
}

// onHost changes a spec to that of a server on the host.
func (u *unit) onHost(spec service.Spec) (service.Spec, []service.Option) {
	o := u.facts.Outside
	if o == nil {
		return spec, nil
	}
	spec.Executables, spec.PIDFiles = []string{o.Exe}, o.PIDFiles
	return spec, []service.Option{service.Outside()}
}

// lookOutside tells the checks where a server on the host is.
func (u *unit) lookOutside(t *checks.Target) error {
	if u.facts.Outside == nil {
		return nil
	}
	host, err := u.e.hostTree()
	if err != nil {
		return err
	}
	t.MasterOutside, t.Outside = true, host
	return nil
}

// noteOutside remembers a server on the host, which is about to be stopped.
func (u *unit) noteOutside() {
	o := u.facts.Outside
	if o == nil || u.e.StateDir == "" {
		return
	}
	now := *o
	now.Argv, now.Env = u.argv(before), u.environment()
	if err := now.note(u.e.StateDir); err != nil {
		u.e.note(event.Warning, fmt.Sprintf("how %s is started is not remembered: %v", u.name(), err), "")
	}
}

// tail returns the end of a log of this server.
func (u *unit) tail(p string) []byte {
	if u.facts.Outside == nil {
		return tailOf(u.e.Root, p)
	}
	host, err := u.e.hostTree()
	if err != nil {
		return nil
	}
	return tailOf(host, p)
}

// testOnHost has the host's program test its configuration. It is the one that
// runs now, and nothing of it changes: the test tells whether it will start again.
func (u *unit) testOnHost(ctx context.Context) error {
	o := u.facts.Outside
	if o == nil || !u.e.Options.Rehearse {
		return nil
	}
	args := testArgs(u.recipe[before], u.argv(before))
	now := *o
	now.Env = u.environment()
	out, err := now.ask(ctx, args...)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		if serr := u.e.saveText("rehearsal.txt", out); serr != nil {
			return serr
		}
		return fail(nil, "mend the configuration; to go on all the same: --rehearse=false",
			"cannot stop %s: it would not start again: it does not pass %s: %s", u.name(),
			strings.Join(append([]string{o.Exe}, args...), " "), strings.Join(event.CleanLines(string(out), 5, 200), "; "))
	}
	return err
}

// testArgs are the options by which a server was started that its test needs too:
// those that choose or change the configuration.
func testArgs(r *recipes.Recipe, argv []string) []string {
	var out []string
	for i := 1; i < len(argv); i++ {
		known := slices.ContainsFunc(r.Service.Options, func(o recipes.Option) bool { return o.Name == argv[i] })
		switch {
		case known && i+1 < len(argv):
			if argv[i] != "-k" && argv[i] != "-E" && argv[i] != "-e" {
				out = append(out, argv[i], argv[i+1])
			}
			i++
		case strings.HasPrefix(argv[i], "-D"), strings.HasPrefix(argv[i], "-f"), strings.HasPrefix(argv[i], "-d"):
			out = append(out, argv[i])
		}
	}
	return append(out, "-t")
}

// inJail is a recipe for what lies in the jail alone: a program of the host is no
// file of it.
func inJail(r *recipes.Recipe) *recipes.Recipe {
	if !r.IsOnHost() {
		return r
	}
	out := *r
	out.Executables = slices.DeleteFunc(slices.Clone(r.Executables), func(x string) bool { return x == r.Outside.Program })
	return &out
}

// current says that there is nothing to do.
func (e *Env) current(what string) string {
	if u := e.outside(); u != nil {
		return fmt.Sprintf("what jail %s holds for %s is what the sources offer", e.Root.Path(), u.name())
	}
	return what
}

// tailOf returns the end of a log.
func tailOf(root *jail.Root, p string) []byte {
	f, err := root.OpenFile(p)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	buf := make([]byte, min(tailSize, st.Size()))
	n, _ := f.ReadAt(buf, max(0, st.Size()-tailSize))
	return buf[:n]
}

// outside tells of a server on the host: its version is no package's of the jail.
func (s *JailStatus) outside(ctx context.Context, e *Env) {
	u := e.outside()
	if u == nil {
		return
	}
	s.Outside, s.Version = u.facts.Outside.Exe, u.hostVersion()
	for _, m := range e.fitNow(ctx) {
		s.Problems = append(s.Problems, event.Clean(m, 500))
	}
}
