package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/guard"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

func isatty(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

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
	s := &session{a: a, verb: verb, conf: conf, recipes: set, dirs: dirs, run: runID(), began: time.Now()}
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
	if realPath(state) != realPath(*usual.StateDir) {
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

// writes are the folders, beside the state, that the verb writes to.
func (s *session) writes() []string {
	switch s.verb {
	case "upgrade":
		return []string{*s.set.Snapshots, *s.set.CacheDir}
	case "rollback", "snapshot create", "snapshot prune", "recover":
		return []string{*s.set.Snapshots}
	}
	return nil
}

// realPath resolves the links of what is there of a path.
func realPath(p string) string {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		return real
	}
	if up := filepath.Dir(p); up != p {
		return filepath.Join(realPath(up), filepath.Base(p))
	}
	return p
}

func runID() string {
	var b [2]byte
	_, _ = rand.Read(b[:])
	// In the order of their time, also within a second.
	now := time.Now().UTC()
	return fmt.Sprintf("%s-%03x%s", now.Format("20060102T150405Z"), now.Nanosecond()/1e6, hex.EncodeToString(b[:]))
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

// openJail opens the jail without writing anything. known tells whether it is in
// the registry.
func (s *session) openJail() (known bool, err error) {
	if err := s.needJail(); err != nil {
		return false, err
	}
	if err := jail.CheckPlace(s.path); err != nil {
		return false, &steps.Error{Err: err, Hint: "give the jail a folder of its own, such as /srv/jails/shop"}
	}
	if s.root, err = jail.Open(s.path); err != nil {
		hint := "give the folder that is the jail's root"
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.verb == "recover":
			hint = "see which jails there are: jailup status"
		case errors.Is(err, fs.ErrNotExist) && !strings.Contains(s.a.jail, "/"):
			hint = "no jail of that name is configured in " + filepath.Join(s.dirs.Config, "jails.d") + "; build one with: jailup create SERVER --jail ./" + event.Clean(s.path, 200)
		case errors.Is(err, fs.ErrNotExist):
			hint = "build one with: jailup create SERVER --jail " + event.Clean(s.path, 200)
		}
		return false, &steps.Error{Err: err, Hint: hint}
	}
	who, err := journal.Identify(s.root.Fd(), s.root.Path())
	if err != nil {
		return false, err
	}
	j, ok, err := s.registry.Lookup(who)
	if err != nil {
		return false, err
	}
	s.id = j.ID
	if s.recipe == nil {
		name := j.Server
		if name == "" && s.named != nil {
			name = s.named.Server
		}
		if name != "" {
			if err := s.server(name); err != nil {
				return ok, err
			}
		}
	}
	if s.recipe != nil {
		if err := steps.CheckServer(s.recipe); err != nil {
			return ok, err
		}
		if err := s.findOutside(s.recipe); err != nil && s.needsServer() {
			return ok, err
		}
	}
	s.compose()
	return ok, nil
}

// take opens the jail for changes: it is entered into the registry, locked, and
// what an interrupted run began is ended first.
func (s *session) take(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return &steps.Error{Err: fmt.Errorf("cannot %s jail %s: only root can", s.verb, event.Clean(s.path, 200)), Hint: "use sudo"}
	}
	if lacks := missingCapabilities(); len(lacks) > 0 {
		// A server would be stopped that could not be started again.
		return &steps.Error{Err: fmt.Errorf("cannot %s jail %s: this root has no %s", s.verb, event.Clean(s.path, 200), strings.Join(lacks, ", ")),
			Hint: "run it with the capabilities of the host's root"}
	}
	if s.root == nil {
		if _, err := s.openJail(); err != nil {
			return err
		}
	}
	for _, d := range []struct{ dir, what string }{
		{*s.set.Snapshots, "snapshot folder"}, {*s.set.StateDir, "state folder"}, {*s.set.CacheDir, "cache folder"},
	} {
		if err := s.outside(d.dir, d.what); err != nil {
			return err
		}
	}
	if who := steps.Busy(s.dirs.Run, s.id); who != nil && s.set.LockWait.D() <= 0 {
		return &journal.HeldError{Holder: *who} // before a folder is made for what will not be done
	}
	if err := s.behindWall(ctx, func() wall.Spec { return s.jailWall(s.writes()...) }); err != nil {
		return err
	}
	s.tellTrouble()
	who, err := journal.Identify(s.root.Fd(), s.root.Path())
	if err != nil {
		return err
	}
	if err := s.lockFolder(ctx, who); err != nil {
		return err
	}
	j, err := s.registry.Resolve(ctx, who, s.mainName())
	if err != nil {
		return err
	}
	s.id = j.ID
	s.lock, err = journal.Acquire(ctx, s.dirs.Run, s.id, journal.Holder{Run: s.run, Verb: s.verb}, s.set.LockWait.D())
	if err == nil {
		s.sweep()
	}
	return waiting(ctx, err)
}

