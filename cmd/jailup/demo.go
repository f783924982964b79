package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

func (a *app) demoVerb() *cobra.Command {
	var keep bool
	var server string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it on a jail of its own, in less than a minute",
		Long: `Show all of it on a jail of its own, in a temporary folder: an older server, under
load, is upgraded to the newest; an upgrade to a broken one goes back by itself;
an upgrade that is killed is ended by its guardian. What is told is measured.

The server is nginx. With --with php it makes pages in PHP: within Apache, or by
PHP-FPM beside nginx; what follows php are modules of PHP.

Nothing is left behind unless --keep is given, but the packages in the cache. The
jail, its state and its snapshots lie in the demo's own folder, whatever
--state-dir says; TMPDIR chooses where.`,
		Example: `  jailup demo
  jailup demo --with php,mysql,gd
  jailup demo --server apache --with php
  jailup demo --keep`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("jail") {
				return usageError("cannot show the demo in jail %s: it makes one of its own", event.Clean(a.jail, 200))
			}
			return a.demo(cmd.Context(), server, keep)
		},
	}
	a.common(cmd, true)
	a.settings(cmd.Flags(), "source", "apt-sources", "keyring", "keys", "suite", "with")
	cmd.Flags().StringVar(&server, "server", "nginx", "the `server` that is shown: nginx or apache")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the jail, and say how to go on with it")
	return cmd
}

// demo is one showing. Its folder holds all that it makes but the packages.
type demo struct {
	a     *app
	s     *session
	say   *narrator
	began time.Time

	main    *recipes.Recipe // the server that is shown
	recipe  *recipes.Recipe // of the jail, its parts joined; before there is one, of what it shall be
	asked   []string        // what is to come along, in the words of the command line
	modules []string        // of these, what is no part of its own

	dir, jail, conf, state, cache string
	port                          int
	url                           string // of the page that the load asks for
	page                          []byte // what the server answers
	php                           phpSays
	cast                          cast
	packed                        map[string]string // packages in a folder of the demo, by digest
	repacked                      int               // packages made so far
	killedAt                      time.Time
	sabotaged                     string // the run that went back, for explain
	result                        steps.Facts
	downtime                      *int64
}

func (a *app) demo(ctx context.Context, server string, keep bool) error {
	jailWas := a.jail
	a.jail = ""
	s, err := a.open("demo")
	if err != nil {
		return err
	}
	a.jail = jailWas
	s.path, s.named = "", nil
	d := &demo{a: a, s: s, began: time.Now(), say: &narrator{events: s.events}, packed: map[string]string{}}
	if *s.set.Output != ui.JSON && !*s.set.Quiet {
		d.say.out = a.stdout
		_, tty := terminal(a.stdout)
		d.say.bold = tty && !*s.set.NoColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
	}
	if err := d.choose(server); err != nil {
		return d.end(err)
	}
	if os.Geteuid() != 0 {
		return d.end(&steps.Error{Err: errors.New("cannot show the demo: only root can build a jail and run a server in it"), Hint: "use sudo"})
	}
	if d.dir, err = demoFolder(); err != nil {
		return d.end(err)
	}
	d.jail, d.state = filepath.Join(d.dir, "jail"), filepath.Join(d.dir, "state")
	d.conf, d.cache = filepath.Join(d.dir, "config.yaml"), *s.set.CacheDir
	s.path = d.jail
	s.set.StateDir = &d.state
	s.events.RunStart(event.RunStart{Verb: "demo", Server: d.main.Name, Jail: d.jail, Version: version()})

	bounded, cancel := s.bounded(ctx)
	err = d.play(bounded)
	cancel()
	d.say.end()
	if keep {
		d.kept()
	} else {
		err = d.rehint(err)
		if cerr := d.cleanup(); cerr != nil {
			err = errors.Join(err, cerr)
		}
	}
	if err == nil {
		d.closing(keep)
	}
	return d.end(err)
}

// rehint replaces a hint to look at what will be gone.
func (d *demo) rehint(err error) error {
	if err == nil || !strings.Contains(steps.HintOf(err), d.dir) {
		return err
	}
	return &steps.Error{Err: err, Hint: "to see what is left of it, show it again with --keep"}
}

// choose finds the server, and what is to come along with it. Whether there are
// modules of these names only the sources can tell.
func (d *demo) choose(server string) error {
	// The jail is none of this host's: its recipes are those that are built in.
	set, err := recipes.Load("")
	if err != nil {
		return err
	}
	d.s.recipes = set
	var known []string
	for _, r := range set.All() {
		if _, ok := spoiled(r.Configuration.Reader); ok && r.HasProcesses() {
			known = append(known, r.Name)
		}
	}
	r, ok := set.Find(server)
	if !ok || !slices.Contains(known, r.Name) {
		return &steps.Error{Kind: steps.ErrUsage, Err: fmt.Errorf("cannot show the demo with server %s", event.Clean(server, 60)),
			Hint: "there are: " + strings.Join(known, ", ") + "; PHP comes along by --with php"}
	}
	d.main, d.asked = r, slices.Clone(*d.s.set.With)
	d.s.recipe, d.s.asked = r, r.Name
	d.s.withParts()
	d.recipe, d.modules = d.s.recipe, *d.s.set.With
	return nil
}

