package steps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// viewFS shows a changeset's view to elfdeps.
type viewFS struct{ *changeset.View }

type sizedFile struct {
	*os.File
	size int64
}

func (f sizedFile) Size() int64 { return f.size }

func (v viewFS) Open(p string) (elfdeps.File, error) {
	f, err := v.View.Open(p)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return sizedFile{f, st.Size()}, nil
}

// ReadFile reads a file of at most limit bytes, as the readers of configuration
// want it.
func (v viewFS) ReadFile(p string, limit int64) ([]byte, error) {
	f, err := v.View.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("cannot read %s: longer than %d bytes", p, limit)
	}
	return data, err
}

// maxWalk bounds how many entries of a jail are looked at for programs: with
// more, it is looked only where they are to be expected.
const maxWalk = 500_000

// maxDepth bounds how deep programs are looked for: each level costs what all above
// it cost, and a tree of ten thousand of them holds no program that anybody runs.
const maxDepth = 64

// checkELF proves that every program and library of the jail, also those that
// are not jailup's, can be loaded once the changeset is installed. What could
// not be loaded before either is not blamed.
func (e *Env) checkELF(ctx context.Context) error {
	after := viewFS{changeset.NewView(e.Root, e.stage.Dir(), e.set)}
	files, err := e.programs(ctx, after, maxWalk)
	if err != nil {
		return err
	}
	missing, err := elfdeps.New(after).Check(ctx, files)
	if err != nil {
		return err
	}
	if missing, err = e.withHost(ctx, after, files, missing); err != nil || len(missing) == 0 {
		return err
	}
	before := viewFS{changeset.NewView(e.Root, e.stage.Dir(), nil)}
	var there []string
	for _, f := range files {
		if _, err := before.Lstat(f); err == nil {
			there = append(there, f)
		}
	}
	known := map[string]bool{}
	old, err := elfdeps.New(before).Check(ctx, there)
	if err != nil {
		return err
	}
	for _, m := range old {
		known[m.By+"\x00"+m.Name] = true
	}
	for _, m := range missing {
		if known[m.By+"\x00"+m.Name] {
			e.note(event.Warning, fmt.Sprintf("%s cannot be loaded, now as before: it needs %s: %s", m.By, m.Name, m.Reason), "")
			continue
		}
		return fail(nil, "", "cannot install: %s would need %s: %s", m.By, m.Name, m.Reason)
	}
	return nil
}

var errTooMany = errors.New("too many entries")

// programs returns what looks like a program or a library in the whole view. In
// a jail of more than bound entries, web content mostly, these are looked for
// only among what packages own and where ld.so and a shell look for them.
func (e *Env) programs(ctx context.Context, v viewFS, bound int) ([]string, error) {
	out, err := e.walk(ctx, v, bound)
	if !errors.Is(err, errTooMany) {
		return out, err
	}
	e.note(event.Warning, fmt.Sprintf("jail %s has more than %d entries; only programs and libraries of packages, and those in the usual directories, are checked",
		e.Root.Path(), bound), "")
	return e.expected(ctx, v, bound)
}

func (e *Env) walk(ctx context.Context, v viewFS, bound int) ([]string, error) {
	var out []string
	seen := 0
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		if depth > maxDepth {
			return nil
		}
		names, err := v.ReadDir(dir)
		if err != nil {
			return nil // a directory that cannot be read holds nothing that is loaded
		}
		for _, n := range names {
			if seen++; seen > bound {
				return errTooMany
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			p := path.Join(dir, n)
			mode, err := v.Lstat(p)
			if err != nil || p == "/"+stageInside {
				continue
			}
			switch mode & unix.S_IFMT {
			case unix.S_IFDIR:
				if info, err := e.Root.Lstat(p); err == nil && info.MountID != e.Root.MountID() {
					continue // another mount is another tree
				}
				if recipes.Match(e.Recipe.State, p+"/x") {
					continue
				}
				if err := walk(p, depth+1); err != nil {
					return err
				}
			case unix.S_IFREG:
				if mayLoad(n, mode) && isELF(v, p) {
					out = append(out, p)
				}
			}
		}
		return nil
	}
	return out, walk("/", 0)
}

// mayLoad tells by name and mode whether to look into a file at all.
func mayLoad(name string, mode uint32) bool {
	return mode&0o111 != 0 || strings.Contains(name, ".so")
}

// expected returns the programs and libraries among what packages own, what the
// changeset brings, and what lies in the directories in which ld.so and a shell
// look; of each at most bound names.
func (e *Env) expected(ctx context.Context, v viewFS, bound int) ([]string, error) {
	found := map[string]bool{}
	look := func(p string) {
		p, err := v.RealPath(p)
		if err != nil || found[p] {
			return
		}
		mode, err := v.Lstat(p)
		if err == nil && mode&unix.S_IFMT == unix.S_IFREG && mayLoad(path.Base(p), mode) && isELF(v, p) {
			found[p] = true
		}
	}
	for p := range e.old.Index() {
		look(p)
	}
	for _, op := range e.set.Ops {
		look(op.Path)
	}
	dirs := []string{"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"}
	res := elfdeps.New(v)
	for _, x := range e.Recipe.Executables {
		look(x)
		if obj, err := res.Object(x); err == nil {
			dirs = append(dirs, res.SearchPath(obj)...)
		}
	}
	for i := 0; i < len(dirs); i++ {
		names, err := v.ReadDir(dirs[i])
		if err != nil {
			continue
		}
		for _, n := range names[:min(len(names), bound)] {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			p := path.Join(dirs[i], n)
			if n == "glibc-hwcaps" || path.Base(dirs[i]) == "glibc-hwcaps" {
				dirs = append(dirs, p) // variants for newer processors, ld.so(8)
			}
			look(p)
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

func isELF(v viewFS, p string) bool {
	f, err := v.View.Open(p)
	if err != nil {
		return false
	}
	defer f.Close()
	return elfdeps.IsELF(f)
}

func hash(r io.Reader) (string, error) { return sys.HashFile(r) }

// boxChanges turns the changeset into what a sandbox shows.
func boxChanges(set *changeset.Set) []jail.Change {
	var out []jail.Change
	for _, op := range set.Ops {
		switch {
		case op.Hold:
		case op.Kind == changeset.Remove || op.Kind == changeset.Rmdir:
			out = append(out, jail.Change{Path: op.Path})
		default:
			out = append(out, jail.Change{Path: op.Path, Stage: op.Stage, Link: op.New.Link, Mode: op.New.Mode,
				UID: int(op.New.UID), GID: int(op.New.GID)})
		}
	}
	return out
}
