package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func isFresh(fi os.FileInfo) bool { return time.Since(fi.ModTime()) < fresh }

func today() string { return time.Now().UTC().Format(time.DateOnly) }

// cached returns what was made today, or lets fill make it in a new folder and
// then lets the note point there: a reader never sees half a set. What it
// replaces is kept for a day, since another run may be reading it. folder tells
// a folder of what was made, by which is seen that it is still there; it lies in
// the set's own one. The caller holds a lock.
func cached[T any](dir, name string, folder func(T) string, fill func(set string) (T, error)) (T, error) {
	var none T
	note := filepath.Join(dir, name)
	had, age, rerr := readNote(note, folder)
	if rerr == nil && age < fresh {
		return had, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return none, err
	}
	old, _ := filepath.Glob(filepath.Join(dir, "set-*"))
	for _, d := range old {
		if fi, err := os.Stat(d); err == nil && time.Since(fi.ModTime()) > 2*fresh && (rerr != nil || d != filepath.Dir(folder(had))) {
			os.RemoveAll(d)
		}
	}
	made, err := fillSet(dir, fill)
	if err != nil {
		if rerr == nil {
			return had, nil // yesterday's set is better than none
		}
		return none, err
	}
	b, err := json.Marshal(made)
	if err != nil {
		return none, err
	}
	if err := os.WriteFile(note+".tmp", b, 0o644); err != nil {
		return none, err
	}
	return made, os.Rename(note+".tmp", note)
}

func readNote[T any](note string, folder func(T) string) (had T, age time.Duration, err error) {
	b, err := os.ReadFile(note)
	if err != nil {
		return had, 0, err
	}
	if err := json.Unmarshal(b, &had); err != nil {
		return had, 0, err
	}
	if _, err := os.Stat(folder(had)); err != nil {
		return had, 0, err
	}
	fi, err := os.Stat(note)
	if err != nil {
		return had, 0, err
	}
	return had, time.Since(fi.ModTime()), nil
}

func fillSet[T any](dir string, fill func(set string) (T, error)) (made T, err error) {
	set, err := os.MkdirTemp(dir, "set-")
	if err != nil {
		return made, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(set)
		}
	}()
	if err = os.Chmod(set, 0o755); err != nil {
		return made, err
	}
	made, err = fill(set)
	return made, err
}

// fetch downloads packages and what they need into a new folder, and tells the
// versions. What the index promises and the archive does not have (an index may
// be newer than the mirror behind it) is left out of the choice for a day.
func (a *apt) fetch(dir string, names []string, newest bool) (map[string]string, error) {
	for range 5 {
		chosen, err := a.closure(names, newest)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		err = withLock("pool", func() error { return a.download(dir, chosen) })
		var gone goneError
		if !errors.As(err, &gone) {
			return chosen, err
		}
		if err := a.leaveOut(gone, chosen); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the archive lacks too much of what its index promises for %s", strings.Join(names, " "))
}

// goneError names packages that the archive does not have.
type goneError []string

func (g goneError) Error() string { return "the archive does not have " + strings.Join(g, ", ") }

var notFound = regexp.MustCompile(`Failed to fetch \S+/([^/_\s]+)_\S+\s+404`)

// download links packages out of the pool, into which those that are not there
// yet are fetched: sets overlap.
func (a *apt) download(dir string, versions map[string]string) error {
	pool := filepath.Join(filepath.Dir(a.dir), "pool")
	if err := sweepPool(pool); err != nil {
		return err
	}
	args := []string{"-q", "download"}
	for name, version := range versions {
		if inPool(pool, name, version) == "" {
			args = append(args, name+"="+version)
		}
	}
	if len(args) > 2 {
		if err := a.fetchInto(pool, args); err != nil {
			return err
		}
	}
	for name, version := range versions {
		deb := inPool(pool, name, version)
		if deb == "" {
			return fmt.Errorf("%s %s was asked for and did not come", name, version)
		}
		if err := linkOrCopy(deb, filepath.Join(dir, filepath.Base(deb))); err != nil {
			return err
		}
	}
	return nil
}

// inPool finds a package under the name that apt gives to what it downloads.
func inPool(pool, name, version string) string {
	found, _ := filepath.Glob(filepath.Join(pool, name+"_"+strings.ReplaceAll(version, ":", "%3a")+"_*.deb"))
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

// fetchInto gives a package its name in the pool when it is whole.
func (a *apt) fetchInto(pool string, args []string) error {
	tmp, err := os.MkdirTemp(pool, "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if out, err := a.run(tmp, "apt-get", args...); err != nil {
		var gone goneError
		for _, m := range notFound.FindAllStringSubmatch(out, -1) {
			gone = appendNew(gone, m[1])
		}
		if len(gone) > 0 {
			return gone
		}
		return fmt.Errorf("cannot download packages: %w: %s", err, tail(out))
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	for _, d := range debs {
		if err == nil {
			err = os.Rename(d, filepath.Join(pool, filepath.Base(d)))
		}
	}
	return err
}

// sweepPool removes what no set has a link to, and has not had for a while.
func sweepPool(pool string) error {
	if err := os.MkdirAll(pool, 0o755); err != nil {
		return err
	}
	all, err := os.ReadDir(pool)
	if err != nil {
		return err
	}
	for _, e := range all {
		fi, err := e.Info()
		if err != nil {
			continue
		}
		st := fi.Sys().(*syscall.Stat_t)
		if fi.Mode().IsRegular() && st.Nlink == 1 && time.Since(time.Unix(st.Ctim.Unix())) > 2*fresh {
			_ = os.Remove(filepath.Join(pool, e.Name()))
		}
	}
	return nil
}
