package elfdeps

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// reported takes the paths out of what ld.so --list prints.
var reported = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`)

// hostPrograms are dynamic programs of this machine, of all kinds.
func hostPrograms(t testing.TB, most int) []string {
	var out []string
	r := New(osFS{"/"})
	for _, dir := range []string{"/bin", "/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/lib/apt/methods", "/usr/lib/git-core"} {
		names, _ := os.ReadDir(dir)
		for _, n := range names {
			p := filepath.Join(dir, n.Name())
			obj, err := r.Object(p)
			// Set-user-ID programs are no different, but ld.so --list of one is.
			if err != nil || obj.Interp == "" || !obj.program() || slices.Contains(out, obj.Path) {
				continue
			}
			out = append(out, obj.Path)
		}
	}
	step := max(1, len(out)/most)
	var some []string
	for i := 0; i < len(out); i += step {
		some = append(some, out[i])
	}
	return some
}

func TestClosureAgreesWithLoader(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ldd")
	progs := hostPrograms(t, 150)
	require.NotEmpty(t, progs)
	r := New(osFS{"/"})
	for _, p := range progs {
		obj, err := r.Object(p)
		require.NoError(t, err)
		cmd := exec.Command(obj.Interp, "--list", p)
		cmd.Env = []string{"LC_ALL=C"}
		out, err := cmd.Output()
		if err != nil {
			// A program that does not start here is one more test.
			c, cerr := r.Closure(context.Background(), []string{p})
			require.NoError(t, cerr)
			require.NotEmpty(t, c.Missing, "%s: %v", p, err)
			continue
		}
		want := map[string]bool{p: true}
		for _, m := range reported.FindAllStringSubmatch(string(out), -1) {
			real, err := filepath.EvalSymlinks(m[1])
			require.NoError(t, err)
			want[real] = true
		}
		c, err := r.Closure(context.Background(), []string{p})
		require.NoError(t, err)
		require.Empty(t, c.Missing, p)
		for w := range want {
			require.Contains(t, c.Paths, w, "%s: ld.so loads %s", p, w)
		}
		for got := range c.Objects {
			if !strings.Contains(got, hwcaps) {
				require.True(t, want[got], "%s: ld.so does not load %s", p, got)
			}
		}
		for _, path := range c.Paths {
			if _, ok := c.Objects[path]; !ok {
				fi, err := os.Lstat(path)
				require.NoError(t, err)
				require.NotZero(t, fi.Mode()&os.ModeSymlink, "%s: neither an object nor a link: %s", p, path)
			}
		}
	}
}

func TestCheckOfHostLibraries(t *testing.T) {
	t.Parallel()
	var paths []string
	for _, pattern := range []string{"/usr/bin/*", "/usr/lib/*/lib*.so*", "/usr/lib/*/*.o"} {
		some, err := filepath.Glob(pattern)
		require.NoError(t, err)
		paths = append(paths, some...)
	}
	_, err := New(osFS{"/"}).Check(context.Background(), paths)
	require.NoError(t, err)
}
