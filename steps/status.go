package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/recipes"
)

// The states of a jail's server.
const (
	Running = "running"
	Down    = "down"
	Missing = "missing" // the jail's folder is not there
	Unknown = "unknown" // it cannot be told; a problem says why
)

// JailStatus is how one jail is now.
type JailStatus struct {
	Jail     string            `json:"jail"`
	ID       string            `json:"id"` // "" where jailup has done nothing to it yet
	Server   string            `json:"server"`
	Version  string            `json:"version"` // of the server's package, "" where it is not known
	Packages map[string]string `json:"packages"`
	Modules  []string          `json:"modules"`
	State    string            `json:"state"`
	Master   int               `json:"master_pid"` // 0 where there is none
	Workers  []int             `json:"worker_pids"`
	Listens  []string          `json:"listens"` // the sockets that it really has
	Healthy  bool              `json:"healthy"`
	Problems []string          `json:"problems"`

	// Outside is the program of a server that runs on the host and puts only its
	// children into the jail; "" for one in the jail.
	Outside string `json:"outside,omitempty"`

	// Servers are all servers of the jail, that of Server included.
	Servers []ServerStatus `json:"servers"`

	LastRun     *RunRecord      `json:"last_run"`
	Interrupted *InterruptedRun `json:"interrupted"`
	Busy        *journal.Holder `json:"busy"` // the run that is under way
}

// ServerStatus is how one server of a jail is now.
type ServerStatus struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	State   string   `json:"state"`
	Master  int      `json:"master_pid"`
	Workers []int    `json:"worker_pids"`
	Listens []string `json:"listens"`
}

// InterruptedRun is a run that was cut off and that nobody has ended.
type InterruptedRun struct {
	Run     string    `json:"run"`
	Verb    string    `json:"verb"`
	Step    string    `json:"step"`
	Time    time.Time `json:"time"`
	Command string    `json:"command"` // that ends it
}

// Status looks at one jail; nothing is locked or written. lockDir holds the
// locks. e.StateDir and e.JailID are empty for a jail that jailup does not know.
// While a run is under way, what it changes is no problem.
func Status(ctx context.Context, e *Env, lockDir string) *JailStatus {
	s := newStatus(e.Root.Path(), e.JailID, e.Recipe.Name)
	if e.JailID != "" {
		s.past(e.StateDir, e.Recipe.Server(), lockDir)
	}
	if err := CheckJail(e.Root, e.Recipe); err != nil {
		s.problem(err)
	}
	s.outside(ctx, e)
	s.look(ctx, e)
	s.Healthy = s.State == Running && len(s.Problems) == 0
	return s
}

// Past is the status of a jail that is not there: what is remembered of it. The
// recipe is nil where that is not known.
func Past(dir, stateDir, id string, recipe *recipes.Recipe, lockDir string) *JailStatus {
	s := newStatus(dir, id, "")
	s.State = Missing
	server := ""
	if recipe != nil {
		s.Server, server = recipe.Name, recipe.Server()
	}
	s.past(stateDir, server, lockDir)
	s.Problems = append(s.Problems, "the jail's folder is not there")
	return s
}

// newStatus has no nil lists: in JSON they are [].
func newStatus(dir, id, server string) *JailStatus {
	return &JailStatus{Jail: dir, ID: id, Server: server, Packages: map[string]string{}, Modules: []string{},
		Workers: []int{}, Listens: []string{}, Problems: []string{}, Servers: []ServerStatus{}}
}

func (s *JailStatus) problem(err error) {
	s.Problems = append(s.Problems, event.Clean(err.Error(), 500))
}

