package elfdeps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// TestRealToolchain resolves files that compiler and linker made, with symbol
// versions, the version of the library taken away, and section headers
// stripped: what the hand-made files of the other tests cannot get wrong alone.
func TestRealToolchain(t *testing.T) {
	t.Parallel()
	lab.Need(t, "gcc", "strip", "objcopy")
	dir := buildTree(t, map[string]string{
		"a.c":     "__asm__(\".symver f1,f@V1\"); __asm__(\".symver f2,f@@V2\"); int f1(void){return 1;} int f2(void){return 2;}",
		"a.map":   "V1 { global: f; local: *; }; V2 { global: f; } V1;",
		"old.c":   "int f(void){return 1;}",
		"old.map": "V1 { global: f; local: *; };",
		"p.c":     "int f(void); void _start(void){ f(); for(;;); }",
		"build.sh": `set -e
mkdir -p opt/new opt/old bin
gcc -shared -nostdlib -fPIC -Wl,-soname,liba.so.1 -Wl,--version-script=a.map a.c -o opt/new/liba.so.1
gcc -shared -nostdlib -fPIC -Wl,-soname,liba.so.1 -Wl,--version-script=old.map old.c -o opt/old/liba.so.1
for kind in rpath:--disable-new-dtags runpath:--enable-new-dtags; do
  gcc -nostdlib -pie -fPIE -Wl,--build-id -Wl,${kind#*:} -Wl,-rpath,'$ORIGIN/../opt/new' p.c opt/new/liba.so.1 -o bin/${kind%:*}
done
gcc -nostdlib -pie -fPIE -Wl,-rpath,/opt/old p.c opt/new/liba.so.1 -o bin/old
gcc -nostdlib -static p.c -x c old.c -o bin/static
gcc -nostdlib -static-pie -fPIE p.c -x c old.c -o bin/static-pie
cp bin/runpath bin/nosections
strip --strip-section-headers bin/nosections 2>/dev/null || strip bin/nosections
gcc -g -shared -nostdlib -fPIC old.c -o dbg.so
objcopy --only-keep-debug dbg.so bin/dbg.debug
`,
	})
	r := New(osFS{dir})
	for _, name := range []string{"rpath", "runpath", "nosections"} {
		o, err := r.Object("/bin/" + name)
		require.NoError(t, err)
		require.Equal(t, []string{"liba.so.1"}, o.Needed)
		require.Equal(t, map[string][]string{"liba.so.1": {"V2"}}, o.VersionsNeeded)
		require.Equal(t, name == "rpath", len(o.Rpath) == 1 && len(o.Runpath) == 0)
		require.Len(t, o.BuildID, 40)
		require.True(t, o.program())
		c, err := r.Closure(context.Background(), []string{"/bin/" + name})
		require.NoError(t, err)
		require.Contains(t, c.Paths, "/opt/new/liba.so.1")
		require.Equal(t, []string{"/bin/" + name}, c.NeedProc)
		require.Len(t, c.Missing, 1, "only the loader, which this tree has not")
		require.Equal(t, o.Interp, c.Missing[0].Name)
	}
	for _, name := range []string{"static", "static-pie"} {
		o, err := r.Object("/bin/" + name)
		require.NoError(t, err)
		require.True(t, o.Static, name)
	}
	a, err := r.Object("/opt/new/liba.so.1")
	require.NoError(t, err)
	require.Equal(t, []string{"V1", "V2"}, a.VersionsDefined)
	m, err := r.Check(context.Background(), []string{"/bin/old", "/bin/dbg.debug", "/opt/new/liba.so.1", "/bin/static-pie"})
	require.NoError(t, err)
	require.Contains(t, lines(m), "/bin/old needs liba.so.1: version V2 not provided by /opt/old/liba.so.1")
	require.Len(t, m, 2, lines(m))
}

// buildTree makes files by build.sh, once for the same sources.
func buildTree(t *testing.T, files map[string]string) string {
	h := sha256.New()
	set := map[string]bool{}
	for name := range files {
		set[name] = true
	}
	for _, name := range sorted(set) {
		h.Write([]byte(name + "\x00" + files[name] + "\x00"))
	}
	out := filepath.Join(lab.Cache(t), "elfdeps-"+hex.EncodeToString(h.Sum(nil)[:8]))
	if _, err := os.Stat(out); err == nil {
		return out
	}
	tmp, err := os.MkdirTemp(filepath.Dir(out), "elfdeps-tmp-")
	require.NoError(t, err)
	defer os.RemoveAll(tmp)
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(tmp, name), []byte(text), 0o644))
	}
	cmd := exec.Command("sh", "build.sh")
	cmd.Dir = tmp
	b, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", strings.TrimSpace(string(b)))
	if err := os.Rename(tmp, out); err != nil {
		// Another test run was faster.
		require.DirExists(t, out)
	}
	return out
}
