package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
)

// sabotage is a package with a configuration file more. A test of the
// configuration finds nothing wrong with it.
type sabotage struct {
	pkg  string
	file debFile
	line string // of the file, the one that does it
	harm string
}

// spoiled is what spoils a server whose configuration is of that kind.
func spoiled(reader string) (s sabotage, ok bool) {
	switch reader {
	case "nginx":
		s = sabotage{line: "deny all;", file: debFile{path: "/etc/nginx/conf.d/00-broken.conf",
			data: "# Valid, and yet nobody gets a page any more.\ndeny all;\n", conf: true}}
	case "apache":
		s = sabotage{line: "Require all denied", file: debFile{path: "/etc/apache2/conf-enabled/00-broken.conf",
			data: "# Valid, and yet nobody gets a page any more.\n<Location />\n    Require all denied\n</Location>\n", conf: true}}
	default:
		return s, false
	}
	s.harm = "each request would be refused"
	return s, true
}

// sabotage chooses how to break the jail: its PHP, where it has one.
func (d *demo) sabotage() sabotage {
	if part := d.phpPart(); part != nil {
		line := "auto_prepend_file = /no/such/file.php"
		return sabotage{pkg: part.Server(), line: line, harm: "no page in PHP would be made any more",
			file: debFile{path: path.Join(part.PHP.Scan, "99-broken.ini"), conf: true,
				data: "; Valid, and yet no page is made any more.\n" + line + "\n"}}
	}
	s, _ := spoiled(d.main.Configuration.Reader) // choose has looked for it
	s.pkg = d.server()
	return s
}

// tests are the commands that test the configuration of the jail's servers.
func (d *demo) tests() string {
	var out []string
	for _, r := range d.recipe.Servers() {
		if argv := r.Configuration.Test; len(argv) > 0 {
			out = append(out, strings.Join(append([]string{path.Base(argv[0])}, argv[1:]...), " "))
		}
	}
	if len(out) > 1 {
		return strings.Join(out, " and ") + " find"
	}
	return strings.Join(out, "") + " finds"
}

// sabotaging shows an upgrade that goes back by itself.
func (d *demo) sabotaging(ctx context.Context) error {
	bad := d.sabotage()
	dir, version, err := d.repack(ctx, bad.pkg, bad.file)
	if err != nil {
		return err
	}
	brings, with := fmt.Sprintf("%s %s brings %s", bad.pkg, version, bad.file.path), fmt.Sprintf("with \"%s\":", bad.line)
	if len(brings)+len(with) < 100 {
		brings, with = brings+" "+with, ""
	}
	d.say.fact("sabotage:", "%s", brings)
	if with != "" {
		d.say.fact("", "%s", with)
	}
	d.say.fact("", "%s nothing wrong with it, and yet %s", d.tests(), bad.harm)
	before, l, err := d.underLoad(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := d.must(ctx, true, exitRolledBack, event.RolledBack,
		"upgrade", d.main.Name, "--soak", demoSoak, "--source", "dir:"+dir)
	if err != nil {
		return err
	}
	d.sabotaged = o.tell.id
	if _, err := d.seen(ctx, l); err != nil {
		return err
	}
	d.say.fact("downtime:", "%s", downtime(o.done))
	d.say.fact("result:", "exit status %d: failed and rolled back", o.exit)
	if kept := evidence(o.done.Evidence); len(kept) > 0 {
		d.say.fact("evidence:", "%s, kept with the run", strings.Join(kept, ", "))
	}
	d.say.fact("page:", "the same as before")
	if len(o.tell.failed) == 0 {
		return errors.New("the upgrade went back without a check that failed")
	}
	if err := d.unchangedPHP(ctx); err != nil {
		return err
	}
	return d.unchanged(before)
}

// evidence lists what a run has kept.
func evidence(dir string) []string {
	entries, _ := os.ReadDir(dir) // "" is no folder
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// killing shows an upgrade that dies while the server is down.
func (d *demo) killing(ctx context.Context) error {
	dir, version, err := d.repack(ctx, d.server(), d.difference("a better version"))
	if err != nil {
		return err
	}
	d.say.fact("version:", "%s %s, and nothing is wrong with it", d.server(), version)
	before, l, err := d.underLoad(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := d.program(ctx, true, func(e event.Event) bool { return e.Kind == event.KindStepDone && e.Step == "stop" },
		"upgrade", d.main.Name, "--soak", demoSoak, "--source", "dir:"+dir)
	if err != nil {
		return err
	}
	if !o.killed || o.done.Result != "" {
		return d.unexpected(o, "killed", "upgrade")
	}
	is := "is"
	if len(d.recipe.Servers()) > 1 {
		is = "are"
	}
	d.say.fact("SIGKILL:", "right after step %s: %s %s down, and nobody types anything", o.tell.last, d.servers(), is)
	back, err := l.answered(ctx, d.killedAt, 30*time.Second)
	if err != nil {
		return err
	}
	d.say.fact("answers:", "again %s after the kill, started by the guardian of the run", took(back.Sub(d.killedAt)))
	if _, err := d.seen(ctx, l); err != nil {
		return err
	}
	if !gone(func() []int { return guardians(d.dir) }, false, 30*time.Second) {
		return errors.New("the guardian of the killed upgrade has not ended within 30 s")
	}
	if _, err := d.must(ctx, false, exitOK, event.Recovered, "recover"); err != nil {
		return err
	}
	d.say.fact("recover:", "jailup recover finds nothing left to do")
	if err := d.unchangedPHP(ctx); err != nil {
		return err
	}
	return d.unchanged(before)
}

// underLoad remembers what the jail holds, and begins the load.
func (d *demo) underLoad(ctx context.Context) (before map[string]string, l *load, err error) {
	if before, _, err = d.fingerprint(); err == nil {
		l, err = d.load(ctx)
	}
	return before, l, err
}

// load begins the load and waits for the first page.
func (d *demo) load(ctx context.Context) (*load, error) {
	now, clients := time.Now(), loadClients
	if part := d.phpPart(); part != nil && !part.HasProcesses() {
		// Apache with PHP in it keeps a process for each connection, and begins
		// with five: more would measure how fast it makes others.
		clients = loadFew
	}
	l := startLoad(ctx, d.url, d.page, clients)
	if _, err := l.answered(ctx, now, 10*time.Second); err != nil {
		l.stop()
		return nil, err
	}
	d.say.fact("load:", "from %d clients that keep their connections, and %d new connections a second", clients, loadNew)
	return l, nil
}

// seen ends the load and tells what it saw, once the page is served.
func (d *demo) seen(ctx context.Context, l *load) (tally, error) {
	if _, err := l.answered(ctx, time.Now(), 10*time.Second); err != nil {
		l.stop()
		return tally{}, err
	}
	t := l.stop()
	wrong := ""
	for _, status := range sortedKeys(t.Wrong) {
		wrong += fmt.Sprintf(", %d answered by %d", t.Wrong[status], status)
	}
	d.say.fact("measured:", "%d requests served in %s, %d without an answer%s", t.Served, ui.Duration(t.Took), t.Silent, wrong)
	d.say.fact("", "the longest time without the page: %s", took(t.Gap))
	return t, nil
}
