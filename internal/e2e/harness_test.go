package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Main(m, measured)
}

// built are the binaries, made once for all tests: the shipped one, and one that
// can be killed at will.
var built struct {
	sync.Mutex
	dir    string
	shipit string
	faulty string
}

func program(t testing.TB, faults bool) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if built.dir == "" {
		// In the cache, because it must outlive the test that builds it.
		// Each checkout has its own, for tests of two may run at once.
		here, err := os.Getwd()
		require.NoError(t, err)
		sum := sha256.Sum256([]byte(here))
		built.dir = filepath.Join(lab.Cache(t), "e2e-bin", hex.EncodeToString(sum[:4]))
		require.NoError(t, os.MkdirAll(built.dir, 0o755))
	}
	p, tags := &built.shipit, ""
	if faults {
		p, tags = &built.faulty, "faultpoints"
	}
	// A process that runs one test of this one's again has it built already.
	env := "JAILUP_E2E_PROGRAM_" + tags
	if *p == "" && lab.Inner() {
		*p = os.Getenv(env)
	}
	if *p == "" {
		out := filepath.Join(built.dir, "jailup"+tags)
		// A run beside this one may have the name in use: what it runs stays.
		fresh := out + "." + rand.Text()
		cmd := exec.Command("go", "build", "-tags", tags, "-o", fresh, "../../cmd/jailup")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		msg, err := cmd.CombinedOutput()
		require.NoError(t, err, string(msg))
		require.NoError(t, os.Rename(fresh, out))
		*p = out
		require.NoError(t, os.Setenv(env, out))
	}
	return *p
}

// host is a place for one test: folders of its own, a program to call.
type host struct {
	t     testing.TB
	dir   string
	bin   string
	env   []string
	debs  string
	extra []string
}

// newHost offers the packages of all the folders.
func newHost(t testing.TB, debs ...string) *host {
	t.Helper()
	all := lab.ShmDir(t)
	for _, d := range debs {
		list, err := filepath.Glob(filepath.Join(d, "*.deb"))
		require.NoError(t, err)
		for _, deb := range list {
			if dst := filepath.Join(all, filepath.Base(deb)); !exists(dst) {
				require.NoError(t, os.Symlink(deb, dst))
			}
		}
	}
	return &host{t: t, dir: lab.ShmDir(t), bin: program(t, false), debs: all}
}

func exists(p string) bool {
	_, err := os.Lstat(p)
	return err == nil
}

type result struct {
	Exit   int
	Done   map[string]any
	Events []map[string]any
	Stdout string
	Stderr string
	Took   time.Duration
}

func (r result) String() string { return r.Stdout + "\n" + r.Stderr }

func (r result) result() string { s, _ := r.Done["result"].(string); return s }
func (r result) err() string    { s, _ := r.Done["error"].(string); return s }

func (h *host) args(args ...string) []string {
	out := append([]string{}, args...)
	out = append(out, "--state-dir", filepath.Join(h.dir, "state"), "--cache-dir", filepath.Join(h.dir, "cache"), "--output", "json")
	if h.debs != "" && (args[0] == "upgrade" || args[0] == "plan" || args[0] == "create") {
		out = append(out, "--source", "dir:"+h.debs)
	}
	return append(out, h.extra...)
}

func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.bin, h.args(args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir}, h.env...)
	return cmd
}

// run calls the program and reads its JSON lines.
func (h *host) run(args ...string) result {
	h.t.Helper()
	var out, errOut bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	began := time.Now()
	err := cmd.Run()
	r := result{Exit: cmd.ProcessState.ExitCode(), Stdout: out.String(), Stderr: errOut.String(), Took: time.Since(began)}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		require.NoError(h.t, err)
	}
	r.parse()
	return r
}

// parse reads the JSON lines.
func (r *result) parse() {
	for line := range strings.SplitSeq(strings.TrimSpace(r.Stdout), "\n") {
		var e map[string]any
		if json.Unmarshal([]byte(line), &e) == nil {
			r.Events = append(r.Events, e)
			if e["kind"] == "run.done" {
				r.Done = e
			}
		}
	}
}

// must calls the program and wants an exit status and a result.
func (h *host) must(exit int, res string, args ...string) result {
	h.t.Helper()
	r := h.run(args...)
	require.Equal(h.t, exit, r.Exit, r.String())
	require.Equal(h.t, res, r.result(), r.String())
	require.EqualValues(h.t, exit, r.Done["exit"])
	return r
}

// state are the globs that a running nginx writes to.
var state = []string{"run/**", "var/log/nginx/**", "var/lib/nginx/**", "tmp/**"}

func stateless(t testing.TB, dir string) map[string]string { return lab.TreeDigest(t, dir, state...) }

// createdJail is a running jail that jailup itself built, with the older nginx.
func createdJail(t testing.TB) (*lab.Jail, lab.Pair, *host) {
	t.Helper()
	lab.Need(t, "root", "apt")
	pair := lab.NginxPair(t)
	j := &lab.Jail{Dir: filepath.Join(lab.ShmDir(t), "chroot"), Port: lab.FreePort(t)}
	j.URL = "http://127.0.0.1:" + strconv.Itoa(j.Port)
	h := newHost(t, pair.Old)
	h.must(0, "created", "create", "nginx", "--jail", j.Dir, "--listen", "127.0.0.1:"+strconv.Itoa(j.Port))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "var/www/html/index.html"), []byte(lab.Page), 0o644))
	t.Cleanup(func() { j.Stop(t) })
	j.Start(t)
	return j, pair, h
}

// old starts a hand-made jail with the older nginx.
func oldJail(t testing.TB, opts ...lab.JailOption) (*lab.Jail, lab.Pair) {
	t.Helper()
	lab.Need(t, "root", "apt")
	pair := lab.NginxPair(t)
	j := lab.HandMadeJail(t, pair.Old, append([]lab.JailOption{lab.InDir(filepath.Join(lab.ShmDir(t), "chroot"))}, opts...)...)
	j.Start(t)
	return j, pair
}
