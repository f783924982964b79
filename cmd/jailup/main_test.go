package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// The test binary is the program as well, by the name that it is called by: so
// scripts and tests run what main runs, its guardian included.
func TestMain(m *testing.M) {
	jail.Reexec()
	lab.Main(m, func() bool {
		// "exe" is what /proc/self/exe is called.
		if !slices.Contains([]string{"jailup", "jailup-guardian", "exe"}, filepath.Base(os.Args[0])) {
			return false
		}
		main()
		return true
	})
}

// program puts this binary into a folder under the program's name.
func program(t testing.TB) (dir string) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir = t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "jailup")))
	return dir
}

// cleanEnviron is what a program of a test gets: nothing that the user has said
// to jailup by the environment.
func cleanEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "JAILUP_") && !strings.HasPrefix(v, "JAILUP_LAB_")
	})
}

// The scripts say by their conditions what they need: [root].
func TestScripts(t *testing.T) {
	t.Parallel()
	bin := program(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "..", "testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Vars = slices.DeleteFunc(e.Vars, func(v string) bool { return strings.HasPrefix(v, "PATH=") })
			for _, v := range cleanEnviron() {
				if strings.HasPrefix(v, "JAILUP_LAB_") {
					e.Vars = append(e.Vars, v)
				}
			}
			e.Vars = append(e.Vars, "PATH="+bin+":"+os.Getenv("PATH"),
				"HOME="+e.WorkDir, "XDG_CONFIG_HOME="+filepath.Join(e.WorkDir, ".config"),
				"JAILUP_STATE_DIR="+filepath.Join(e.WorkDir, "..", "state-"+filepath.Base(e.WorkDir)),
				"JAILUP_CACHE_DIR="+filepath.Join(e.WorkDir, "..", "cache-"+filepath.Base(e.WorkDir)))
			// Scripts run in a folder that only its owner may enter; a jail lies in
			// folders that everybody may.
			return os.Chmod(e.WorkDir, 0o755)
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				if os.Geteuid() != 0 && lab.RequireAll() {
					t.Error("needs root (JAILUP_REQUIRE_ALL=1 forbids the skip)")
				}
				return os.Geteuid() == 0, nil
			}
			return false, os.ErrInvalid
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"refused": func(ts *testscript.TestScript, neg bool, args []string) { refused(t, ts, neg, args) },
		},
	})
}

// refused runs the program and wants one line "error: …", at most one more
// "hint: …", the exit status named, and nothing changed in the script's folder,
// in the state or in the cache.
//
//	refused STATUS TEXT[|HINT] jailup ARGUMENT...
//
// TEXT and HINT must occur in the error and in the hint; "-" wants no hint, and
// where no HINT is named any is fine.
func refused(t *testing.T, ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || args[2] != "jailup" {
		ts.Fatalf("usage: refused STATUS TEXT[|HINT] jailup ARGUMENT...")
	}
	text, hint, _ := strings.Cut(args[1], "|")
	before := digest(t, ts)
	err := ts.Exec(args[2], args[3:]...)
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	status := "0"
	if err != nil {
		status = strings.TrimPrefix(err.Error(), "exit status ")
	}
	check := func(ok bool, what string) {
		if !ok {
			ts.Fatalf("%s: %s\nexit status %s\nstdout:\n%s\nstderr:\n%s", strings.Join(args[2:], " "), what, status, stdout, stderr)
		}
	}
	check(status == args[0], "the exit status is not "+args[0])
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	check(strings.HasPrefix(lines[0], "error: "), "the first line is no error")
	check(strings.Contains(lines[0], text), "the error does not say: "+text)
	check(len(lines) <= 2, "more than an error and a hint")
	if len(lines) == 2 {
		check(strings.HasPrefix(lines[1], "hint: ") && strings.Contains(lines[1], strings.TrimPrefix(hint, "-")) && hint != "-", "the hint does not say: "+hint)
	} else {
		check(hint == "" || hint == "-", "there is no hint")
	}
	check(!strings.ContainsFunc(stdout+stderr, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' }), "control characters")
	for _, d := range lab.DiffTrees(before, digest(t, ts)) {
		check(false, "changed: "+d)
	}
}

// digest is the tree of the script's folder, state and cache included.
func digest(t *testing.T, ts *testscript.TestScript) map[string]string {
	all := map[string]string{}
	work := ts.Getenv("WORK")
	for _, dir := range []string{work, ts.Getenv("JAILUP_STATE_DIR"), ts.Getenv("JAILUP_CACHE_DIR")} {
		if _, err := os.Lstat(dir); err != nil {
			continue
		}
		for p, d := range lab.TreeDigest(t, dir) {
			all[filepath.Join(dir, p)] = d
		}
	}
	return all
}
