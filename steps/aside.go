package steps

import (
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/sys"
)

// plusFile shows a tree with one empty file more, so that the readers of
// configuration tell whether a server would read it.
type plusFile struct {
	confFiles
	physical func(string) (string, error)
	file     string // by its physical path
}

func (f plusFile) ReadDir(dir string) ([]string, error) {
	names, err := f.confFiles.ReadDir(dir)
	if p, perr := f.physical(path.Join(dir, "x")); err == nil && perr == nil && path.Dir(p) == path.Dir(f.file) && !slices.Contains(names, path.Base(f.file)) {
		names = append(slices.Clone(names), path.Base(f.file))
	}
	return names, err
}

func (f plusFile) ReadFile(p string, limit int64) ([]byte, error) {
	if phys, err := f.physical(p); err == nil && phys == f.file {
		return nil, nil
	}
	return f.confFiles.ReadFile(p, limit)
}

// readByServer tells whether one of the jail's servers would read a file at a path:
// an include of all that lies in a folder does.
func (e *Env) readByServer(p string) bool {
	phys, err := e.Root.Physical(p)
	if err != nil {
		return false
	}
	files := plusFile{rootTree{e.Root}, e.Root.Physical, phys}
	reads := func(list []string) bool {
		return slices.ContainsFunc(list, func(f string) bool {
			at, err := e.Root.Physical(f)
			return err == nil && at == phys
		})
	}
	for _, u := range e.servers() {
		conf, err := readSite(files, u.recipe[before], u.argv(before), u.environment())
		if err != nil {
			continue
		}
		var list []string
		switch conf := conf.(type) {
		case nginxSite:
			list = conf.Nginx.Files
		case apacheSite:
			list = conf.Files()
		case fpmSite:
			list = conf.FPM.Files
		}
		if reads(list) {
			return true
		}
	}
	for _, part := range e.Recipe.Parts() {
		if part.PHP.INI == "" {
			continue
		}
		if ini, err := phpconf.ReadIni(files, part.PHP.INI, part.PHP.Scan, part.PHP.Extensions); err == nil && reads(ini.Files) {
			return true
		}
	}
	return false
}

// keepAside copies what must not lie in the jail into the run's folder.
func (e *Env) keepAside() error {
	if len(e.sel.Aside) == 0 || e.Scratch != "" {
		return nil
	}
	dir := e.file("configuration")
	if err := sys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, a := range e.sel.Aside {
		if err := e.copyAside(a, filepath.Join(dir, a.Name)); err != nil {
			return err
		}
	}
	e.note(event.Info, fmt.Sprintf("%d files that a server would read if they lay beside the changed ones are kept in %s", len(e.sel.Aside), dir), "")
	return nil
}

func (e *Env) copyAside(a fileset.AsideFile, to string) error {
	if a.Stage == "" {
		return nil
	}
	in, err := e.stage.Open(a.Stage)
	if err != nil {
		return err
	}
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxKept+1))
	if err != nil {
		return err
	}
	if len(data) > maxKept {
		return fmt.Errorf("cannot keep %s aside: it has more than %d bytes", event.Clean(a.Path, 200), maxKept)
	}
	return sys.WriteFileAtomic(to, data, 0o600)
}
