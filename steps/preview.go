package steps

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pipeline"
)

// Preview is what an upgrade would change: what plan and --dry-run tell.
type Preview struct {
	Schema   int               `json:"schema"`
	Server   string            `json:"server"`
	Servers  []string          `json:"servers"` // all that are upgraded together
	Modules  []string          `json:"modules"` // packages that come along for modules
	Affects  []string          `json:"affects"` // other servers that are restarted and checked too
	Jail     string            `json:"jail"`
	Current  bool              `json:"current"` // there is nothing to do
	From     map[string]string `json:"from"`
	To       map[string]string `json:"to"`
	Target   string            `json:"target"` // digest of the target
	Packages []PlannedPackage  `json:"packages"`
	Files    []PlannedFile     `json:"files"`
	Conf     []fileset.Conf    `json:"configuration"`
	Changed  []string          `json:"locally_changed"` // files that no package knows
	Download int64             `json:"download_bytes"`
	Disk     int64             `json:"stage_bytes"`    // beside the jail, until the next upgrade: the old files
	Unpacked int64             `json:"unpacked_bytes"` // beside the jail, while the new version is prepared
	Snapshot int64             `json:"snapshot_bytes"`
	Restart  []string          `json:"needs_restart"` // other processes whose files change
	State    []string          `json:"state"`         // will not roll back
	Running  bool              `json:"running"`
}

// PlannedPackage is one package of the target.
type PlannedPackage struct {
	Name    string `json:"name"`
	From    string `json:"from,omitempty"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Origin  string `json:"origin,omitempty"`
}

// PlannedFile is one operation.
type PlannedFile struct {
	Kind    changeset.Kind `json:"kind"`
	Path    string         `json:"path"`
	Package string         `json:"package,omitempty"`
}

// nowhere is a journal of runs that change nothing.
type nowhere struct{}

func (nowhere) Save(journal.Record) error { return nil }

// Look computes what an upgrade would do. e.Scratch must name an empty folder:
// nothing is written elsewhere, but packages into the cache.
func Look(ctx context.Context, e *Env) (*Preview, error) {
	run := pipeline.NewRun(e.Run, Facts{Verb: "plan", Server: e.Recipe.Name, Jail: e.Root.Path()}, nowhere{}, nil)
	if err := CheckJail(e.Root, e.Recipe); err != nil {
		return nil, err
	}
	if err := e.checkNamed(); err != nil {
		return nil, err
	}
	var err error
	if e.old, err = manifest.Load(e.StateDir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(e.RunDir(), 0o700); err != nil {
		return nil, err
	}
	run.Facts.Stage = filepath.Join(e.Scratch, "stage")
	if err := e.checkSame(); err != nil {
		return nil, err
	}
	for _, u := range e.servers() {
		if _, err := u.learn(ctx); err != nil {
			return nil, err
		}
	}
	if err := e.survey(); err != nil {
		return nil, err
	}
	e.dangers(ctx)
	p := &Preview{Schema: 1, Server: e.Recipe.Name, Jail: e.Root.Path(), State: e.Recipe.State, Running: e.anyRunning(),
		Servers: []string{}, Modules: []string{}, Affects: []string{}}
	for _, u := range e.reversed() {
		p.Servers = append(p.Servers, u.name())
	}
	for _, s := range []Step{&resolve{e}, &fetch{e}, &stage{e}, &rehearse{e}} {
		e.Events.StepStart(s.Name())
		began := time.Now()
		if err := s.Do(ctx, run); errors.Is(err, ErrCurrent) {
			p.Current = true
			break
		} else if err != nil {
			return nil, err
		}
		e.Events.StepDone(s.Name(), time.Since(began), "")
	}
	p.From, p.To, p.Target = run.Facts.From, run.Facts.To, run.Facts.Target
	if p.Current {
		return p, nil
	}
	for _, pkg := range e.target.Packages {
		p.Packages = append(p.Packages, PlannedPackage{Name: pkg.Package, From: run.Facts.From[pkg.Package], Version: pkg.Version, SHA256: pkg.SHA256, Size: pkg.Size, Origin: pkg.Origin})
		p.Download += pkg.Size
	}
	for _, op := range e.set.Ops {
		if op.Hold || op.Kind == changeset.Remove && e.replaced(op.Path) {
			continue
		}
		kind := op.Kind
		if op.Kind == changeset.Add && e.removed(op.Path) {
			kind = changeset.Replace
		}
		p.Files = append(p.Files, PlannedFile{Kind: kind, Path: op.Path, Package: op.Package})
		if op.Old != nil {
			p.Disk += op.Old.Size
		}
	}
	p.Conf, p.Changed, p.Modules = e.sel.Conf, e.sel.Changed, append(p.Modules, e.modules...)
	for _, u := range e.servers() {
		if u.facts.Affected {
			p.Affects = append(p.Affects, u.name())
		}
	}
	p.Unpacked = e.stage.Written()
	p.Snapshot = e.jailSize(ctx)
	p.Restart = e.needRestart(ctx)
	return p, nil
}

// replaced tells whether what an operation takes out of a path another one puts
// in again.
func (e *Env) replaced(p string) bool { return e.has(changeset.Add, p) }
func (e *Env) removed(p string) bool  { return e.has(changeset.Remove, p) }

func (e *Env) has(kind changeset.Kind, p string) bool {
	for _, op := range e.set.Ops {
		if op.Kind == kind && op.Path == p {
			return true
		}
	}
	return false
}
