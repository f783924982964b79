package fileset

import (
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/jail"
)

// Layout answers where a package's file lies in one jail. A jail keeps its
// layout: a split one stays split, a merged one merged.
type Layout struct {
	root   *jail.Root
	merged map[string]bool // top directories that are links into /usr
	tuples []string        // of the jail's multiarch directories
}

// NewLayout looks at the jail's top directories.
func NewLayout(root *jail.Root) *Layout {
	l := &Layout{root: root, merged: map[string]bool{}}
	for top := range topDirs {
		real, err := root.RealPath("/" + top)
		l.merged[top] = err == nil && real == "/usr/"+top
	}
	for _, dir := range []string{"/lib", "/usr/lib"} {
		list, _ := root.ReadDir(dir)
		for _, name := range list {
			if isMultiarch(name) && !slices.Contains(l.tuples, name) {
				l.tuples = append(l.tuples, name)
			}
		}
	}
	return l
}

// names are all that a canonical path may have in this jail: a library that is
// shipped into no multiarch directory may have strayed into one.
func (l *Layout) names(canonical string) []string {
	out := names(canonical)
	if dir := path.Dir(canonical); len(out) > 2 && !isMultiarch(dir) {
		for _, t := range l.tuples {
			base := path.Base(canonical)
			out = append(out, path.Join("/lib", t, base), path.Join("/usr/lib", t, base))
		}
	}
	return out
}

// names returns every name that a canonical path may have in a jail: itself,
// its form without /usr, and for a library each of ld.so's own directories, into
// which tutorials copy by hand.
func names(canonical string) []string {
	out := []string{canonical}
	rest, ok := strings.CutPrefix(canonical, "/usr/")
	if !ok {
		return out
	}
	top, below, _ := strings.Cut(rest, "/")
	if !topDirs[top] {
		return out
	}
	out = append(out, "/"+rest)
	if !isLibrary(canonical) || !strings.HasPrefix(top, "lib") {
		return out
	}
	dir, base := path.Split(below)
	if dir != "" && strings.Count(dir, "/") > 1 {
		return out // a plug-in's own folder, which ld.so does not search
	}
	if dir != "" && !isMultiarch(strings.TrimSuffix(dir, "/")) {
		return out
	}
	for _, d := range []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		out = append(out, path.Join(d, base))
	}
	return out
}

// isMultiarch tells a tuple such as x86_64-linux-gnu from another folder.
func isMultiarch(dir string) bool { return strings.Contains(dir, "-linux-gnu") }

// Existing returns the physical paths at which the jail holds a canonical path
// now, each once.
func (l *Layout) Existing(canonical string) []string {
	var out []string
	for i, n := range l.names(canonical) {
		info, err := l.root.Lstat(n)
		if err != nil || i > 1 && !info.IsRegular() && !l.strayLink(n, info) {
			continue // a link between ld.so's directories is the layout's own
		}
		p, err := l.root.Physical(n)
		if err == nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// strayLink tells whether a link leads to a file beside it, as cp -a copies a
// library: libz.so.1 and libz.so.1.2.13.
func (l *Layout) strayLink(p string, info jail.Info) bool {
	if !info.IsSymlink() {
		return false
	}
	to, err := l.root.Readlink(p)
	return err == nil && !strings.Contains(to, "/")
}

// Default returns where a file goes that the jail does not hold yet: as shipped
// in a split jail, into /usr in a merged one.
func (l *Layout) Default(n *Node) string {
	rest, ok := strings.CutPrefix(n.Path, "/usr/")
	if !ok {
		return n.Path
	}
	top, _, _ := strings.Cut(rest, "/")
	if topDirs[top] && !l.merged[top] && !l.root.Exists("/usr/"+top) && l.root.Exists("/"+top) {
		return "/" + rest // this jail has /lib, and no /usr/lib at all
	}
	if topDirs[top] && l.merged[top] {
		return n.Path
	}
	return n.Shipped
}
