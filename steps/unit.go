package steps

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/recipes"
)

// ServerFacts are what is saved of one server of the jail.
type ServerFacts struct {
	Name    string   `json:"name"`
	Running bool     `json:"running,omitempty"` // before the run
	Argv    []string `json:"argv,omitempty"`    // how it was started then
	Env     []string `json:"env,omitempty"`     // with which variables
	// Like are the limits and the priority that it had.
	Like *service.Surroundings `json:"like,omitempty"`
	// Next is how the new one is started, where that is not Argv.
	Next []string `json:"next,omitempty"`
	// Affected: nothing of it changes but libraries; it is only restarted.
	Affected bool `json:"affected,omitempty"`
	// Taken: it was down, and somebody else answers on its address: it stays down.
	Taken bool `json:"taken,omitempty"`
	// Unit is the service of the host that it runs in, or is started by at boot.
	Unit string `json:"unit,omitempty"`
	// Outside: it runs on the host.
	Outside *Outside `json:"outside,omitempty"`
}

// side is before or after a run: where the series changes, a server's programs,
// paths and command line differ between the two.
type side int

const (
	before side = iota
	after
)

// unit is one server of the jail in a run.
type unit struct {
	e       *Env
	recipe  [2]*recipes.Recipe // by side
	control [2]service.Controller
	finding sync.Mutex // checks look at the same time; a controller takes one call at a time
	facts   ServerFacts
	conf    site // what the server is judged by, see configuration
}

func newUnit(e *Env, r *recipes.Recipe) *unit {
	u := &unit{e: e, recipe: [2]*recipes.Recipe{r, r}, facts: ServerFacts{Name: r.Name}}
	if r.IsOnHost() {
		u.facts.Outside = e.Outside
	}
	return u
}

// servers returns the units of the run in the order in which they start: what
// others need comes first.
func (e *Env) servers() []*unit {
	if e.units == nil {
		for _, r := range e.Affected {
			e.units = append(e.units, newUnit(e, r))
		}
		for _, r := range e.Recipe.Servers() {
			u := newUnit(e, r)
			if next, ok := e.next().Part(r.Name); ok {
				u.recipe[after] = next
			}
			e.units = append(e.units, u)
		}
		for _, f := range e.Servers {
			if u := e.unit(f.Name); u != nil {
				u.facts = f
			}
		}
	}
	return e.units
}

func (e *Env) unit(name string) *unit {
	for _, u := range e.servers() {
		if u.facts.Name == name {
			return u
		}
	}
	return nil
}

// reversed is the order in which servers stop.
func (e *Env) reversed() []*unit {
	out := slices.Clone(e.servers())
	slices.Reverse(out)
	return out
}

// saveServers brings what is known of the servers into the facts of the run.
func (e *Env) saveServers(f *Facts) {
	f.Servers = nil
	for _, u := range e.servers() {
		f.Servers = append(f.Servers, u.facts)
	}
}

// anyRunning tells whether one of the servers ran before the run.
func (e *Env) anyRunning() bool {
	return slices.ContainsFunc(e.servers(), func(u *unit) bool { return u.facts.Running })
}

func (u *unit) name() string { return u.facts.Name }

func (u *unit) argv(s side) []string {
	if s == after && len(u.facts.Next) > 0 {
		return u.facts.Next
	}
	if u.facts.Outside != nil && len(u.facts.Argv) == 0 {
		return u.facts.Outside.Argv
	}
	return u.facts.Argv
}

func (u *unit) spec(s side) service.Spec {
	r := u.recipe[s]
	spec := service.Spec{
		Name: r.Name, Executables: r.Executables, Start: r.Service.Start, PIDFiles: r.Service.PIDFiles,
		OneShot: r.Service.OneShot, QuitOnce: r.Service.QuitOnce, QuitChildren: r.Service.QuitChildren,
		Quit: unix.SignalNum(r.Service.Quit), Term: unix.SignalNum(r.Service.Term), Reload: unix.SignalNum(r.Service.Reload),
	}
	for _, o := range r.Service.Options {
		spec.Flags = append(spec.Flags, service.Flag{Name: o.Name, Instance: o.Instance, Default: o.Default, Aliases: o.Aliases, Repeats: o.Repeats, Free: o.Free})
	}
	if argv := u.argv(s); len(argv) > 0 {
		spec.Start, spec.Exact = argv, true
	}
	spec, _ = u.onHost(spec)
	return spec
}

