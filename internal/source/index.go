package source

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// Index is what the sources offer: every version of every package for one
// architecture. It does not change and may be used by several goroutines.
type Index struct {
	// Date is that of each source's Release file, by "URI SUITE".
	Date    map[string]time.Time
	Notices []Notice

	arch     string
	items    []item
	next     []int32          // of the same name, -1 at the end
	names    map[string]int32 // the first item of a name
	provides map[string][]int32
	bad      map[string]string // names with an entry that cannot be used, and why
}

// item is one stanza and where it came from.
type item struct {
	*pkgs.Stanza
	from *origin
}

// origin is what all packages of one Packages file share.
type origin struct {
	name, suite, codename string
	priority              int
	base                  string // URL that Filename is relative to, with a slash
	order                 int    // of the source among the sources
}

func newIndex(arch string) *Index {
	return &Index{Date: map[string]time.Time{}, arch: arch, names: map[string]int32{}, provides: map[string][]int32{}, bad: map[string]string{}}
}

// add takes the packages of one origin over.
func (ix *Index) add(from *origin, stanzas []*pkgs.Stanza) {
	for _, s := range stanzas {
		n := int32(len(ix.items))
		ix.items = append(ix.items, item{s, from})
		first, ok := ix.names[s.Package]
		if !ok {
			first = -1
		}
		ix.next = append(ix.next, first)
		ix.names[s.Package] = n
		if s.Provides == "" {
			continue
		}
		// What cannot be parsed is not provided.
		list, _ := pkgs.ParseProvides(s.Provides)
		for _, r := range list {
			ix.provides[r.Name] = append(ix.provides[r.Name], n)
		}
	}
}

// Len is the number of packages, each version counted.
func (ix *Index) Len() int { return len(ix.items) }

// Arch is the architecture that the index is for.
func (ix *Index) Arch() string { return ix.arch }

// Versions lists the versions of a package: highest priority first, then the
// newest in Debian's order, then by the order of the sources. One version from
// several sources with the same content comes once. The list is empty, never an
// error, for a name that nobody offers.
func (ix *Index) Versions(name string) []Package {
	var list []item
	if n, ok := ix.names[name]; ok {
		for ; n >= 0; n = ix.next[n] {
			list = append(list, ix.items[n])
		}
	}
	slices.SortStableFunc(list, compareItems)
	return packagesOf(list)
}

// Providers lists the packages that provide a name (Debian Policy 7.5): highest
// priority first, then by name, then the newest first. A real package of that
// name is not among them.
func (ix *Index) Providers(virtual string) []Package {
	var list []item
	for _, n := range ix.provides[virtual] {
		list = append(list, ix.items[n])
	}
	slices.SortStableFunc(list, func(a, b item) int {
		if a.from.priority != b.from.priority {
			return b.from.priority - a.from.priority
		}
		if c := strings.Compare(a.Package, b.Package); c != 0 {
			return c
		}
		return compareItems(a, b)
	})
	return packagesOf(list)
}

// Names calls fn for each package name, in no order.
func (ix *Index) Names(fn func(name string)) {
	for n := range ix.names {
		fn(n)
	}
}

func compareItems(a, b item) int {
	if a.from.priority != b.from.priority {
		return b.from.priority - a.from.priority
	}
	if a.Version != b.Version {
		if c, err := pkgs.CompareVersions(b.Version, a.Version); err == nil && c != 0 {
			return c
		}
	}
	return a.from.order - b.from.order
}

func packagesOf(list []item) []Package {
	out := make([]Package, 0, len(list))
	for _, it := range list {
		if slices.ContainsFunc(out, func(p Package) bool {
			return p.Package == it.Package && p.Version == it.Version && p.SHA256 == it.SHA256
		}) {
			continue
		}
		out = append(out, Package{
			Stanza: *it.Stanza, Origin: it.from.name, Suite: it.from.suite, Codename: it.from.codename,
			Priority: it.from.priority, URL: it.from.base + escapePath(strings.TrimPrefix(it.Filename, "./")),
		})
	}
	return out
}

// escapePath makes a path from an index a part of a URL, byte by byte as apt
// does: an escape in a file name is a part of the name and is escaped itself.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(s), "+", "%2B")
	}
	return strings.Join(parts, "/")
}

// Bad tells what is wrong with an entry of this name in one of the indices, ""
// if nothing is. Such an entry is not among the versions; to take another
// version instead would be to let the index decide that.
func (ix *Index) Bad(name string) string { return ix.bad[name] }

// badNotice words the stanzas that were passed over.
func badNotice(source string, file string, bad int) Notice {
	return Notice{source, fmt.Sprintf("the entries of %d packages in %s cannot be read or lack a digest; these cannot be used", bad, event.Clean(file, 120))}
}
