package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// demoHost is a machine with nothing but the program: no variables, an empty
// temporary folder that must be empty afterwards.
type demoHost struct {
	bin, tmp, cache string
}

func (h demoHost) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.bin, append([]string{"demo"}, args...)...)
	if h.cache != "" {
		cmd.Args = append(cmd.Args, "--cache-dir", h.cache)
	}
	cmd.Env = []string{"PATH=/nonexistent", "HOME=/root", "TMPDIR=" + h.tmp}
	return cmd
}

func (h demoHost) run(t *testing.T, exit int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	require.Equal(t, exit, cmd.ProcessState.ExitCode(), out.String()+errs.String())
	return out.String(), errs.String()
}

// nothingLeft wants no file, and no process that has to do with the folder.
func (h demoHost) nothingLeft(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(h.tmp)
	require.NoError(t, err)
	require.Empty(t, entries)
	procs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, p := range procs {
		root, _ := os.Readlink(p + "/root")
		line, _ := os.ReadFile(p + "/cmdline")
		require.False(t, strings.HasPrefix(root, h.tmp), "%s runs in %s: %s", p, root, line)
		require.NotContains(t, string(line), h.tmp)
	}
}

func newDemoHost(t *testing.T, bin string) demoHost {
	return demoHost{bin: bin, tmp: t.TempDir(), cache: filepath.Join(lab.Cache(t), "demo")}
}

// story are the lines that a showing must have, in this order.
var story = []string{
	`^\S*1\. An older nginx`, `^ +older: +nginx \d`, `^ +newest: +nginx \d`,
	`^\S*2\. A jail`, `^ +jail: .* \d+ files of \d+ packages`, `^ +answers: +http://127\.0\.0\.1:\d+/, \d+ bytes`,
	`^\S*3\. The upgrade`, `^ +plan: +nginx \S+ -> \S+`, `^ +load:`, `^ +it is down: +stop .*install .*start`,
	`^ +measured: +\d+ requests served in .*, \d+ without an answer$`, `^ +downtime:`, `^ +changed: +[1-9]\d* files?; nginx \S+ -> \S+$`, `^ +page: +the same`,
	`^\S*4\. An upgrade to a broken`, `^ +check: .* answers 403`, `^ +FAILS: +verify`, `^ +goes back: +verify, seal, start, install, settle, stop`,
	`^ +measured: .* [1-9]\d* answered by 403$`, `^ +result: +exit status 3`, `^ +page: +the same`, `^ +jail: +all \d+ files`,
	`^\S*5\. An upgrade that is killed`, `^ +SIGKILL: `, `^ +answers: +again .* after the kill`, `^ +recover:`, `^ +jail: +all \d+ files`,
	`^Everything went as it should, in `,
}

func requireStory(t *testing.T, lines []string, want []string) {
	t.Helper()
	at := 0
	for _, w := range want {
		re := regexp.MustCompile(w)
		for at < len(lines) && !re.MatchString(lines[at]) {
			at++
		}
		require.Less(t, at, len(lines), "no line %s (in this order) in\n%s", w, strings.Join(lines, "\n"))
		at++
	}
}

// demoProgram builds the program as users have it.
func demoProgram(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "jailup")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return bin
}

