package elfdeps

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// loaderTrees is how many random trees are compared; each takes some
// milliseconds. JAILUP_LOADER_TREES asks for more.
const loaderTrees = 200

// TestLoaderDecides makes random trees of programs and libraries, with search
// paths, links, versions, other classes and caches, and asks the real ld.so of
// this machine, chrooted into each, what it finds.
func TestLoaderDecides(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "ldconfig")
	host := New(osFS{"/"})
	sh, err := host.Object("/bin/sh")
	require.NoError(t, err)
	ldso, err := os.ReadFile(sh.Interp)
	require.NoError(t, err)
	system := host.dialect(&sh).dirs
	base := t.TempDir()
	found, lost := 0, 0
	trees := uint64(loaderTrees)
	if s := os.Getenv("JAILUP_LOADER_TREES"); s != "" {
		trees, err = strconv.ParseUint(s, 10, 32)
		require.NoError(t, err)
	}
	for seed := range trees {
		dir := filepath.Join(base, fmt.Sprint(seed))
		g := &treeMaker{rnd: rand.New(rand.NewPCG(seed, 7)), dir: dir, system: system, interp: sh.Interp}
		g.make(t, ldso)
		want := g.ask(t)
		c, err := New(osFS{dir}).Closure(context.Background(), []string{"/bin/p"})
		require.NoError(t, err, "seed %d", seed)
		got := g.answer(t, c)
		require.Equal(t, want, got, "seed %d:\n%s", seed, strings.Join(g.log, "\n"))
		for _, w := range want {
			if strings.HasPrefix(w, "/") {
				found++
			} else {
				lost++
			}
		}
		require.NoError(t, os.RemoveAll(dir))
	}
	t.Logf("%d trees, %d files found, %d findings", trees, found, lost)
	require.Greater(t, found, loaderTrees)
	require.Greater(t, lost, loaderTrees/4)
}

type treeMaker struct {
	rnd    *rand.Rand
	dir    string
	system []string
	interp string
	log    []string
}

func (g *treeMaker) write(t *testing.T, p string, b []byte, note string) {
	full := filepath.Join(g.dir, p)
	require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
	lab.WriteProgram(t, full, b) // the loader is run, and other tests fork
	g.log = append(g.log, p+" "+note)
}

func (g *treeMaker) some(of []string, most int) []string {
	of = slices.Clone(of)
	g.rnd.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:g.rnd.IntN(min(most, len(of))+1)]
}

func (g *treeMaker) one(of []string) string { return of[g.rnd.IntN(len(of))] }

func (g *treeMaker) chance(percent int) bool { return g.rnd.IntN(100) < percent }

func (g *treeMaker) make(t *testing.T, ldso []byte) {
	merged := g.chance(50)
	require.NoError(t, os.MkdirAll(g.dir, 0o755))
	if merged {
		for _, l := range []string{"lib", "lib64", "bin"} {
			require.NoError(t, os.MkdirAll(filepath.Join(g.dir, "usr", l), 0o755))
			require.NoError(t, os.Symlink("usr/"+l, filepath.Join(g.dir, l)))
		}
	}
	g.write(t, g.interp, ldso, "")
	cache := g.chance(40)
	names := []string{"liba.so", "libb.so", "libc.so", "libd.so", "libe.so", "libf.so"}
	dirs := append([]string{"/opt/a", "/opt/b", "/opt/a/sub", "/opt/conf", "/opt/conf2"}, g.system...)
	for _, name := range names {
		places := g.some(dirs, 3)
		if len(places) == 0 && g.chance(80) {
			places = []string{g.one(dirs)}
		}
		for _, d := range places {
			p := d + "/" + name
			if _, err := os.Lstat(filepath.Join(g.dir, p)); err == nil {
				continue // a merged tree has one place by two names
			}
			switch {
			case g.chance(8):
				g.write(t, p, otherClass(), "other class")
			case g.chance(15):
				// A link, relative or not, to a file with a name of its own.
				target := "/opt/real/" + strings.ReplaceAll(strings.Trim(p, "/"), "/", "-")
				m, note := g.library(name, names, cache)
				g.write(t, target, m.bytes(), note)
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(g.dir, p)), 0o755))
				require.NoError(t, os.Symlink(target, filepath.Join(g.dir, p)))
				g.log = append(g.log, p+" -> "+target)
			default:
				m, note := g.library(name, names, cache)
				g.write(t, p, m.bytes(), note)
			}
		}
	}
	m, note := g.library("", names, cache)
	m.interp = g.interp
	if len(m.needed) == 0 {
		m.needed = names[:2]
	}
	m.flags1 |= flagPIE
	g.write(t, "/bin/p", m.bytes(), note)
	if g.chance(15) {
		g.write(t, "/etc/ld.so.preload", []byte("# some\n"+g.one(names)+" /opt/a/"+g.one(names)), "")
	}
	if cache || g.chance(20) {
		g.write(t, "/etc/ld.so.conf", []byte("include /etc/ld.so.conf.d/*.conf\n"), "")
		g.write(t, "/etc/ld.so.conf.d/x.conf", []byte("/opt/conf\n/opt/conf2 # two\n"+strings.Join(g.system, "\n")), "")
	}
	if cache {
		out, err := exec.Command("ldconfig", "-X", "-r", g.dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
		g.log = append(g.log, "cache")
	}
}