// controller returns the controller of the server as it is on one side.
func (u *unit) controller(s side) service.Controller {
	if s == after && u.recipe[after] == u.recipe[before] && len(u.facts.Next) == 0 {
		s = before
	}
	if u.control[s] == nil {
		spec, where := u.onHost(u.spec(s))
		u.control[s] = service.NewProcess(u.e.Root, spec, append(where, service.ExtraExes(u.extraExes))...)
	}
	return u.control[s]
}

func (u *unit) find(ctx context.Context, s side) (service.Server, error) {
	u.finding.Lock()
	defer u.finding.Unlock()
	return u.controller(s).Find(ctx)
}

// stop ends the server. It may be called again.
func (u *unit) stop(ctx context.Context, s side, o service.StopOptions) (service.StopReport, error) {
	u.finding.Lock()
	defer u.finding.Unlock()
	u.noteOutside()
	return u.controller(s).Stop(ctx, o)
}

func (u *unit) start(ctx context.Context, s side) error {
	u.finding.Lock()
	defer u.finding.Unlock()
	c := u.controller(s)
	if server, err := c.Find(ctx); err == nil && !server.Running() {
		u.dropPIDFile()
	}
	server, err := c.Start(ctx, service.StartOptions{Argv: u.argv(s), Env: u.environment(), Like: u.facts.Like})
	if err == nil && server.Elsewhere {
		u.e.note(event.Warning, u.name()+" was started by somebody else at the same moment; that one is taken", "")
		u.e.elsewhere = true
	}
	return err
}

// learn notes how the server runs now, before anything is done to it.
func (u *unit) learn(ctx context.Context) (service.Server, error) {
	server, err := u.find(ctx, before)
	if err != nil {
		return server, err
	}
	u.facts.Running = server.Running()
	if server.Master == nil {
		return server, nil
	}
	u.facts.Argv = service.ArgvOf(*server.Master, u.spec(before))
	u.control = [2]service.Controller{u.controller(before)} // it has chosen; the other one is made anew
	u.keepEnvironment(*server.Master)
	// Who may not read them starts it with its own.
	u.facts.Like, _ = service.SurroundingsOf(*server.Master)
	return server, nil
}

// extraExes are the executables that lie in the stage while they are exchanged:
// a server that still runs one of them is the server.
func (u *unit) extraExes() []service.Inode {
	e := u.e
	if e.stage == nil || u.facts.Outside != nil {
		return nil
	}
	set, err := e.changes()
	if err != nil {
		return nil
	}
	var out []service.Inode
	for _, op := range set.Ops {
		name := op.Stage
		if name == "" || !u.isExecutable(op.Path) {
			continue
		}
		if info, err := jail.StatAt(int(e.stage.Dir().Fd()), name); err == nil && info.IsRegular() {
			out = append(out, service.Inode{Dev: info.Dev, Ino: info.Ino})
		}
	}
	return out
}

func (u *unit) isExecutable(p string) bool {
	return slices.ContainsFunc([]*recipes.Recipe{u.recipe[before], u.recipe[after]}, func(r *recipes.Recipe) bool {
		return u.e.among(r.Executables, p)
	})
}

// among tells whether a path is one of a list, as the jail resolves them.
func (e *Env) among(list []string, p string) bool {
	for _, x := range list {
		if phys, err := e.Root.Physical(x); err == nil && phys == p || x == p {
			return true
		}
	}
	return false
}

// configuration reads the server's configuration, once in a run: the new server
// is judged by what the old one was told, not by a configuration that came with
// the new one. Where the series changes the files have moved, and what the old
// one was told stands in them as well.
func (u *unit) configuration() (site, error) {
	if u.conf == nil {
		conf, err := u.site(u.e.Root, before)
		if err != nil {
			return nil, err
		}
		u.conf = conf
	}
	return u.conf, nil
}

// part is the unit's name in the names of checks: none for the jail's first
// server.
func (u *unit) part() string {
	if u.name() == u.e.Recipe.Name {
		return ""
	}
	return u.name()
}

