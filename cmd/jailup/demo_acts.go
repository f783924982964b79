package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/recipes"
	"github.com/jailup/jailup/steps"
)

// demoSoak is how long the demo's upgrades look at the new server: two looks
// are enough to show it, and nobody's site is at stake.
const demoSoak = "2s"

// building makes the jail and starts the server in it.
func (d *demo) building(ctx context.Context) error {
	var err error
	if d.port, err = freePort(); err != nil {
		return err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", d.port)
	d.url = "http://" + listen + "/"
	create := func() (outcome, error) {
		args := append([]string{"create", demoServer, "--listen", listen}, d.cast.create...)
		return d.must(ctx, true, exitOK, event.Created, args...)
	}
	o, err := create()
	if err != nil && d.cast.suite != "" && ctx.Err() == nil {
		// What another release offers need not fit together. The demo goes on.
		d.say.fact("warning:", "%s %s of %s does not serve: %v", d.server(), d.cast.old, d.cast.suite, err)
		if err := d.same(ctx, d.cast.new); err != nil {
			return err
		}
		d.say.fact("instead:", "%s %s, and the same repacked as %s", d.server(), d.cast.old, d.cast.new)
		o, err = create()
	}
	if err != nil {
		return err
	}
	if got := o.done.To[d.server()]; got != d.cast.old {
		return fmt.Errorf("the new jail holds %s %s, not %s", d.server(), got, d.cast.old)
	}
	if err := d.start(ctx); err != nil {
		return err
	}
	all, size, err := d.fingerprint()
	if err != nil {
		return err
	}
	d.say.fact("jail:", "%s, %d files of %d packages, %s", d.jail, len(all), len(o.done.To), ui.Bytes(size))
	d.say.fact("answers:", "%s, %d bytes, by %s %s", d.url, len(d.page), d.server(), d.cast.old)
	return nil
}

// start starts the server and keeps what it answers.
func (d *demo) start(ctx context.Context) error {
	o, err := d.program(ctx, false, nil, "start", demoServer)
	if err != nil {
		return err
	}
	if o.exit != exitOK {
		return d.unexpected(o, "started", "start")
	}
	status, body, err := ask(ctx, transport(true), d.url)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", d.url, err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s answers %d", d.url, status)
	}
	d.page = body
	return nil
}

// upgrading shows an upgrade that goes well.
func (d *demo) upgrading(ctx context.Context) error {
	if err := d.plan(ctx); err != nil {
		return err
	}
	l, err := d.load(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	args := append([]string{"upgrade", demoServer, "--soak", demoSoak}, d.cast.upgrade...)
	o, err := d.must(ctx, true, exitOK, event.Upgraded, args...)
	if err != nil {
		return err
	}
	seen, err := d.seen(ctx, l)
	if err != nil {
		return err
	}
	from, to := o.done.From[d.server()], o.done.To[d.server()]
	d.say.fact("downtime:", "%s", downtime(o.done))
	d.say.fact("changed:", "%s; %s %s -> %s", files(o.done.ChangedFiles), d.server(), from, to)
	d.say.fact("page:", "the same as before")
	d.result.From, d.result.To, d.result.Changed, d.downtime = o.done.From, o.done.To, o.done.ChangedFiles, o.done.DowntimeMS
	switch {
	case from != d.cast.old || to != d.cast.new:
		return fmt.Errorf("the upgrade went from %s to %s, not from %s to %s", from, to, d.cast.old, d.cast.new)
	case seen.wrong() > 0:
		return fmt.Errorf("the load got %d answers that are not the page", seen.wrong())
	}
	return nil
}

// plan shows in two lines what plan says.
func (d *demo) plan(ctx context.Context) error {
	file := filepath.Join(d.dir, "plan.json")
	args := append([]string{"plan", demoServer, "-o", file}, d.cast.upgrade...)
	if _, err := d.must(ctx, false, exitOK, event.Planned, args...); err != nil {
		return err
	}
	var p steps.Preview
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return fmt.Errorf("cannot read the plan: %w", err)
	}
	newer := 0
	for name, v := range p.To {
		if p.From[name] != v {
			newer++
		}
	}
	kinds := map[string]int{}
	for _, f := range p.Files {
		kinds[string(f.Kind)]++
	}
	d.say.fact("plan:", "%s %s -> %s, %d of %d packages; %s to replace, %d to add, %d to remove",
		d.server(), p.From[d.server()], p.To[d.server()], newer, len(p.Packages), files(kinds["replace"]), kinds["add"], kinds["remove"])
	d.say.fact("", "%s beside the jail, %s for the snapshot; nginx stops once", ui.Bytes(p.Disk), ui.Bytes(p.Snapshot))
	return nil
}