// library describes a random library. ldconfig goes by the SONAME, so a tree
// with a cache has SONAMEs that are the files' names.
func (g *treeMaker) library(name string, names []string, cache bool) (made, string) {
	m := made{soname: name, needed: g.some(names, 3)}
	if name != "" && !cache && g.chance(15) {
		m.soname = g.one(append(names, ""))
	}
	path := func() string {
		return strings.Join(g.some([]string{"/opt/a", "/opt/b", "$ORIGIN/sub", "${ORIGIN}", "$ORIGIN/../b", "/opt/real/../a", "/opt/$LIB", "/none", "opt/b", "/opt//b/", ""}, 3), ":")
	}
	if g.chance(35) {
		m.rpath = path()
	}
	if g.chance(30) {
		m.runpath = strptr(path())
	}
	if g.chance(5) {
		m.flags1 = flagNoDefLib
	}
	if name != "" && g.chance(60) {
		m.defines = append([]string{name}, g.some([]string{"V1", "V2", "V3"}, 3)...)
	}
	for _, n := range m.needed {
		if g.chance(50) {
			m.wants = append(m.wants, wanted{n, g.one([]string{"V1", "V2", "V3"}), g.chance(20)})
		}
	}
	note := fmt.Sprintf("soname %q needs %v rpath %q flags %x wants %v defines %v", m.soname, m.needed, m.rpath, m.flags1, m.wants, m.defines)
	if m.runpath != nil {
		note += fmt.Sprintf(" runpath %q", *m.runpath)
	}
	return m, note
}

var (
	loaderFound   = regexp.MustCompile(`(?m)^\t(?:\S+ => )?(\S*/\S*) \(0x`)
	loaderLost    = regexp.MustCompile(`(?m)^\t(\S+) => not found`)
	loaderVersion = regexp.MustCompile("(\\S+): version `([^']*)' not found \\(required by ([^)]*)\\)")
)

// ask gives what the loader says: files by physical path, names that it does
// not find, versions that it misses.
func (g *treeMaker) ask(t *testing.T) []string {
	cmd := exec.Command(g.interp, "/bin/p")
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "LD_TRACE_LOADED_OBJECTS=1", "LD_WARN=", "LD_BIND_NOW=", "LD_LIBRARY_VERSION=", "LD_VERBOSE="} // as ldd does: lists what is missing too
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: g.dir}
	b, err := cmd.CombinedOutput() // it fails where something is missing
	g.log = append(g.log, fmt.Sprint(err))
	out := string(b)
	g.log = append(g.log, out)
	require.NotContains(t, out, "Inconsistency")
	require.NotContains(t, out, "error while loading", "%s", strings.Join(g.log, "\n"))
	set := map[string]bool{}
	for _, m := range loaderFound.FindAllStringSubmatch(out, -1) {
		set[g.physical(t, m[1])] = true
	}
	for _, m := range loaderLost.FindAllStringSubmatch(out, -1) {
		set["lost "+m[1]] = true
	}
	for _, m := range loaderVersion.FindAllStringSubmatch(out, -1) {
		set["version "+m[2]+" of "+g.physical(t, m[1])+" by "+g.physical(t, m[3])] = true
	}
	return g.comparable(t, set)
}

// comparable leaves out what is not said alike: the program itself, and the
// loader, which is listed only if something names it.
func (g *treeMaker) comparable(t *testing.T, set map[string]bool) []string {
	delete(set, g.physical(t, "/bin/p"))
	delete(set, g.physical(t, g.interp))
	return sorted(set)
}

func (g *treeMaker) physical(t *testing.T, p string) string {
	at, err := New(osFS{g.dir}).resolve(p)
	require.NoError(t, err, p)
	return at.path
}

func (g *treeMaker) answer(t *testing.T, c *Closure) []string {
	set := map[string]bool{}
	for p := range c.Objects {
		set[p] = true
	}
	for _, m := range c.Missing {
		if v, ok := strings.CutPrefix(m.Reason, "version "); ok {
			v, at, _ := strings.Cut(v, " not provided by ")
			set["version "+v+" of "+at+" by "+m.By] = true
		} else {
			set["lost "+m.Name] = true
		}
	}
	return g.comparable(t, set)
}

func sorted(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