// target tells the checks of this server what there is to look at.
func (u *unit) target(s side) (checks.Target, error) {
	e := u.e
	conf, err := u.configuration()
	if err != nil {
		return checks.Target{}, &Error{Err: fmt.Errorf("cannot read the configuration of %s: %w", u.name(), err), Hint: "test it: jailup run --jail " + e.Root.Path() + " -- " + u.recipe[before].Executables[0] + " -t"}
	}
	dev, ino := e.Root.DevIno()
	t := checks.Target{
		Part: u.part(),
		Server: func(ctx context.Context) (checks.Processes, error) {
			server, err := u.find(ctx, s)
			if err != nil {
				return checks.Processes{}, err
			}
			p := checks.Processes{All: server.PIDs()}
			if server.Master != nil {
				p.Master = server.Master.PID
			}
			return p, nil
		},
		RootDev: dev, RootIno: ino, Files: e.Root, Parents: e.Root, Excused: e.excusedModules(),
	}
	if err := u.lookOutside(&t); err != nil {
		return checks.Target{}, err
	}
	conf.fill(&t)
	if s == after && u.recipe[after] != u.recipe[before] {
		// Its logs are where the moved configuration says.
		if now, err := u.site(e.Root, after); err == nil {
			var moved checks.Target
			now.fill(&moved)
			t.ErrorLogs = moved.ErrorLogs
		}
	}
	u.askPHP(&t, s)
	return t, nil
}

// checkSet makes the checks of the servers that are chosen, out of their own
// configurations.
func (e *Env) checkSet(s side, chosen func(*unit) bool) (*checks.Set, error) {
	var sets []*checks.Set
	for i, u := range e.servers() {
		if !chosen(u) {
			continue
		}
		t, err := u.target(s)
		if err != nil {
			return nil, err
		}
		user := e.Options.Checks
		if i != len(e.servers())-1 {
			user.Checks = nil // those of the administrator are asked once
		}
		set, err := checks.Standard(t, user)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set)
	}
	slices.Reverse(sets) // the jail's own server first
	return checks.Join(sets...), nil
}

// isExecutable tells whether a path is a program of one of the servers, before
// or after the run.
func (e *Env) isExecutable(p string) bool {
	if e.among(e.Recipe.Executables, p) || e.Next != nil && e.among(e.Next.Executables, p) {
		return true
	}
	for _, part := range e.Recipe.Parts() {
		// Of any series: a rollback may lead to one that nobody has named yet.
		raw, ok := part, false
		if e.Recipes != nil {
			raw, ok = e.Recipes.Find(part.Name)
		}
		if !ok || !raw.Versioned() {
			continue
		}
		for _, x := range raw.Executables {
			if _, is := fill(x, "{series}", p); is {
				return true
			}
		}
	}
	return false
}

// next is the recipe of the jail as it shall be.
func (e *Env) next() *recipes.Recipe {
	if e.Next == nil {
		return e.Recipe
	}
	return e.Next
}

// setNext notes what the jail's recipe will be, and what its servers will be
// started with.
func (e *Env) setNext(next *recipes.Recipe, carry [][2]string) {
	e.Next = next
	for _, u := range e.servers() {
		r, ok := next.Part(u.name())
		if !ok || r == u.recipe[after] {
			continue
		}
		u.recipe[after], u.control[after] = r, nil
		if len(u.facts.Argv) > 0 {
			u.facts.Next = carried(u.facts.Argv, carry)
		}
	}
}

// errNoView says that there is no stage to show.
var errNoView = errors.New("there is no stage")

// viewNow shows the jail as it will be.
func (e *Env) viewNow() (viewFS, error) {
	if e.stage == nil || e.set == nil {
		return viewFS{}, errNoView
	}
	return viewFS{changeset.NewView(e.Root, e.stage.Dir(), e.set)}, nil
}

// jailFS shows the jail as it is.
func (e *Env) jailFS() viewFS { return viewFS{changeset.NewView(e.Root, nil, nil)} }

// confDirs are the directories of the servers' configurations.
func (e *Env) confDirs() []string {
	var out []string
	for _, r := range e.Recipe.Servers() {
		out = append(out, path.Dir(r.Configuration.Main))
	}
	return out
}