// past reads what jailup knows from earlier runs.
func (s *JailStatus) past(stateDir, server, lockDir string) {
	m, err := manifest.Load(stateDir)
	if err != nil {
		s.problem(err)
	}
	if m != nil && m.Packages != nil {
		s.Version, s.Packages = m.Packages[server], m.Holds()
	}
	// The lock is looked at before the journal and after it: a run that ends
	// between must not look like one that was cut off.
	s.Busy = Busy(lockDir, s.ID)
	runs, err := Runs(stateDir, s.Busy)
	if err != nil {
		s.problem(err)
	}
	if len(runs) > 0 {
		s.LastRun = &runs[len(runs)-1]
	}
	rec, open, err := Interrupted(stateDir)
	switch {
	case err != nil:
		s.problem(fmt.Errorf("cannot tell whether a run was cut off: %w", err))
	case open && s.Busy == nil:
		if s.Busy = Busy(lockDir, s.ID); s.Busy != nil {
			return
		}
		if rec, open, err = Interrupted(stateDir); err != nil || !open {
			return
		}
		command := "jailup recover --jail " + s.Jail
		s.Interrupted = &InterruptedRun{Run: rec.Run, Verb: rec.Plan, Step: rec.Step, Time: rec.Time, Command: command}
		s.Problems = append(s.Problems, fmt.Sprintf("run %s (%s) was cut off in step %s; end it with: %s",
			event.Clean(rec.Run, 100), event.Clean(rec.Plan, 40), event.Clean(rec.Step, 40), command))
	}
}

// lookTime bounds each look of a status.
const lookTime = 5 * time.Second

// look finds the servers and takes one look at the processes and sockets of each.
func (s *JailStatus) look(ctx context.Context, e *Env) {
	for _, u := range e.reversed() {
		one := s.lookAt(ctx, u)
		one.Version = s.Packages[u.recipe[before].Server()]
		if u.facts.Outside != nil {
			one.Version = s.Version
		}
		s.Servers = append(s.Servers, one)
		if u.name() == e.Recipe.Name {
			s.State, s.Master, s.Workers, s.Listens = one.State, one.Master, one.Workers, one.Listens
		}
	}
	s.Modules = append(s.Modules, e.moduleNames()...)
}

// moduleNames are the modules that the configurations load.
func (e *Env) moduleNames() []string {
	var out []string
	for _, u := range e.servers() {
		if conf, err := u.configuration(); err == nil && u.recipe[before].Modules.ABI == "nginx" {
			for _, m := range conf.modules() {
				out = append(out, event.Clean(m.Name, 80))
			}
		}
	}
	for _, part := range e.Recipe.Parts() {
		names, err := e.loadedModules(part)
		if err != nil {
			continue
		}
		for _, n := range names {
			out = append(out, event.Clean(n, 80))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *JailStatus) lookAt(ctx context.Context, u *unit) ServerStatus {
	one := ServerStatus{Name: u.name(), Workers: []int{}, Listens: []string{}}
	server, err := u.learn(ctx)
	switch {
	case err != nil:
		one.State = Unknown
		s.problem(err)
		return one
	case !server.Running():
		one.State = Down
		if s.Busy == nil {
			s.Problems = append(s.Problems, u.name()+" is down")
		}
		return one
	}
	one.State = Running
	if server.Master != nil {
		one.Master = server.Master.PID
	}
	for _, p := range server.Others {
		one.Workers = append(one.Workers, p.PID)
	}
	// The user's own checks are for `check`; these two cost next to nothing.
	t, err := u.target(before)
	if err != nil {
		s.problem(err)
		return one
	}
	t.Runtime, t.Pools = nil, nil
	set, err := checks.Standard(t, checks.Config{})
	if err != nil {
		s.problem(err)
		return one
	}
	for _, c := range set.Checks() {
		kind, _, _ := strings.Cut(c.Name(), " ")
		if kind != string(checks.KindProcess) && kind != string(checks.KindPort) {
			continue
		}
		look, cancel := context.WithTimeout(ctx, lookTime)
		o := c.Run(look)
		cancel()
		if o.Kind == checks.KindPort {
			one.Listens = append(one.Listens, strings.Fields(o.Values["sockets"])...)
		}
		if !o.OK && !o.Inconclusive && s.Busy == nil {
			s.problem(errors.New(c.Name() + ": " + o.Detail))
		}
	}
	return one
}
