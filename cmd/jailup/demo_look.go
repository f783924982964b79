package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/recipes"
)

func sortedKeys(m map[int]int) []int {
	var out []int
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
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
	out := map[string]string{}
	var size int64
	err := d.within(func(root *jail.Root) error { return d.walk(root, out, &size) })
	if err != nil {
		return nil, 0, fmt.Errorf("cannot look at the jail: %w", err)
	}
	return out, size, nil
}

func (d *demo) walk(root *jail.Root, out map[string]string, size *int64) error {
	var walk func(dir string) error
	walk = func(dir string) error {
		names, err := root.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			p := path.Join(dir, name)
			if recipes.Match(d.recipe.State, p) {
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
				*size += info.Size
			}
			out[p] = what
		}
		return nil
	}
	return walk("/")
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
