package recipes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"syscall"
)

// Set is a list of recipes.
type Set struct{ list []*Recipe }

// Load reads the embedded recipes and those of dir (*.yaml), which may be empty
// or missing; a recipe of dir takes the place of an embedded one of its name.
func Load(dir string) (*Set, error) {
	s := &Set{}
	names, err := fs.Glob(embedded, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		data, err := embedded.ReadFile(n)
		if err != nil {
			return nil, err
		}
		r, err := Parse(n, data)
		if err != nil {
			return nil, err
		}
		s.put(r)
	}
	if dir == "" {
		return s, nil
	}
	if err := trust(dir, "folder of recipes"); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := trust(f, "recipe"); err != nil {
			return nil, err
		}
		r, err := ReadFile(f)
		if err != nil {
			return nil, err
		}
		s.put(r)
	}
	return s, nil
}

// trust refuses, for root, what others could have written or may add to: a recipe
// says what is run as root. What is not there is nobody's.
func trust(path, what string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || os.Geteuid() != 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", what, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
		return fmt.Errorf("cannot read %s %s: it belongs to user %d, not to root", what, path, st.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("cannot read %s %s: others may write to it", what, path)
	}
	return nil
}

func (s *Set) put(r *Recipe) {
	if r.Abstract {
		return
	}
	for i, old := range s.list {
		if old.Name == r.Name {
			s.list[i] = r
			return
		}
	}
	s.list = append(s.list, r)
	sort.Slice(s.list, func(i, k int) bool { return s.list[i].Name < s.list[k].Name })
}

// All returns the recipes, sorted by name.
func (s *Set) All() []*Recipe { return s.list }

// Find returns the recipe with that name, or with that alias; a server before a
// part of one.
func (s *Set) Find(name string) (*Recipe, bool) {
	var found *Recipe
	for _, r := range s.list {
		if r.Name == name {
			return r, true
		}
		if slices.Contains(r.Aliases, name) && (found == nil || !found.HasProcesses()) {
			found = r
		}
	}
	return found, found != nil
}

// Companions returns the recipes that go along with r, in the order in which it
// names them.
func (s *Set) Companions(r *Recipe) []*Recipe {
	var out []*Recipe
	for _, n := range r.Companions {
		if c, ok := s.Find(n); ok {
			out = append(out, c)
		}
	}
	return out
}

// Companion returns the companion of r with that name or alias: "php" is mod-php
// to one server and php-fpm to another.
func (s *Set) Companion(r *Recipe, name string) (*Recipe, bool) {
	for _, c := range s.Companions(r) {
		if c.Name == name {
			return c, true
		}
	}
	for _, c := range s.Companions(r) {
		if slices.Contains(c.Aliases, name) {
			return c, true
		}
	}
	return nil, false
}
