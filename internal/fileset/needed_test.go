package fileset

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// A program of an administrator's keeps the libraries that it is linked to, and
// what these need, though the next release has no package with them; until it is
// gone.
func TestNeededStays(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "gcc")
	before := lab.OtherSuite(t, -1)
	debs := lab.Packages(t, lab.PackagesOptions{Names: []string{"nginx"}, Suite: before})
	old := readRelease(t, debs)
	now := readRelease(t, lab.Packages(t, lab.PackagesOptions{Names: []string{"nginx"}, Newest: true}))
	h := newHouse(t)
	h.in.Recipe, h.in.Whole = theRecipe(t, "nginx"), true
	require.NoError(t, h.install(old.debs))
	h.in.Whole = false

	gone := h.librariesOnlyIn(old, now)
	require.NotEmpty(t, gone, "nginx of both releases needs the same libraries: look for another program")
	tool := h.path("/opt/tool")
	require.NoError(t, os.MkdirAll(filepath.Dir(tool), 0o755))
	link := exec.Command("gcc", "-x", "c", "-", "-o", tool, "-Wl,--no-as-needed", "-Wl,--unresolved-symbols=ignore-all", "-Wl,--allow-shlib-undefined",
		"-nostdlib", "-Wl,-e,main", "-x", "none", h.path(gone[0]))
	link.Stdin = strings.NewReader("int main(void){return 0;}")
	out, err := link.CombinedOutput()
	require.NoError(t, err, "%s", out)

	require.NoError(t, h.install(now.debs))
	require.NotEqual(t, "none", h.has(gone[0]))
	require.NotEmpty(t, h.kept)
	require.Equal(t, "/opt/tool", h.kept[0].By)
	for _, k := range h.kept {
		require.NotEqual(t, "none", h.has(k.Path), k.Path)
		require.Contains(t, h.m.Index(), k.Path)
		require.NotEmpty(t, h.m.Packages[h.m.Index()[k.Path].Package])
	}
	for _, p := range gone[1:] {
		if !slices.ContainsFunc(h.kept, func(k KeptFor) bool { return k.Path == p }) {
			require.Equal(t, "none", h.has(p), "nobody needs it")
		}
	}
	var st unix.Stat_t
	require.NoError(t, unix.Stat(h.path(gone[0]), &st))

	// As long as the tool is there it stays, then it goes.
	require.NoError(t, h.install(now.debs))
	require.NotEqual(t, "none", h.has(gone[0]))
	require.NoError(t, os.Remove(tool))
	require.NoError(t, h.install(now.debs))
	require.Equal(t, "none", h.has(gone[0]))
	require.Empty(t, h.kept)
	for p := range h.m.Index() {
		require.NotEqual(t, gone[0], p)
	}
	out, err = exec.Command("chroot", h.jail, "/usr/sbin/nginx", "-v").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// librariesOnlyIn are the libraries of the jail that only the older release has,
// those first that need another one of them.
func (h *house) librariesOnlyIn(old, now *release) []string {
	has := map[string]bool{}
	for _, files := range now.files {
		for _, f := range files {
			has[filepath.Base(f.Path)] = true
		}
	}
	var out []string
	_ = filepath.WalkDir(h.jail, func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(e.Name(), ".so.") && !has[e.Name()] {
			b, err := os.ReadFile(p)
			sum := sha256.Sum256(b)
			if err == nil && old.is[hex.EncodeToString(sum[:])] != "" {
				out = append(out, strings.TrimPrefix(p, h.jail))
			}
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b string) int {
		ssl := func(p string) int {
			if strings.HasPrefix(filepath.Base(p), "libssl") {
				return 0
			}
			return 1
		}
		return ssl(a) - ssl(b)
	})
	return out
}

// A library that lies only where ld.so does not look is brought to where it does,
// once it is needed.
func TestNeededLiesWhereItIsLookedFor(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	debs := lab.Packages(t, lab.PackagesOptions{Names: []string{"nginx"}, Suite: lab.OtherSuite(t, -1)})
	newer := lab.Packages(t, lab.PackagesOptions{Names: []string{"nginx"}, Newest: true})
	old, now := readRelease(t, debs), readRelease(t, newer)
	j := lab.HandMadeJail(t, debs, lab.InMemory())
	h := houseOf(t, j, old)
	h.in.Recipe = theRecipe(t, "nginx")
	had := map[string]bool{}
	for _, files := range old.files {
		for _, f := range files {
			had[filepath.Base(f.Path)] = true
		}
	}
	tree := lab.Unpacked(t, newer)
	var astray []string
	for pkg, files := range now.files {
		for _, f := range files {
			base := filepath.Base(f.Path)
			if pkg == "libc6" || f.SHA256 == "" || !strings.Contains(base, ".so.") || had[base] || len(names(f.Path)) <= 2 {
				continue
			}
			b, err := os.ReadFile(filepath.Join(tree, f.Path))
			if err != nil {
				b, err = os.ReadFile(filepath.Join(tree, strings.TrimPrefix(f.Path, "/usr")))
			}
			require.NoError(t, err)
			h.write("/lib64/"+base, string(b)+"older")
			astray = append(astray, "/lib64/"+base)
		}
	}
	require.NotEmpty(t, astray)
	require.NoError(t, h.install(now.debs))
	out, err := exec.Command("chroot", h.jail, "/usr/sbin/nginx", "-v").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, p := range astray {
		require.False(t, strings.HasSuffix(h.has(p), "older"), "%s is the new one as well", p)
	}
}
