package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/steps"
)

// app is one call of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	flags  config.Settings // what the command line says
	jail   string          // --jail
	config string          // --config
	yes    bool
	boot   bool // recover --boot
	code   int  // the exit status, where a verb has decided it

	// quiet stops the catching of signals and tells whether one has come; hear
	// begins it again. Only the program itself has them, and a second wall.
	quiet func() error
	hear  func()
}

// usageError marks a wrong command line.
func usageError(format string, args ...any) error {
	return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf(format, args...), Hint: "see: jailup help"}
}

func (a *app) execute(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && a.code == 0 {
		a.code = exitOf("", err, false)
		a.complain(err)
	}
	return a.code
}

// complain prints an error of a verb that has no run to tell it.
func (a *app) complain(err error) {
	fmt.Fprintf(a.stderr, "error: %s\n", event.Clean(err.Error(), 1000))
	if h := a.hint(err, a.code); h != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", event.Clean(h, 300))
	}
}

// hint is the next command to type.
func (a *app) hint(err error, code int) string {
	switch h := hintOf(err); {
	case h != "":
		return h
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return "use sudo"
	case code != exitUsage:
		return ""
	}
	return "see: jailup help"
}

func (a *app) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jailup",
		Short: "Upgrade chrooted web servers as one safe command",
		Long: `jailup upgrades nginx or Apache, and PHP, inside a chroot jail: it prepares the new
version while the old one still answers, stops it for as long as the exchange of the
changed files takes, checks the new one, and rolls all of it back if anything is wrong.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.noVerb,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		var conf *config.Error
		var value *pflag.InvalidValueError
		if errors.As(err, &conf) && errors.As(err, &value) {
			hint := conf.Hint()
			if hint == "" {
				hint = "see: " + c.CommandPath() + " --help"
			}
			return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot read --%s: %w", value.GetFlag().Name, conf), Hint: hint}
		}
		return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot read the command line: %w", err), Hint: "see: " + c.CommandPath() + " --help"}
	})
	cmd.SuggestionsMinimumDistance = 2
	cmd.FParseErrWhitelist.UnknownFlags = true // so that a misspelt verb is told, not its flags
	cmd.Version = version()
	cmd.SetVersionTemplate("jailup {{.Version}}\n")
	cmd.CompletionOptions.HiddenDefaultCmd = false
	for _, verb := range a.verbs() {
		completed(verb)
		cmd.AddCommand(verb)
	}
	cmd.SetUsageTemplate(cmd.UsageTemplate() + exitHelp)
	return cmd
}

// verbs is the list of all verbs, one file each.
func (a *app) verbs() []*cobra.Command {
	return []*cobra.Command{
		a.createVerb(), a.upgradeVerb(), a.planVerb(), a.rollbackVerb(), a.recoverVerb(),
		a.statusVerb(), a.checkVerb(), a.startVerb(), a.stopVerb(), a.restartVerb(),
		a.snapshotVerb(), a.historyVerb(), a.explainVerb(), a.runVerb(), a.recipeVerb(),
		a.guardianVerb(), a.demoVerb(), a.versionVerb(), a.completionVerb(),
	}
}

func (a *app) noVerb(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return noSuchVerb(cmd, args[0], event.Clean(args[0], 60))
	}
	return nil
}

// noSuchVerb says so, with the verb that was meant perhaps.
func noSuchVerb(cmd *cobra.Command, word, shown string) error {
	hint := "see: " + cmd.CommandPath() + " --help"
	if near := cmd.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean: " + cmd.CommandPath() + " " + near[0]
	}
	return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot do %s: there is no such verb", shown), Hint: hint}
}

// exactArgs wants the named arguments, no more and no fewer.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return &steps.Error{Kind: steps.ErrUsage,
				Err:  fmt.Errorf("cannot read the command line: %s takes %s", cmd.Name(), orNothing(names)),
				Hint: "see: " + cmd.CommandPath() + " --help"}
		}
		return nil
	}
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "no argument"
	}
	return strings.Join(names, " ")
}

// settingHelp says what each setting's flag does.
var settingHelp = map[string]string{
	"source":              "where packages come from: apt, or dir:PATH",
	"apt-sources":         "sources `file` instead of the host's own",
	"keyring":             "`file` of keys instead of each source's own",
	"keys":                "only keys of these `fingerprints` may sign (FPR, or URI=FPR for one source)",
	"suite":               "another suite of the same archive",
	"version":             "an exact version, or a constraint such as '>= 1.26, < 1.28'",
	"with":                "parts and modules to come along: php-fpm,mysql,gd",
	"drop-module":         "modules to leave out, where the new release has them no more",
	"listen":              "`ADDR:PORT` that the new server listens on",
	"strategy":            "restart; auto means the same in this version",
	"rehearse":            "test the new server on a view of the jail first",
	"conf":                "keep changed configuration, or take the new one",
	"soak":                "how long the new server must stay well",
	"stop-timeout":        "grace of a graceful stop",
	"start-timeout":       "until the server must be ready",
	"lock-wait":           "wait for another run on this jail",
	"timeout":             "bound of the run, never of an undo",
	"snapshots":           "`folder` of the snapshots",
	"keep":                "snapshots of a jail that are kept",
	"state-dir":           "`folder` of journals and manifests",
	"cache-dir":           "`folder` of packages",
	"output":              "text or json",
	"quiet":               "nothing on success, the whole story on failure",
	"verbose":             "tell more",
	"no-color":            "no colours on a terminal",
	"skip-ok":             "exit 0 where a run is skipped",
	"accept-inconclusive": "take a server of which too little could be seen to call it well or not",
}

// settingFlag makes one setting a flag.
type settingFlag struct {
	s    *config.Settings
	name string
	text string
	kind string
}

func (f *settingFlag) String() string { return f.text }
func (f *settingFlag) Type() string   { return f.kind }
func (f *settingFlag) Set(v string) error {
	f.text = v
	return f.s.Set(f.name, v)
}

var boolSettings = []string{"rehearse", "quiet", "verbose", "no-color", "skip-ok", "accept-inconclusive"}

// settings adds flags for the named settings.
func (a *app) settings(fs *pflag.FlagSet, names ...string) {
	for _, n := range names {
		a.setting(fs, n, map[string]string{"quiet": "q", "verbose": "v"}[n])
	}
}

func (a *app) setting(fs *pflag.FlagSet, name, short string) {
	f := &settingFlag{s: &a.flags, name: name, kind: "value"}
	flag := fs.VarPF(f, name, short, settingHelp[name])
	flag.DefValue = defaultOf(name)
	if slices.Contains(boolSettings, name) {
		flag.NoOptDefVal = "true"
		f.kind = "bool"
	}
}

// defaultOf is what help says of a setting that nobody sets; "" for nothing.
func defaultOf(name string) string {
	d := config.Defaults(config.Dirs{})
	switch name {
	case "source":
		return *d.Source
	case "strategy":
		return *d.Strategy
	case "rehearse":
		return strconv.FormatBool(*d.Rehearse)
	case "conf":
		return *d.Conf
	case "soak":
		return d.Soak.D().String()
	case "stop-timeout":
		return d.StopTimeout.D().String()
	case "start-timeout":
		return d.StartTimeout.D().String()
	case "keep":
		return strconv.Itoa(*d.Keep)
	case "output":
		return *d.Output
	}
	return ""
}

// common adds the flags of every verb. shortO tells whether -o means --output.
func (a *app) common(cmd *cobra.Command, shortO bool) {
	fs := cmd.Flags()
	fs.StringVarP(&a.jail, "jail", "j", "", "the jail: a `folder`, or a configured name")
	fs.StringVar(&a.config, "config", "", "configuration `file`")
	fs.BoolVarP(&a.yes, "yes", "y", false, "no questions")
	if shortO {
		a.setting(fs, "output", "o")
	} else {
		a.setting(fs, "output", "")
	}
	a.settings(fs, "quiet", "verbose", "state-dir", "cache-dir", "lock-wait", "timeout", "stop-timeout", "no-color")
}

// fromEnv reads what only the environment and flags say.
func (a *app) fromEnv() {
	if a.jail == "" {
		a.jail = a.getenv(config.EnvName("jail"))
	}
	if a.config == "" {
		a.config = a.getenv(config.EnvName("config"))
	}
	if !a.yes {
		a.yes = a.getenv(config.EnvName("yes")) != ""
	}
}

// sourceFlags are the settings of where packages come from.
var sourceFlags = []string{"source", "apt-sources", "keyring", "keys", "suite", "version"}

// runFlags are the settings of a run that stops and starts a server.
var runFlags = []string{"soak", "start-timeout", "rehearse", "snapshots", "keep", "skip-ok", "accept-inconclusive"}

// terminal tells whether a stream is one.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	if !ok {
		return nil, false
	}
	st, err := f.Stat()
	return f, err == nil && st.Mode()&os.ModeCharDevice != 0 && isatty(f)
}

func isatty(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
