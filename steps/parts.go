package steps

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/abi"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/recipes"
)

// tree is a jail, or a view of what one will be.
type tree interface {
	abi.Source
	ReadDir(path string) ([]string, error)
	Lstat(path string) (uint32, error)
}

// Compose finds what a jail holds of a server: in which series, and with which of
// its companions, and joins all of it to one recipe. A companion that was asked
// for is the jail's own server where it has one: PHP-FPM beside nginx is upgraded
// with nginx. What is not there comes back as it is.
func Compose(set *recipes.Set, r *recipes.Recipe, root *jail.Root) *recipes.Recipe {
	return compose(set, Main(set, r, root), viewOf(root))
}

// Main is the server that a recipe goes along with in this jail; the recipe itself
// where there is none.
func Main(set *recipes.Set, r *recipes.Recipe, root *jail.Root) *recipes.Recipe {
	for _, m := range set.All() {
		if _, ok := editionIn(viewOf(root), m); !ok {
			continue
		}
		for _, c := range set.Companions(m) {
			if c.Name == r.Name {
				return m
			}
		}
	}
	return r
}

// Alone is a server of a jail without its companions, in the series that is there.
func Alone(r *recipes.Recipe, root *jail.Root) *recipes.Recipe {
	if ed, ok := editionIn(viewOf(root), r); ok {
		return r.At(ed)
	}
	return r
}

func compose(set *recipes.Set, main *recipes.Recipe, t tree) *recipes.Recipe {
	if ed, ok := editionIn(t, main); ok {
		main = main.At(ed)
	}
	var parts []*recipes.Recipe
	for _, c := range set.Companions(main) {
		if ed, ok := editionIn(t, c); ok {
			parts = append(parts, c.At(ed))
		}
	}
	return recipes.Join(main, parts...)
}

// editionIn tells whether a tree holds one of the executables of a recipe, and of
// which edition it is. Of several the one that runs counts,
// else the newest.
func editionIn(t tree, r *recipes.Recipe) (recipes.Edition, bool) {
	for _, x := range r.Executables {
		if !r.Versioned() {
			if f, err := t.Open(x); err == nil {
				f.Close()
				return r.Edition(), true
			}
			continue
		}
		found := seriesIn(t, x)
		if root, ok := t.(rootTree); ok && len(found) > 1 {
			// The one that runs is the jail's, whatever lies beside it.
			slices.SortStableFunc(found, func(a, b string) int {
				return runs(root, strings.ReplaceAll(x, "{series}", b)) - runs(root, strings.ReplaceAll(x, "{series}", a))
			})
		}
		for _, series := range found {
			at := strings.ReplaceAll(x, "{series}", series)
			return recipes.Edition{Series: series, API: apiOf(t, r, at)}, true
		}
	}
	return recipes.Edition{}, false
}

// runs is 1 where a process runs a program of the jail, else 0.
func runs(root rootTree, program string) int {
	info, err := root.Stat(program)
	if err != nil {
		return 0
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, d := range entries {
		if _, err := strconv.Atoi(d.Name()); err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(path.Join("/proc", d.Name(), "exe"), &st) == nil && uint64(st.Dev) == info.Dev && st.Ino == info.Ino {
			return 1
		}
	}
	return 0
}

// seriesIn lists what {series} stands for in a tree, the newest first.
func seriesIn(t tree, template string) []string {
	names, err := t.ReadDir(path.Dir(template))
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range names {
		series, ok := fill(path.Base(template), "{series}", n)
		if !ok {
			continue
		}
		if f, err := t.Open(path.Join(path.Dir(template), n)); err == nil {
			f.Close()
			out = append(out, series)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return -compareVersions(a, b) })
	return out
}

// seriesRE is what a series may look like; it becomes part of paths.
var seriesRE = lazyregexp.New(`^[0-9]+(\.[0-9]+)*$`)

// fill tells what a word stands for where name is made from a template.
func fill(template, word, name string) (string, bool) {
	before, after, ok := strings.Cut(template, word)
	if !ok || len(name) < len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return "", false
	}
	value := name[len(before) : len(name)-len(after)]
	return value, seriesRE.MatchString(value)
}

func compareVersions(a, b string) int {
	c, err := pkgs.CompareVersions(a, b)
	if err != nil {
		return strings.Compare(a, b)
	}
	return c
}

// apiRE finds the number in PHP's build id.
var apiRE = lazyregexp.New(`API[0-9]?([0-9]{8})`)

// apiOf reads the number of the binary interface out of a program; "" where it
// has none.
func apiOf(t tree, r *recipes.Recipe, exe string) string {
	if r.Modules.ABI != "php" {
		return ""
	}
	f, err := t.Open(exe)
	if err != nil {
		return ""
	}
	defer f.Close()
	id, err := abi.PHP(f)
	if err != nil {
		return ""
	}
	if m := apiRE.FindStringSubmatch(id); m != nil {
		return m[1]
	}
	return ""
}

// carryPairs are the path prefixes that differ between two editions: what lies
// under the second one lay under the first one before.
func carryPairs(was, next *recipes.Recipe) [][2]string {
	var out [][2]string
	for _, n := range next.Parts() {
		w, ok := was.Part(n.Name)
		if !ok || w.Edition() == n.Edition() {
			continue
		}
		for i, old := range w.Carry {
			if i < len(n.Carry) && old != n.Carry[i] && !slices.Contains(out, [2]string{old, n.Carry[i]}) {
				out = append(out, [2]string{old, n.Carry[i]})
			}
		}
	}
	return out
}

// carried changes the words of a command line to the new paths.
func carried(argv []string, pairs [][2]string) []string {
	out := slices.Clone(argv)
	for i, w := range out {
		head, p := "", w
		if k := strings.IndexByte(w, '/'); k > 0 {
			head, p = w[:k], w[k:] // --fpm-config=/etc/php/...
		}
		for _, c := range pairs {
			if rest, ok := strings.CutPrefix(p, c[0]); ok {
				out[i] = head + c[1] + rest
				break
			}
		}
	}
	return out
}

// CheckServer refuses a name that is no server of its own.
func CheckServer(r *recipes.Recipe) error {
	if r.HasProcesses() {
		return nil
	}
	return fail(ErrUsage, "it goes along with its server: jailup upgrade "+r.Within,
		"cannot work on %s: it is a part of %s and has no processes of its own", r.Name, r.Within)
}

func viewOf(root *jail.Root) tree { return rootTree{root} }

// rootTree shows a jail as it is.
type rootTree struct{ *jail.Root }

func (t rootTree) Lstat(p string) (uint32, error) {
	info, err := t.Root.Lstat(p)
	if err == nil && info.Mode == 0 {
		err = fs.ErrNotExist
	}
	return info.Mode, err
}

func (t rootTree) Open(p string) (elfdeps.File, error) {
	f, err := t.OpenFile(p)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot read %s: %w", p, err)
	}
	return sizedFile{f, st.Size()}, nil
}
