package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

// The session of a verb: configuration, recipes and folders, as files, environment
// and command line say them together. No jail is touched here.

// session is what a verb works with: configuration, recipes, folders, and, where
// it works on a jail, the jail itself.
type session struct {
	a        *app
	verb     string
	conf     *config.Config
	set      config.Settings
	dirs     config.Dirs
	recipes  *recipes.Set
	registry *journal.Registry

	path   string // of the jail, as given
	named  *config.Jail
	root   *jail.Root
	id     string
	recipe *recipes.Recipe
	asked  string // the server of the command line, by its recipe's name
	alone  bool   // the verb is for that server, and not for what goes along with it
	// onHost is the server that runs outside of the jail, where there is one.
	onHost *steps.Outside

	run    string
	ui     *ui.UI
	events *event.Stream
	record *os.File
	lock   *journal.Lock
	place  *journal.Lock // on the folder itself, whatever state is used
	began  time.Time

	trouble error // of the configuration, where a recovery goes on without it
	// troubleTold: behind the wall, so that it is told once.
	troubleTold bool
	walled      bool // what is missing in the second wall is told
}

// configuration reads the configuration files and the recipes.
func (a *app) configuration(dirs config.Dirs) (*config.Config, *recipes.Set, error) {
	var conf *config.Config
	var err error
	if a.config != "" {
		conf, err = config.LoadFile(a.config)
	} else {
		conf, err = config.Load(dirs.Config)
	}
	if err != nil {
		return nil, nil, err
	}
	set, err := recipes.Load(filepath.Join(conf.Dir, "recipes.d"))
	if err != nil {
		return nil, nil, &steps.Error{Kind: steps.ErrUsage, Err: err}
	}
	return conf, set, nil
}

// open reads configuration and recipes. It touches no jail.
func (a *app) open(verb string) (*session, error) {
	a.fromEnv()
	dirs, err := config.DefaultDirs(os.Geteuid(), a.getenv)
	if err != nil {
		return nil, err
	}
	conf, set, trouble := a.configuration(dirs)
	if trouble != nil {
		if verb != "recover" {
			return nil, trouble
		}
		// A server is down perhaps: a mistake in a file must not keep it so. What
		// a recovery needs lies with the run.
		conf = &config.Config{Dir: dirs.Config}
		if set, err = recipes.Load(""); err != nil {
			return nil, err
		}
	}
	env, err := config.FromEnv(a.getenv)
	if err != nil {
		return nil, err
	}
	s := &session{a: a, verb: verb, conf: conf, recipes: set, dirs: dirs, run: steps.NewRunID(), began: time.Now()}
	layers := []config.Settings{a.flags, env}
	if a.jail != "" {
		s.path, s.named = conf.Locate(a.jail)
		if s.named == nil {
			s.named, _ = conf.JailAt(s.path)
		}
		if s.named != nil {
			layers = append(layers, s.named.Settings)
		}
	}
	layers = append(layers, conf.Settings)
	usual := config.Defaults(dirs)
	s.set = config.Resolve(append(layers, usual)...)
	state, err := filepath.Abs(*s.set.StateDir)
	if err != nil {
		return nil, err
	}
	if jail.RealPath(state) != jail.RealPath(*usual.StateDir) {
		// Snapshots and locks go with the state, so that a private state is
		// private, and one state has one lock however it was named.
		dirs.Snapshots, dirs.Run = filepath.Join(state, "snapshots"), filepath.Join(state, "run")
		s.dirs = dirs
		s.set = config.Resolve(append(layers, config.Defaults(dirs))...)
	}
	for _, p := range []*string{s.set.StateDir, s.set.CacheDir, s.set.Snapshots} {
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	s.registry = journal.OpenRegistry(*s.set.StateDir, s.dirs.Run)
	s.ui = a.newUI(s.set)
	s.events = event.New(s.run, nil, s.ui, notify{})
	s.trouble = trouble
	return s, nil
}

// tellTrouble says, once, that a recovery goes on without the configuration.
func (s *session) tellTrouble() {
	if s.trouble != nil && !s.troubleTold {
		s.troubleTold = true
		s.events.Notice(event.Warning, s.trouble.Error(), "")
	}
}

func (a *app) newUI(set config.Settings) *ui.UI {
	_, out := terminal(a.stdout)
	errFile, errTerm := terminal(a.stderr)
	return ui.New(ui.Options{
		Output: *set.Output, Quiet: *set.Quiet, Verbose: *set.Verbose, NoColor: *set.NoColor,
		Stdout: a.stdout, Stderr: a.stderr, StdoutIsTerminal: out, StderrIsTerminal: errTerm,
		Getenv: a.getenv,
		Width: func() int {
			if errFile == nil {
				return 0
			}
			w, _, err := term.GetSize(int(errFile.Fd()))
			if err != nil {
				return 0
			}
			return w
		},
	})
}

// server finds the recipe.
func (s *session) server(name string) error {
	r, ok := s.recipes.Find(name)
	if !ok {
		var known []string
		for _, r := range s.recipes.All() {
			if r.HasProcesses() {
				known = append(known, r.Name)
			}
		}
		return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot find a recipe for %s", event.Clean(name, 60)),
			Hint: "there are: " + strings.Join(known, ", ")}
	}
	s.recipe, s.asked = r, r.Name
	return nil
}

// compose finds what the jail has of the server and what goes along with it.
func (s *session) compose() {
	switch {
	case s.recipe == nil || s.root == nil || s.recipe.IsOnHost():
	case s.alone || s.verb == "check" && steps.Main(s.recipes, s.recipe, s.root) != s.recipe:
		s.recipe = steps.Alone(s.recipe, s.root)
	default:
		s.recipe = steps.Compose(s.recipes, s.recipe, s.root)
	}
}

// mainName is the server under which the jail is known.
func (s *session) mainName() string {
	if s.recipe == nil {
		return ""
	}
	if s.root == nil || s.recipe.IsOnHost() {
		return s.recipe.Name
	}
	return steps.Main(s.recipes, s.recipe, s.root).Name
}