// title is what the jail is of, for headings.
func (d *demo) title() string {
	if d.phpPart() != nil {
		return d.main.Name + " with PHP"
	}
	return d.main.Name
}

// demoFolder makes a folder where programs may run and devices work.
func demoFolder() (string, error) {
	var why error
	for _, base := range []string{os.TempDir(), "/var/tmp", "/var/lib"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(base, &fs); err != nil {
			why = fmt.Errorf("cannot use %s: %w", base, err)
			continue
		}
		if fs.Flags&(unix.ST_NODEV|unix.ST_NOEXEC) != 0 {
			why = fmt.Errorf("%s is mounted nodev or noexec", base)
			continue
		}
		if err := jail.CheckPlace(filepath.Join(base, "jailup-demo-", "jail")); err != nil {
			why = err
			continue
		}
		dir, err := os.MkdirTemp(base, "jailup-demo-")
		if err == nil {
			dir, err = filepath.EvalSymlinks(dir)
		}
		if err == nil {
			// Empty: what is configured for the jails of this host is not for this one.
			err = os.WriteFile(filepath.Join(dir, "config.yaml"), nil, 0o600)
		}
		return dir, err
	}
	return "", &steps.Error{Err: fmt.Errorf("cannot make a folder for the demo: %w", why), Hint: "name one: TMPDIR=/some/folder jailup demo"}
}

func (d *demo) play(ctx context.Context) error {
	for i, act := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"An older " + d.title(), d.casting},
		{"A jail of its own", d.building},
		{"The upgrade, under load", d.upgrading},
		{"An upgrade to a broken version", d.sabotaging},
		{"An upgrade that is killed", d.killing},
	} {
		d.say.act(i+1, act.title)
		if err := act.do(ctx); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

// cleanup ends what runs in the jail and removes the demo's folder. It runs to
// its end also after an interrupt.
func (d *demo) cleanup() error {
	// A guardian may be at work: it would start the server again.
	gone(func() []int { return guardians(d.dir) }, false, 20*time.Second)
	if !gone(func() []int { return guardians(d.dir) }, true, 5*time.Second) ||
		!gone(func() []int { return inside(d.jail) }, true, 10*time.Second) {
		return &steps.Error{Err: fmt.Errorf("cannot end all processes of the demo in %s", d.dir), Hint: "end them, then: rm -r " + d.dir}
	}
	parent, err := sys.OpenDir(filepath.Dir(d.dir))
	if err == nil {
		defer parent.Close()
		err = sys.RemoveTree(int(parent.Fd()), filepath.Base(d.dir))
	}
	if err != nil {
		return &steps.Error{Err: fmt.Errorf("cannot remove the demo's folder: %w", err), Hint: "rm -r " + d.dir}
	}
	return nil
}

func (d *demo) closing(keep bool) {
	what := "nothing is left of it"
	if _, err := os.Stat(d.cache); err == nil {
		what += " but the packages in " + d.cache + ", for the next time"
	}
	if keep {
		what = "all of it is still there"
	}
	end := fmt.Sprintf("Everything went as it should, in %s; %s", ui.Duration(time.Since(d.began)), what)
	if d.say.out != nil {
		fmt.Fprintf(d.say.out, "\n%s.\n", event.Clean(end, 600))
	} else {
		d.say.say("%s.", end)
	}
}

// kept tells where everything is and how to go on.
func (d *demo) kept() {
	flags := "--jail " + d.jail + " --state-dir " + d.state
	d.say.fact("kept:", "%s (jail, state, snapshots)", d.dir)
	if d.url != "" {
		d.say.fact("", "%s", d.url)
	}
	for _, c := range [][]string{
		{"status", flags}, {"history", flags}, {"explain", d.sabotaged + " " + flags}, {"snapshot", "list " + flags},
		{"rollback", flags},
	} {
		if c[0] != "explain" || d.sabotaged != "" {
			d.say.fact("go on:", "jailup %s", strings.Join(c, " "))
		}
	}
	stop := ""
	for _, r := range slices.Backward(d.recipe.Servers()) {
		stop += "jailup stop " + r.Name + " " + flags + " && "
	}
	d.say.fact("remove:", "%srm -r %s", stop, d.dir)
}

// end tells how the demo ended, and sets the exit status.
func (d *demo) end(err error) error {
	out := steps.Outcome{Result: event.Checked, Facts: d.result, Downtime: d.downtime}
	if err != nil {
		out = steps.Outcome{Result: event.Failed, Err: err}
		if errors.Is(err, steps.ErrInterrupted) {
			out.Result = event.Interrupted
		}
	}
	if d.say.out == nil {
		return d.s.finish(nil, out)
	}
	d.s.close()
	if err == nil {
		return nil
	}
	d.a.complain(err)
	d.a.code = exitOf(out.Result, err, false)
	return errTold
}
