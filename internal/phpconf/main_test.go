package phpconf

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// fakeFiles are files by their absolute path; a value of "<dir>" is a folder.
type fakeFiles map[string]string

func (f fakeFiles) ReadFile(name string, limit int64) ([]byte, error) {
	text, ok := f[path.Clean(name)]
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	case text == "<dir>":
		return nil, &fs.PathError{Op: "open", Path: name, Err: jail.ErrNotRegular}
	case int64(len(text)) > limit:
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return []byte(text), nil
}

func (f fakeFiles) ReadDir(dir string) ([]string, error) {
	dir = path.Clean(dir)
	seen := map[string]bool{}
	var names []string
	for name := range f {
		rest, ok := strings.CutPrefix(name, strings.TrimSuffix(dir, "/")+"/")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, "/")
		if !seen[first] {
			seen[first] = true
			names = append(names, first)
		}
	}
	if names == nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	}
	return names, nil
}

// eachPHP runs a test with the PHP of the host's release and with others: the
// way from one to the next is what all this is for.
func eachPHP(t *testing.T, releases []int, do func(t *testing.T, suite string)) {
	for _, rel := range releases {
		t.Run(fmt.Sprintf("release %+d", rel), func(t *testing.T) {
			t.Parallel()
			suite := ""
			if rel != 0 {
				suite = lab.OtherSuite(t, rel)
			}
			do(t, suite)
		})
	}
}

// realDebs are packages with the PHP of a suite, its FPM, some modules, and what
// the jail of the tests has besides.
func realDebs(t testing.TB, suite string) string {
	t.Helper()
	lab.Need(t, "root", "apt", "dpkg-deb")
	names := append(lab.PHPNames(t, suite, []string{"fpm"}, "mysql", "gd"), "nginx")
	return lab.Packages(t, lab.PackagesOptions{Names: names, Suite: suite, Newest: true})
}

// realJail is a jail with that PHP, and php(1) as well.
func realJail(t testing.TB, suite string) (*lab.Jail, *jail.Root) {
	t.Helper()
	j := lab.PHPJail(t, realDebs(t, suite), lab.InMemory(), lab.Extensions("mysql", "gd"), lab.Also("/usr/bin/php"+lab.PHPSeries(t, suite)))
	root, err := jail.Open(j.Dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return j, root
}

// inRoot makes a command that runs in a tree as its root.
func inRoot(root string, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: root}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	return cmd
}

// withJSON are options by which an older PHP has json_encode.
func withJSON(t testing.TB, root string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, "usr/lib/php/*/json.so"))
	require.NoError(t, err)
	if len(found) == 0 {
		return nil
	}
	return []string{"-d", "extension=json"}
}

// run runs a program in a jail to its end.
func run(t testing.TB, j *lab.Jail, env []string, argv ...string) (output string, status int) {
	t.Helper()
	cmd := inRoot(j.Dir, argv...)
	cmd.Env = append(cmd.Env, env...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
