package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/service"
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

	LastRun     *RunRecord      `json:"last_run"`
	Interrupted *InterruptedRun `json:"interrupted"`
	Busy        *journal.Holder `json:"busy"` // the run that is under way
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
	if err := CheckJail(e.Root, e.Recipe.Executables); err != nil {
		s.problem(err)
	}
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
		Workers: []int{}, Listens: []string{}, Problems: []string{}}
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

// look finds the server and takes one look at its processes and sockets.
func (s *JailStatus) look(ctx context.Context, e *Env) {
	server, err := e.Control().Find(ctx)
	switch {
	case err != nil:
		s.State = Unknown
		s.problem(err)
		return
	case !server.Running():
		s.State = Down
		if s.Busy == nil {
			s.Problems = append(s.Problems, e.Recipe.Name+" is down")
		}
		return
	}
	s.State = Running
	s.family(server)
	// The user's own checks are for `check`; these two cost next to nothing.
	bare := &Env{Root: e.Root, Recipe: e.Recipe, Events: e.Events, control: e.control}
	set, err := bare.checkSet()
	if err != nil {
		s.problem(err)
		return
	}
	for _, c := range set.Checks() {
		if c.Name() != string(checks.KindProcess) && c.Name() != string(checks.KindPort) {
			continue
		}
		look, cancel := context.WithTimeout(ctx, lookTime)
		o := c.Run(look)
		cancel()
		if o.Kind == checks.KindPort {
			s.Listens = append(s.Listens, strings.Fields(o.Values["sockets"])...)
		}
		if !o.OK && !o.Inconclusive && s.Busy == nil {
			s.problem(errors.New(c.Name() + ": " + o.Detail))
		}
	}
}

func (s *JailStatus) family(server service.Server) {
	if server.Master != nil {
		s.Master = server.Master.PID
	}
	for _, p := range server.Others {
		s.Workers = append(s.Workers, p.PID)
	}
}