// broken is a configuration that a test of the configuration finds nothing in.
const broken = "# Valid, and yet nobody gets a page any more.\ndeny all;\n"

// sabotaging shows an upgrade that goes back by itself.
func (d *demo) sabotaging(ctx context.Context) error {
	conf := debFile{path: "/etc/nginx/conf.d/00-broken.conf", data: broken, conf: true}
	dir, version, err := d.repack(ctx, conf)
	if err != nil {
		return err
	}
	d.say.fact("sabotage:", "%s %s brings %s with \"deny all;\":", d.server(), version, conf.path)
	d.say.fact("", "nginx -t finds nothing wrong with it, and yet each request would be refused")
	before, _, err := d.fingerprint()
	if err != nil {
		return err
	}
	l, err := d.load(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := d.must(ctx, true, exitRolledBack, event.RolledBack,
		"upgrade", demoServer, "--soak", demoSoak, "--source", "dir:"+dir)
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
	dir, version, err := d.repack(ctx, difference("a better version"))
	if err != nil {
		return err
	}
	d.say.fact("version:", "%s %s, and nothing is wrong with it", d.server(), version)
	before, _, err := d.fingerprint()
	if err != nil {
		return err
	}
	l, err := d.load(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	o, err := d.program(ctx, true, func(e event.Event) bool { return e.Kind == event.KindStepDone && e.Step == "stop" },
		"upgrade", demoServer, "--soak", demoSoak, "--source", "dir:"+dir)
	if err != nil {
		return err
	}
	if !o.killed || o.done.Result != "" {
		return d.unexpected(o, "killed", "upgrade")
	}
	d.say.fact("SIGKILL:", "right after step %s: nginx is down, and nobody types anything", o.tell.last)
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
	return d.unchanged(before)
}

// load begins the load and waits for the first page.
func (d *demo) load(ctx context.Context) (*load, error) {
	now := time.Now()
	l := startLoad(ctx, d.url, d.page)
	if _, err := l.answered(ctx, now, 10*time.Second); err != nil {
		l.stop()
		return nil, err
	}
	d.say.fact("load:", "from %d clients that keep their connections, and %d new connections a second", loadClients, loadNew)
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

func sortedKeys(m map[int]int) []int {
	var out []int
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func downtime(r event.RunDone) string {
	if r.DowntimeMS == nil {
		return "not measured"
	}
	if *r.DowntimeMS == 0 {
		return "too short for the probes of the run, 20 a second"
	}
	return took(time.Duration(*r.DowntimeMS)*time.Millisecond) + ", by the probes of the run, 20 a second"
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// unchanged compares the jail with what it was.
func (d *demo) unchanged(before map[string]string) error {
	now, _, err := d.fingerprint()
	if err != nil {
		return err
	}
	var other []string
	for p, sum := range before {
		if now[p] != sum {
			other = append(other, p)
		}
	}
	for p := range now {
		if _, ok := before[p]; !ok {
			other = append(other, p)
		}
	}
	if len(other) > 0 {
		slices.Sort(other)
		return fmt.Errorf("%d paths of the jail are not as before: %s", len(other), event.Clean(strings.Join(other, " "), 300))
	}
	d.say.fact("jail:", "all %d files, links and folders are as they were before", len(before))
	return nil
}

// fingerprint describes each path of the jail, but for what the server writes:
// type, mode, owner, target of a link, and of a file content and time. It also
// returns the bytes of all files.
func (d *demo) fingerprint() (map[string]string, int64, error) {
	root, err := jail.Open(d.jail)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	out := map[string]string{}
	var size int64
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := root.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			p := path.Join(dir, name)
			if recipes.Match(d.s.recipe.State, p) {
				continue
			}
			info, err := root.Lstat(p)
			if err != nil {
				return err
			}
			what := fmt.Sprintf("%o %d %d %d", info.Mode, info.UID, info.GID, info.Rdev)
			switch {
			case info.IsDir():
				if err := walk(p); err != nil {
					return err
				}
			case info.IsSymlink():
				to, err := root.Readlink(p)
				if err != nil {
					return err
				}
				what += " " + to
			case info.IsRegular():
				sum, err := fileSum(root, p)
				if err != nil {
					return err
				}
				what += fmt.Sprintf(" %d %s", info.MtimeNS, sum)
				size += info.Size
			}
			out[p] = what
		}
		return nil
	}
	if err := walk("/"); err != nil {
		return nil, 0, fmt.Errorf("cannot look at the jail: %w", err)
	}
	return out, size, nil
}

func fileSum(root *jail.Root, p string) (string, error) {
	f, err := root.OpenFile(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
