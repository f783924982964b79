package steps

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pipeline"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
)

// Rollback is the pipeline of `jailup rollback`: to the last version by the same
// changeset backwards, to an older one by a changeset made from its snapshot.
func Rollback(e *Env) Plan {
	return Plan{
		Name: "rollback",
		Steps: []Step{
			&preflight{e},
			&choose{e},
			&rehearse{e},
			&arm{e},
			&stop{e},
			&install{e},
			&start{e},
			&verify{e},
			// — commit —
			&unrecord{e},
			&prune{e},
		},
		Commit: 8,
	}
}

// choose finds what to go back to and makes the changeset that leads there.
type choose struct{ e *Env }

func (s *choose) Name() string { return "choose" }

func (s *choose) Do(ctx context.Context, run *Run) error {
	e := s.e
	last, err := LoadLast(e.StateDir)
	if err != nil {
		return err
	}
	if to := e.Options.ToSnapshot; to != "" && (last == nil || to != last.Run || last.Snapshot != "") {
		return s.fromSnapshot(ctx, run, to)
	}
	if last == nil {
		return fail(nil, "see what there is: jailup snapshot list --jail "+e.Root.Path(),
			"cannot roll back jail %s: nothing was upgraded, or it was rolled back already", e.Root.Path())
	}
	set, err := changeset.Load(filepath.Join(e.StateDir, "runs", last.Run, "changeset.json"))
	if err != nil {
		return err
	}
	run.Facts.Reverts, run.Facts.Stage = last.Run, last.Stage
	run.Facts.From, run.Facts.To = last.To, last.From
	if err := run.Save(); err != nil {
		return err
	}
	_, err = e.openStage(&run.Facts)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err != nil {
		return fail(nil, "go back to its snapshot: jailup rollback --jail "+e.Root.Path()+" --to "+last.Snapshot,
			"cannot roll back run %s: its stage is gone: %w", last.Run, err)
	}
	e.set = set.Reverse()
	if err := s.edits(); err != nil {
		return err
	}
	if err := e.chosen(ctx, &run.Facts); err != nil {
		return err
	}
	if err := s.oldManifest(last.Run); err != nil {
		return err
	}
	return e.set.Save(e.RunDir(), "changeset.json")
}

// chosen notes what the changeset of a rollback means for the servers: by what each
// is judged, who else is affected, how much changes.
func (e *Env) chosen(ctx context.Context, facts *Facts) error {
	if err := e.judgeByView(); err != nil {
		return err
	}
	if err := e.findAffected(ctx); err != nil {
		return err
	}
	e.saveServers(facts)
	facts.Changed = e.set.Changed()
	return nil
}

// judgeByView has the servers that are gone back to judged by the configuration
// that comes back with them, where that is not today's: their ports and sites may
// be other ones, and their series.
func (e *Env) judgeByView() error {
	view, err := e.viewNow()
	if err != nil {
		return err
	}
	if e.Recipes != nil {
		if main, ok := e.Recipes.Find(e.Recipe.Name); ok {
			next := compose(e.Recipes, main, view)
			next = e.keepEditions(next, view)
			if !sameEditions(e.Recipe, next) {
				e.setNext(next, carryPairs(e.Recipe, next))
				if err := e.keepRecipes(); err != nil {
					return err
				}
			}
		}
	}
	other := false
	for _, u := range e.servers() {
		then, err := u.site(view, after)
		if err != nil {
			continue // the rehearsal says more of it
		}
		now, err := u.configuration()
		if err == nil && sameSite(now, then) {
			continue
		}
		u.conf, other = then, true
	}
	if other {
		e.judge = &checks.Report{}
		return nil
	}
	// The modules that come back are those of then: today's are no measure.
	judge := e.before()
	judge.Results = slices.DeleteFunc(slices.Clone(judge.Results), func(r checks.Result) bool { return r.Observation.Kind == checks.KindPHP })
	e.judge = &judge
	return nil
}

// keepEditions leaves each part in the edition that it is in, where its programs are
// still there: what lies beside them is not the jail's.
func (e *Env) keepEditions(next *recipes.Recipe, t tree) *recipes.Recipe {
	var parts []*recipes.Recipe
	for _, p := range next.Parts() {
		if was, ok := e.Recipe.Part(p.Name); ok && was.Edition() != p.Edition() {
			if f, err := t.Open(was.Executables[0]); err == nil {
				f.Close()
				p = was
			}
		}
		parts = append(parts, p)
	}
	return recipes.Join(parts[len(parts)-1], parts[:len(parts)-1]...)
}

func sameEditions(a, b *recipes.Recipe) bool {
	return slices.EqualFunc(a.Parts(), b.Parts(), func(x, y *recipes.Recipe) bool {
		return x.Name == y.Name && x.Edition() == y.Edition()
	})
}

// sameSite tells whether two configurations say the same.
func sameSite(a, b site) bool {
	x, ok := a.(nginxSite)
	y, also := b.(nginxSite)
	if ok && also {
		return reflect.DeepEqual(x.Directives, y.Directives)
	}
	return reflect.DeepEqual(a, b)
}

// oldManifest keeps the manifest of before the reverted run with this run; a
// jail that had none then has none again.
func (s *choose) oldManifest(reverted string) error {
	m, err := manifest.LoadFile(filepath.Join(s.e.StateDir, "runs", reverted, "manifest.old.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return m.SaveAs(s.e.file("manifest.json"))
}

// Undo removes the stage if it was made for this run.
func (s *choose) Undo(_ context.Context, run *Run) error {
	e := s.e
	own := filepath.Base(run.Facts.Stage) == e.Run
	if own {
		if err := e.mustBeOld(&run.Facts); err != nil {
			return err
		}
	}
	if e.stage != nil {
		e.stage.Close()
		e.stage = nil
	}
	if !own {
		return nil
	}
	return pipeline.Leftover(e.dropStage(run.Facts.Stage))
}

// unrecord makes the old manifest the jail's again.
type unrecord struct{ e *Env }

func (s *unrecord) Name() string { return "record" }

func (s *unrecord) Do(_ context.Context, run *Run) error {
	e := s.e
	e.freeReserve(&run.Facts)
	m, err := manifest.LoadFile(e.file("manifest.json"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = manifest.Remove(e.StateDir)
	case err == nil:
		err = m.Save(e.StateDir)
	}
	if err != nil {
		return err
	}
	d, err := sys.OpenDir(e.StateDir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.RemoveTree(int(d.Fd()), "last.json"); err != nil {
		return err
	}
	if err := sys.FsyncDir(int(d.Fd())); err != nil {
		return err
	}
	if e.stage != nil {
		e.stage.Close()
		e.stage = nil
	}
	return e.dropStage(run.Facts.Stage)
}

func (s *unrecord) Undo(context.Context, *Run) error { return nil }