// missingCapabilities names what it takes to exchange files of any owner, to signal
// a server and to start it in its jail, and this process has not.
func missingCapabilities() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if unix.Capget(&header, &have[0]) != nil {
		return nil // the kernel does not say; the steps will
	}
	var lacks []string
	for _, c := range []struct {
		bit  uint
		name string
	}{
		{unix.CAP_CHOWN, "CAP_CHOWN"},
		{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
		{unix.CAP_FOWNER, "CAP_FOWNER"},
		{unix.CAP_KILL, "CAP_KILL"},
		{unix.CAP_SETGID, "CAP_SETGID"},
		{unix.CAP_SETUID, "CAP_SETUID"},
		{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	} {
		if have[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	return lacks
}

// lockFolder takes the lock that runs with another state see as well: by file
// system and inode, where locks are by default. With a state of one's own that
// folder may be out of reach; then it is told that such runs do not see this one.
func (s *session) lockFolder(ctx context.Context, who journal.Identity) error {
	usual, err := config.DefaultDirs(os.Geteuid(), s.a.getenv)
	if err != nil {
		return err
	}
	s.place, err = journal.Acquire(ctx, usual.Run, who.LockName(), journal.Holder{Run: s.run, Verb: s.verb}, s.set.LockWait.D())
	var held *journal.HeldError
	if err != nil && !errors.As(err, &held) && ctx.Err() == nil && usual.Run != s.dirs.Run {
		s.events.Notice(event.Warning, "runs with another --state-dir will not see this one: "+err.Error(), "")
		return nil
	}
	return waiting(ctx, err)
}

// waiting says of a wait for a lock that a signal ended it.
func waiting(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), steps.ErrInterrupted) {
		return &steps.Error{Kind: steps.ErrInterrupted, Err: errors.New("interrupted while waiting for the lock; nothing is changed")}
	}
	return err
}

// sweep removes temporary files that killed runs left. What cannot be removed now
// holds nothing up.
func (s *session) sweep() {
	if err := errors.Join(steps.SweepTemp(s.stateDir()), source.SweepCache(*s.set.CacheDir)); err != nil {
		s.events.Notice(event.Warning, err.Error(), "")
	}
}

// stateDir is the jail's own folder.
func (s *session) stateDir() string { return filepath.Join(*s.set.StateDir, s.id) }

// env makes what the steps work with. The source is added where one is needed.
func (s *session) env() (*steps.Env, error) {
	policy := checks.DefaultPolicy()
	policy.Soak, policy.Deadline = s.set.Soak.D(), s.set.StartTimeout.D()
	policy.AcceptInconclusive = *s.set.AcceptInconclusive
	var looks time.Duration
	if sys.FaultPoints {
		// A test that upgrades a thousand times looks more often, and as many times.
		if looks, _ = time.ParseDuration(os.Getenv("JAILUP_FAULT_LOOKS")); looks > 0 {
			policy.Period = looks
		}
	}
	e := &steps.Env{
		Run: s.run, JailID: s.id, Root: s.root, Recipe: s.recipe, Outside: s.onHost, StateDir: s.stateDir(),
		StoreDir: *s.set.Snapshots, Events: s.events, Recipes: s.recipes,
		Options: steps.Options{
			Named: s.asked, With: *s.set.With, Drop: *s.set.DropModule,
			Downgrade: *s.set.Version != "" || s.named == nil && *s.set.Suite != "" || s.a.flags.Suite != nil,
			Version:   *s.set.Version, ConfNew: *s.set.Conf == "new", Rehearse: *s.set.Rehearse, Hold: *s.set.Hold,
			Keep: *s.set.Keep, Exclude: *s.set.Snapshot.Exclude, StopTimeout: s.set.StopTimeout.D(), Policy: policy, Looks: looks,
		},
	}
	var err error
	if e.Options.Checks, err = s.checks(); err != nil {
		if s.verb != "recover" {
			return nil, err
		}
		s.events.Notice(event.Warning, err.Error(), "")
		e.Options.Checks = checks.Config{}
	}
	return e, nil
}

// checks reads the user's own checks out of the configuration.
func (s *session) checks() (checks.Config, error) {
	var c checks.Config
	node := s.conf.Checks
	if s.named != nil && !s.named.Checks.IsZero() {
		node = s.named.Checks
	}
	if node.IsZero() {
		return c, nil
	}
	text, err := yaml.Marshal(&node)
	if err != nil {
		return c, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true) // a misspelt key would be a check that never fails
	if node.Kind == yaml.SequenceNode {
		err = dec.Decode(&c.Checks)
	} else {
		err = dec.Decode(&c)
	}
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return c, &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot read the checks of the configuration: %w", err)}
	}
	return c, nil
}

