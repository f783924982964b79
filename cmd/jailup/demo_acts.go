package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

// demoSoak is how long the demo's upgrades look at the new server: two looks
// are enough to show it, and nobody's site is at stake.
const demoSoak = "2s"

// building makes the jail and starts the servers in it.
func (d *demo) building(ctx context.Context) error {
	var err error
	if d.port, err = freePort(); err != nil {
		return err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", d.port)
	d.url = "http://" + listen + "/"
	create := func() (outcome, error) {
		args := append([]string{"create", d.main.Name, "--listen", listen}, d.cast.create...)
		if len(d.asked) > 0 {
			args = append(args, "--with", strings.Join(d.asked, ","))
		}
		return d.must(ctx, true, exitOK, event.Created, args...)
	}
	o, err := create()
	if err != nil && d.cast.suite != "" && ctx.Err() == nil {
		// What another release offers need not fit together. The demo goes on.
		d.say.fact("warning:", "%s %s of %s does not serve: %v", d.server(), d.cast.old, d.cast.suite, err)
		if err := d.same(ctx); err != nil {
			return err
		}
		d.say.fact("instead:", "%s %s, and the same repacked as %s", d.server(), d.cast.old, d.cast.new)
		o, err = create()
	}
	if err != nil && o.exit == exitFailed && strings.HasPrefix(o.done.Error, "cannot find module ") {
		// Only with the packages at hand can it be told: the command line named it.
		return &steps.Error{Kind: steps.ErrUsage, Err: errors.New(o.done.Error), Hint: o.done.Hint}
	}
	if err != nil {
		return err
	}
	if got := o.done.To[d.server()]; got != d.cast.old {
		return fmt.Errorf("the new jail holds %s %s, not %s", d.server(), got, d.cast.old)
	}
	if err := d.within(func(root *jail.Root) error {
		d.recipe = steps.Compose(d.s.recipes, d.main, root)
		return d.putPage(root)
	}); err != nil {
		return err
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
	return d.introducePHP(ctx)
}

// within opens the jail.
func (d *demo) within(do func(*jail.Root) error) error {
	root, err := jail.Open(d.jail)
	if err != nil {
		return err
	}
	defer root.Close()
	return do(root)
}

// start starts the servers, those that others need first, and keeps what is
// answered.
func (d *demo) start(ctx context.Context) error {
	for _, r := range d.recipe.Servers() {
		o, err := d.program(ctx, false, nil, "start", r.Name)
		if err != nil {
			return err
		}
		if o.exit != exitOK {
			return d.unexpected(o, "started", "start "+r.Name)
		}
	}
	body, err := d.get(ctx, d.url)
	if err != nil {
		return err
	}
	d.page = body
	return d.checkPage()
}

// get asks once for a page.
func (d *demo) get(ctx context.Context, url string) ([]byte, error) {
	status, body, err := ask(ctx, transport(true), url)
	if err != nil {
		return nil, fmt.Errorf("%s does not answer: %w", url, err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", url, status)
	}
	return body, nil
}

// upgrading shows an upgrade that goes well.
func (d *demo) upgrading(ctx context.Context) error {
	// plan unpacks all packages, as the upgrade does: with PHP that is a hundred
	// of them, and nobody wants to wait for it twice.
	if d.phpPart() == nil {
		if err := d.plan(ctx); err != nil {
			return err
		}
	}
	l, err := d.load(ctx)
	if err != nil {
		return err
	}
	defer l.stop()
	args := append([]string{"upgrade", d.main.Name, "--soak", demoSoak}, d.cast.upgrade...)
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
	for _, part := range d.s.recipe.Parts() {
		was, wasThere := packageOf(part, d.cast.first)
		now, isThere := packageOf(part, d.cast.target)
		if !wasThere || !isThere || now.Package == d.server() || now.SHA256 == was.SHA256 {
			continue
		}
		if got := o.done.To[now.Package]; got != now.Version {
			return fmt.Errorf("the upgrade brought %s %s, not %s", now.Package, got, now.Version)
		}
		d.say.fact("", "%s -> %s", was, strings.TrimPrefix(now.String(), was.Package+" "))
	}
	d.say.fact("page:", "the same as before")
	d.result.From, d.result.To, d.result.Changed, d.downtime = o.done.From, o.done.To, o.done.ChangedFiles, o.done.DowntimeMS
	switch {
	case from != d.cast.old || to != d.cast.new:
		return fmt.Errorf("the upgrade went from %s to %s, not from %s to %s", from, to, d.cast.old, d.cast.new)
	case seen.wrong() > 0:
		return fmt.Errorf("the load got %d answers that are not the page", seen.wrong())
	}
	// The series of PHP may be another one now.
	if err := d.within(func(root *jail.Root) error {
		d.recipe = steps.Compose(d.s.recipes, d.main, root)
		return nil
	}); err != nil {
		return err
	}
	return d.comparePHP(ctx)
}

// plan shows in a few lines what plan says.
func (d *demo) plan(ctx context.Context) error {
	file := filepath.Join(d.dir, "plan.json")
	args := append([]string{"plan", d.main.Name, "-o", file}, d.cast.upgrade...)
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
	d.say.fact("", "%s beside the jail, %s for the snapshot; %s stops once", ui.Bytes(p.Disk), ui.Bytes(p.Snapshot), d.servers())
	return nil
}

// servers names those of the jail.
func (d *demo) servers() string {
	var names []string
	for _, r := range d.recipe.Servers() {
		names = append(names, r.Name)
	}
	return strings.Join(names, " and ")
}

func downtime(r event.RunDone) string {
	if r.DowntimeMS == nil {
		return "not measured"
	}
	if *r.DowntimeMS == 0 {
		return "too short for the probes of the run, 20 a second"
	}
	return took(time.Duration(*r.DowntimeMS)*time.Millisecond) + " without any answer, by the probes of the run, 20 a second"
}

func files(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}
