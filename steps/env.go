// Package steps holds what jailup does to a jail, one file a step. upgrade.go is
// the visible table of the upgrade's steps, rollback.go another.
package steps

import (
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/guard"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/recipes"
)

// Run and Step are the engine's, with this package's facts.
type (
	Run  = pipeline.Run[Facts]
	Step = pipeline.Step[Facts]
	Plan = pipeline.Plan[Facts]
)

// Facts are what undo and recovery need to know. They are saved in the journal
// before the side effect that they describe, and are small: long lists lie in
// the run's folder.
type Facts struct {
	Verb      string            `json:"verb"`
	Server    string            `json:"server"`
	Jail      string            `json:"jail"`
	Stage     string            `json:"stage,omitempty"`      // the stage's folder
	Snapshots string            `json:"snapshots,omitempty"`  // the store's folder
	Snapshot  string            `json:"snapshot,omitempty"`   // its id
	KeepStage bool              `json:"keep_stage,omitempty"` // an old version lies only there
	Keep      int               `json:"keep,omitempty"`       // --keep
	Sealed    bool              `json:"sealed,omitempty"`     // the snapshot has its name
	Servers   []ServerFacts     `json:"servers,omitempty"`    // in the order in which they start
	Signalled bool              `json:"signalled,omitempty"`  // the old server was, or may have been
	Held      []string          `json:"held,omitempty"`       // units of the host that the persistent guard holds
	From      map[string]string `json:"from,omitempty"`
	To        map[string]string `json:"to,omitempty"`
	Target    string            `json:"target,omitempty"` // digest of the target
	Changed   int               `json:"changed,omitempty"`
	Grace     time.Duration     `json:"grace,omitempty"` // --stop-timeout
	Soak      time.Duration     `json:"soak,omitempty"`
	Deadline  time.Duration     `json:"deadline,omitempty"` // --start-timeout
	// PrevStage is the stage of the run that this one makes the last but one.
	PrevStage string `json:"prev_stage,omitempty"`
	// To of a rollback: the run that is taken back, or the snapshot.
	Reverts string `json:"reverts,omitempty"`
}

// Options are what the command line and the configuration decide.
type Options struct {
	Named       string   // the server that was asked for; "" is the recipe's own
	Version     string   // of that server: exact, or a constraint on the upstream version
	Downgrade   bool     // older versions are meant: a version or a suite was named
	With        []string // modules that are to come in
	Drop        []string // modules that are to go
	Hold        []string // packages that stay as they are
	Adopt       bool     // an executable that no package knows is replaced
	ConfNew     bool
	Rehearse    bool
	Keep        int // snapshots
	KeepEdits   bool
	ToSnapshot  string // rollback --to
	Exclude     []string
	StopTimeout time.Duration
	Policy      checks.Policy
	Looks       time.Duration // between those of a baseline; 0: the usual
	Checks      checks.Config
}

// Env is what the steps of one run work with. Its exported fields are set by the
// caller; nothing in it survives a crash.
type Env struct {
	Run      string // id
	JailID   string
	Root     *jail.Root
	Recipe   *recipes.Recipe // of the jail as it is, its parts joined
	Next     *recipes.Recipe // as it shall be; nil: the same
	Recipes  *recipes.Set    // all there are; nil: series stay, and nobody else is looked for
	Source   source.Source   // nil in a recovery
	Arch     string
	StateDir string // of this jail: StateDir/<jail-id>
	Store    backup.Store
	StoreDir string
	Events   *event.Stream
	Options  Options
	// Servers are the facts of the servers in a recovery, Affected the recipes of
	// those that are only restarted.
	Servers  []ServerFacts
	Affected []*recipes.Recipe
	// Base is where the versions that the jail has may be known from, where Source
	// is of another release; nil: nowhere else.
	Base source.Source
	// Outside is the server that runs on the host, where there is one; then Recipe is
	// of its Compose.
	Outside *Outside
	// Scratch is the folder of a run that changes nothing; see Look.
	Scratch string
	// Guard starts the guardian, and has it hold these units; nil where the process
	// is one itself.
	Guard func(units []string) (*guard.Guardian, error)
	// Boot says that a recovery runs at boot: a server that belongs to a unit is
	// left to init.
	Boot bool

	host    *jail.Root // see hostTree
	opening sync.Mutex
	loaded  *hostLibs         // see hostLibs
	fits    map[string]string // versions of packages that fit the host, see fitting
	told    bool              // what is the host's

	units    []*unit
	modules  []string // packages that are asked for beside the recipe's
	enable   []string // what is to be switched on
	excused  []string // modules that did not fit before either
	guardian *guard.Guardian
	prober   *checks.Prober
	target   *source.Target
	index    *source.Index
	blobs    map[string]source.Blob
	stage    *fileset.Stage
	sel      *fileset.Selection
	set      *changeset.Set
	pending  *backup.Pending
	baseline *checks.Report
	judge    *checks.Report // what the new server is compared with, where that is not the baseline
	marks    []checks.Mark
	fifos    []*os.File // logs that are FIFOs, see holdFIFO
	// elsewhere: a server was started by somebody else while this run started it.
	elsewhere bool
	// onlyLogged: the last checks found nothing wrong but lines in a log.
	onlyLogged bool
	old        *manifest.Manifest
	foreign    []string
	stopped    time.Time     // when the server had stopped
	away       time.Duration // longest time from a stop to the end of the start
	evidence   string
	verdict    checks.Verdict // of the last checks, but for those of an undo
}

// RunDir is the run's folder: events, changeset, evidence.
func (e *Env) RunDir() string {
	if e.Scratch != "" {
		return filepath.Join(e.Scratch, "run")
	}
	return filepath.Join(e.StateDir, "runs", e.Run)
}

func (e *Env) file(name string) string { return filepath.Join(e.RunDir(), name) }

// note tells something that stops nothing.
func (e *Env) note(level, text, hint string) { e.Events.Notice(level, text, hint) }

// changes returns the changeset of the run, from memory or from its folder.
func (e *Env) changes() (*changeset.Set, error) {
	if e.set == nil {
		s, err := changeset.Load(e.file("changeset.json"))
		if err != nil {
			return nil, err
		}
		e.set = s
	}
	return e.set, nil
}

// worker opens stage and changeset for an install or its undo.
func (e *Env) worker(f *Facts) (*changeset.Worker, error) {
	set, err := e.changes()
	if err != nil {
		return nil, err
	}
	stage, err := e.openStage(f)
	if err != nil {
		return nil, err
	}
	w, err := changeset.NewWorker(e.Root, stage.Dir(), set)
	if err != nil {
		return nil, err
	}
	w.Inside = inside(f.Stage)
	return w, nil
}

// Close releases what the steps opened.
func (e *Env) Close() {
	if e.prober != nil {
		e.prober.Stop()
	}
	// A run that is done has disarmed it. What else ends here left something open.
	e.guardian.Leave()
	if e.stage != nil {
		e.stage.Close()
	}
	if e.host != nil {
		e.host.Close()
	}
	for _, f := range e.fifos {
		f.Close()
	}
}