// openStore opens the snapshots' folder, and makes it.
func (s *session) openStore(e *steps.Env) error {
	store, err := backup.NewCopy(e.StoreDir)
	if err != nil {
		return err
	}
	e.Store = store
	return nil
}

// openSource opens where packages come from.
func (s *session) openSource(e *steps.Env) error {
	kind, arg, _ := strings.Cut(*s.set.Source, ":")
	var err error
	switch kind {
	case "apt":
		opts := source.AptOptions{SourcesFiles: *s.set.AptSources, Keyring: *s.set.Keyring, Keys: *s.set.Keys, Suite: *s.set.Suite,
			CacheDir: *s.set.CacheDir, StateDir: filepath.Join(*s.set.StateDir, "sources")}
		if sys.FaultPoints && os.Getenv("JAILUP_FAULT_NET") == "fast" { // tests need not wait as long
			opts.HTTP = source.HTTPOptions{Connect: time.Second, Header: 500 * time.Millisecond, Stall: 500 * time.Millisecond, Lost: time.Second}
		}
		e.Source, err = source.OpenApt(opts)
		if err == nil && opts.Suite != "" {
			opts.Suite = ""
			// What the jail has is most likely of this host's own release.
			e.Base, _ = source.OpenApt(opts)
		}
	case "dir":
		e.Source, err = source.OpenDir(arg, source.DirOptions{CacheDir: *s.set.CacheDir})
	default:
		return usageError("cannot use source %s: there are apt and dir:PATH", event.Clean(*s.set.Source, 100))
	}
	if brokenDisk(err) {
		return err // the command line is right
	}
	if err != nil {
		return &steps.Error{Kind: steps.ErrUsage, Err: err}
	}
	if v := *s.set.Version; v != "" && strings.ContainsAny(v[:1], "<>=!~") {
		if err := source.CheckConstraint(v); err != nil {
			return &steps.Error{Kind: steps.ErrUsage, Err: err}
		}
	}
	return nil
}

// openRecord begins the run's own record of events.
func (s *session) openRecord(e *steps.Env) error {
	f, err := recordOf(e)
	if err != nil {
		return err
	}
	s.record = f
	s.events.Attach(event.JSONLines(f))
	return nil
}

// recordOf opens the record of events of e's run, to append to.
func recordOf(e *steps.Env) (*os.File, error) {
	// Durably: what recovery needs goes into it.
	if err := sys.MkdirAll(e.RunDir(), 0o700); err != nil {
		return nil, e.NoRoom(fmt.Errorf("cannot make the run's folder: %w", err))
	}
	f, err := os.OpenFile(filepath.Join(e.RunDir(), "events.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make the run's record: %w", err)
	}
	return f, nil
}

// guardian starts the guardian of this run, which holds the units.
func (s *session) guardian(units []string) (*guard.Guardian, error) {
	if sys.FaultPoints && os.Getenv("JAILUP_FAULT_GUARD") == "off" {
		return nil, nil // a test of recovery by hand
	}
	args := []string{"guardian", "--jail", s.root.Path(), "--jail-id", s.id, "--state-dir", *s.set.StateDir, "--snapshots", *s.set.Snapshots}
	if s.a.config != "" {
		args = append(args, "--config", s.a.config)
	}
	if guard.Booted() && (!sys.FaultPoints || os.Getenv("JAILUP_FAULT_HOLD") != "off") { // off: what a test must notice
		args = append(args, "--hold")
		for _, u := range units {
			args = append(args, "--unit", u)
		}
	}
	log, err := os.OpenFile(filepath.Join(s.stateDir(), "runs", s.run, "guardian.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start the guardian: %w", err)
	}
	defer log.Close()
	return guard.Start(args, guardianEnv(), log)
}

// guardianEnv leaves out what a test uses to kill the run itself.
func guardianEnv() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "JAILUP_") {
			out = append(out, v)
		}
	}
	if sys.FaultPoints {
		// What is to happen to the guardian itself.
		for _, name := range []string{"JAILUP_FAULT", "JAILUP_FAULT_COUNTER", "JAILUP_FAULT_TRACE"} {
			if v := os.Getenv(strings.Replace(name, "FAULT", "FAULT_GUARDIAN", 1)); v != "" {
				out = append(out, name+"="+v)
			}
		}
		out = append(out, "JAILUP_FAULT_LOOKS="+os.Getenv("JAILUP_FAULT_LOOKS"))
	}
	return out
}

// bounded applies --timeout to forward work.
func (s *session) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if d := s.set.Timeout.D(); d > 0 {
		return context.WithTimeoutCause(ctx, d, fmt.Errorf("the time limit of %s is over", d))
	}
	return context.WithCancel(ctx)
}