func TestDemo(t *testing.T) {
	lab.Need(t, "root", "apt", "go")
	bin := demoProgram(t)

	t.Run("as a user sees it", func(t *testing.T) { // alone: its time counts
		h := newDemoHost(t, bin)
		began := time.Now()
		stdout, stderr := h.run(t, 0)
		require.Empty(t, stderr)
		require.NotRegexp(t, `[\x00-\x09\x0b-\x1f\x7f]`, stdout, "no control characters without a terminal")
		requireStory(t, strings.Split(stdout, "\n"), story)
		h.nothingLeft(t)
		require.Less(t, time.Since(began), 2*time.Minute)
	})

	// One version only is what most releases offer.
	t.Run("JSON, and a folder with one version", func(t *testing.T) {
		t.Parallel()
		h := newDemoHost(t, bin)
		stdout, _ := h.run(t, 0, "--output", "json", "--source", "dir:"+lab.NginxPair(t).New)
		var lines []string
		var last map[string]any
		for line := range strings.SplitSeq(strings.TrimSpace(stdout), "\n") {
			last = nil
			require.NoError(t, json.Unmarshal([]byte(line), &last), line)
			require.EqualValues(t, 1, last["schema"])
			if m, ok := last["message"].(string); ok {
				lines = append(lines, m)
			}
		}
		require.Equal(t, "run.done", last["kind"])
		require.Equal(t, "checked", last["result"])
		require.EqualValues(t, 0, last["exit"])
		require.NotEqual(t, last["from"].(map[string]any)["nginx"], last["to"].(map[string]any)["nginx"])
		var want []string
		for _, w := range story {
			want = append(want, strings.Replace(w, "^ +", "^", 1))
		}
		requireStory(t, lines, want)
		require.Contains(t, stdout, "repacked under a higher version")
		h.nothingLeft(t)
	})

	t.Run("quiet", func(t *testing.T) {
		t.Parallel()
		h := newDemoHost(t, bin)
		stdout, stderr := h.run(t, 0, "--quiet")
		require.Empty(t, stdout+stderr)
		h.nothingLeft(t)
	})

	t.Run("kept", func(t *testing.T) {
		t.Parallel()
		h := newDemoHost(t, bin)
		stdout, _ := h.run(t, 0, "--keep")
		dirs, err := os.ReadDir(h.tmp)
		require.NoError(t, err)
		require.Len(t, dirs, 1)
		dir := filepath.Join(h.tmp, dirs[0].Name())
		t.Cleanup(func() {
			require.True(t, gone(func() []int { return inside(filepath.Join(dir, "jail")) }, true, 10*time.Second))
		})
		require.Contains(t, stdout, dir)
		url := regexp.MustCompile(`http://127\.0\.0\.1:\d+/`).FindString(stdout)
		resp, err := http.Get(url)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		// What it says to type works.
		said := regexp.MustCompile(`(?m)(?:go on|remove): +jailup (.*)$`).FindAllStringSubmatch(stdout, -1)
		require.Len(t, said, 6)
		for _, m := range said {
			args, _, _ := strings.Cut(m[1], " && ")
			msg, err := exec.Command(bin, strings.Fields(args)...).CombinedOutput()
			require.NoError(t, err, "%s: %s", args, msg)
		}
		require.Empty(t, inside(filepath.Join(dir, "jail")))
	})

	for name, sig := range map[string]os.Signal{"interrupted": unix.SIGINT, "terminal closed": unix.SIGHUP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newDemoHost(t, bin)
			cmd := h.command()
			pipe, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			var seen []byte
			buf := make([]byte, 4096)
			for sent := false; ; {
				n, err := pipe.Read(buf)
				seen = append(seen, buf[:n]...)
				if !sent && bytes.Contains(seen, []byte("it is down:")) {
					sent = true
					require.NoError(t, cmd.Process.Signal(sig))
				}
				if err != nil {
					break
				}
			}
			_ = cmd.Wait()
			require.Equal(t, 130, cmd.ProcessState.ExitCode(), string(seen))
			require.NotContains(t, string(seen), "Everything")
			h.nothingLeft(t)
		})
	}
}

func TestDemoRefuses(t *testing.T) {
	lab.Need(t, "root", "go")
	bin := demoProgram(t)
	for _, d := range []string{filepath.Dir(bin), filepath.Dir(filepath.Dir(bin))} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	for _, c := range []struct {
		name string
		exit int
		text string
		uid  uint32
		args []string
	}{
		{"not root", 1, "error: cannot show the demo: only root can .*\nhint: use sudo\n", 65534, nil},
		{"a jail", 64, "error: cannot show the demo in jail /x: .*\nhint: ", 0, []string{"--jail", "/x"}},
		{"an argument", 64, "error: .*\nhint: ", 0, []string{"nginx"}},
		{"an unknown source", 64, "error: cannot use source nothing.*", 0, []string{"--source", "nothing"}},
		{"no such folder", 64, "error: .*", 0, []string{"--source", "dir:/nonexistent"}},
		{"an unknown server", 64, "error: cannot show the demo with server nosuch\nhint: there are: apache, nginx; .*\n$", 0, []string{"--server", "nosuch"}},
		{"what serves no pages by itself", 64, "error: cannot show the demo with server php\nhint: .* --with php\n$", 0, []string{"--server", "php"}},
		{"no sources", 64, "error: .*", 0, []string{"--apt-sources", "/nonexistent"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := demoHost{bin: bin, tmp: t.TempDir()}
			if c.uid == 0 {
				h.cache = t.TempDir()
			}
			var out, errs bytes.Buffer
			cmd := h.command(c.args...)
			cmd.Stdout, cmd.Stderr = &out, &errs
			cmd.Dir = "/"
			if c.uid != 0 {
				cmd.Env = append(cmd.Env, "HOME=/nonexistent")
				cmd.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: c.uid, Gid: c.uid}}
			}
			_ = cmd.Run()
			require.Equal(t, c.exit, cmd.ProcessState.ExitCode(), out.String()+errs.String())
			require.Regexp(t, "^"+c.text, errs.String())
			h.nothingLeft(t)
		})
	}
}
