//go:build faultpoints

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
)

// A foul is one way in which a mirror may lie or misbehave, and what must come
// of it. The zero value of all but name means: the shipped program, nothing in
// its cache, exit status 1.
type foul struct {
	name   string
	first  func(m *mirror) // how the mirror was when it was seen before
	set    func(m *mirror) // what the mirror does from now on
	listen func(http.Handler) *httptest.Server
	ring   string // name of the client's keyring; default good
	exit   int    // what the program must end with; fine is for what is odd and no attack
	says   string // a regular expression over what it says
	seed   seed
	warm   bool // all packages but the server's own lie in the cache already
	slow   bool // costs the time limits: the build with fault points and its short ones
	deb    bool // about the inside of a package: nothing that apt would look at
	noApt  bool // not comparable with apt
}

// seed is what the client has seen of the mirror before.
type seed int

const (
	nothing   seed = iota
	hasIndex       // the honest index is in the cache
	hasMemory      // the cache was emptied since
)

// fine is for what is odd and no attack: the program must take it. It is asked
// for a version that there is not, so that the jail stays: what it says then is
// that it has read what is offered.
const (
	fine = -1
	took = -2 // the same up to a whole plan, packages included
)

const noVersion = "0~none"

const (
	mostMemory = 256 << 10 // KB
	mostTime   = 10 * time.Second
)

// mirrorClient is a jail with its running server, one attack after the other.
type mirrorClient struct {
	s      *shop
	y      *lab.Tally
	base   string
	j      *lab.Jail
	pid    int
	before map[string]string
	beside map[string]string
	warm   string // a cache with all packages but the server's
}

func newMirrorClient(t *testing.T, s *shop, y *lab.Tally) *mirrorClient {
	t.Helper()
	pair := lab.NginxPair(t)
	c := &mirrorClient{s: s, y: y, base: lab.ShmDir(t)}
	c.j = lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(c.base, "chroot")))
	require.NoError(t, os.WriteFile(filepath.Join(c.j.Dir, "srv/unknown"), []byte("mine"), 0o640))
	require.NoError(t, os.MkdirAll(filepath.Join(c.base, "canary/etc/nginx"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(c.base, "canary/etc/nginx/nginx.conf"), []byte("not the jail's\n"), 0o644))
	c.j.Start(t)
	c.pid = c.j.MasterPID()
	c.before, c.beside = stateless(t, c.j.Dir), lab.TreeDigest(t, c.base, "chroot")
	return c
}

// told is what one call of the program came to.
type told struct {
	exit int
	text string
	took time.Duration
	cpu  time.Duration
	peak int64 // KB
}

// call runs a verb against a mirror, with folders below dir.
func (c *mirrorClient) call(t testing.TB, m *mirror, f foul, dir, verb string, more ...string) told {
	t.Helper()
	ring := f.ring
	if ring == "" {
		ring = "good"
	}
	require.Contains(t, c.s.rings, ring)
	sources := filepath.Join(dir, "test.sources")
	text := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nSigned-By: %s\n", m.url, mirrorSuite, c.s.arch, c.s.rings[ring])
	args := []string{verb, "nginx", "--jail", c.j.Dir, "--apt-sources", sources, "--state-dir", filepath.Join(dir, "state"),
		"--cache-dir", filepath.Join(dir, "cache")}
	if m.sources != nil {
		text = m.sources(text)
	} else {
		args = append(args, "--keyring", c.s.rings[ring])
	}
	require.NoError(t, os.WriteFile(sources, []byte(text), 0o644))
	if verb == "upgrade" {
		args = append(args, "--soak", "0s", "--snapshots", filepath.Join(dir, "snapshots"))
	}
	bin := program(t, f.slow)
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append(append(args, m.args...), more...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "JAILUP_FAULT_NET=fast"}, m.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	peak := measure(t, cmd, filepath.Join(dir, "peak"))
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "it did not end within 90 s: %s", &out)
	kb, cpu := peak()
	return told{exit: cmd.ProcessState.ExitCode(), text: out.String(), took: took, cpu: cpu, peak: kb}
}

var (
	rawControls = regexp.MustCompile(`[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]|[^\x00-\x7f“”–—…→✓✗·•’‘]`)
	hintLine    = regexp.MustCompile(`(?m)^\s*hint: .+`)
)

// attack runs one attack and checks what must hold in each case.
func (c *mirrorClient) attack(t *testing.T, f foul) {
	t.Helper()
	m := c.s.mirror(t)
	m.listen = f.listen
	m.serve()
	defer m.close()
	dir := lab.ShmDir(t)
	if f.seed != nothing {
		if f.first != nil {
			f.first(m)
		}
		m.build()
		got := c.call(t, m, f, dir, "plan", "--version", noVersion)
		require.Contains(t, got.text, noVersion)
		if f.seed == hasMemory {
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "cache")))
		}
	}
	if f.warm {
		out, err := exec.Command("cp", "-al", c.warm, filepath.Join(dir, "cache")).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	if f.set != nil {
		f.set(m)
	}
	m.build()
	if m.client != nil {
		m.client(m, dir)
	}
	verb, want, more := "upgrade", f.exit, []string(nil)
	switch want {
	case 0:
		want = 1
	case fine:
		verb, want = "plan", 1
		more = []string{"--version", noVersion}
	case took:
		verb, want = "plan", 0
	}
	got := c.call(t, m, f, dir, verb, more...)
	accepted := strings.Contains(got.text, noVersion) || got.exit == 0
	what := fmt.Sprintf("%s: %s in %s, %d MB: %s", f.name, verb, got.took.Round(time.Millisecond), got.peak>>10, got.text)
	if got.exit != want {
		c.y.WrongExit("%s: exit %d, not %d", what, got.exit, want)
	}
	if accepted != (f.exit == fine || f.exit == took) {
		c.y.Mixed("%s: what it took is not what it was to take", what)
	}
	if f.says != "" && !regexp.MustCompile(f.says).MatchString(got.text) {
		t.Errorf("%s: it does not say %q", what, f.says)
	}
	if at := rawControls.FindString(got.text); at != "" {
		t.Errorf("%s: it says %q", what, at)
	}
	if want != 0 && (!hintLine.MatchString(got.text) || !strings.Contains(got.text, "cannot") && !strings.Contains(got.text, ": ")) {
		t.Errorf("%s: cause or hint is missing", what)
	}
	if len(got.text) > 5000 {
		t.Errorf("%s: it says too much, %d bytes", f.name, len(got.text))
	}
	if most := patience(); got.cpu > mostTime || got.took > most {
		t.Errorf("%s: it took too long, %s of the processor", what, got.cpu)
	}
	if got.peak > mostMemory {
		t.Errorf("%s: it took too much memory", what)
	}
	if diff := lab.DiffTrees(c.before, stateless(t, c.j.Dir)); len(diff) > 0 {
		c.y.Mixed("%s: the jail has changed: %v", what, diff)
	}
	if got.exit == 0 && verb == "upgrade" { // told once: what follows is judged by what is there now
		c.before, c.pid = stateless(t, c.j.Dir), c.j.MasterPID()
	}
	if diff := lab.DiffTrees(c.beside, lab.TreeDigest(t, c.base, "chroot")); len(diff) > 0 {
		c.y.Outside("%s: touched outside of the jail: %v", what, diff)
	}
	c.home(t, dir, what)
	if pid := c.j.MasterPID(); pid != c.pid {
		c.y.Person("%s: the server is another one, %d and not %d", what, pid, c.pid)
	}
	status, _, err := c.j.TryGet("/")
	if err != nil || status != http.StatusOK {
		c.y.Person("%s: the server does not answer: %d %v", what, status, err)
	}
	outcome := "refused"
	if accepted {
		outcome = "fine"
	} else if want == 14 {
		outcome = "skipped"
	}
	c.y.Point(outcome)
	t.Logf("%s in %s, %d MB: %s", verb, got.took.Round(time.Millisecond), got.peak>>10, strings.ReplaceAll(strings.TrimSpace(got.text), "\n", " | "))
	if !f.deb && !f.noApt {
		c.compare(t, m, f, dir, accepted)
	}
}

// patience is how long a run may take: on a machine that others keep busy, longer
// than what is promised; the processor's time is held to the promise anyway.
func patience() time.Duration {
	var load float64
	text, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(text), &load)
	}
	if err != nil || load <= float64(runtime.NumCPU()) {
		return mostTime
	}
	return 60 * time.Second
}

// home checks that nothing lies beside what the program was told to use.
func (c *mirrorClient) home(t testing.TB, dir, what string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, d := range list {
		switch d.Name() {
		case "state", "cache", "snapshots", "test.sources":
		default:
			c.y.Outside("%s: it has written %s", what, d.Name())
		}
	}
}

// compare asks the machine's own apt what it makes of the mirror. What apt
// refuses must never be accepted.
func (c *mirrorClient) compare(t testing.TB, m *mirror, f foul, dir string, accepted bool) {
	t.Helper()
	root := filepath.Join(dir, "apt")
	for _, d := range []string{"etc/apt/preferences.d", "etc/apt/apt.conf.d", "etc/apt/trusted.gpg.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg", "var/log/apt", "got"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644))
	run := func(args ...string) (string, error) {
		all := []string{"-o", "Dir=" + root, "-o", "Dir::State::status=" + root + "/var/lib/dpkg/status", "-o", "Dir::Etc::sourcelist=" + filepath.Join(dir, "test.sources"),
			"-o", "Dir::Bin::methods=/usr/lib/apt/methods", "-o", "Dir::Bin::apt-key=/usr/bin/apt-key", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=2", "-o", "Acquire::https::Timeout=2", "-o", "Acquire::Languages=none",
			"-o", "APT::Sandbox::User=root", "-o", "APT::Update::Error-Mode=any", "-o", "APT::Architecture=" + c.s.arch, "-q", "-q"}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "apt-get", append(append(all, m.aptConf...), args...)...)
		cmd.Dir = filepath.Join(root, "got")
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "APT_CONFIG=/dev/null", "TMPDIR=" + os.TempDir()}, m.env...)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("update")
	if err == nil {
		var more string
		more, err = run("download", "nginx="+c.s.version)
		out += more
		if err == nil {
			files, _ := filepath.Glob(filepath.Join(root, "got", "*.deb"))
			if len(files) != 1 {
				err = fmt.Errorf("it has fetched %d packages", len(files))
			}
		}
	}
	switch {
	case accepted && err != nil:
		t.Errorf("%s: accepted, and apt refuses it: %v: %s", f.name, err, out)
	case accepted:
		c.differential(t, "both take it")
	case err != nil:
		c.differential(t, "both refuse it")
	default:
		c.differential(t, "stricter than apt")
	}
}

func (c *mirrorClient) differential(t testing.TB, how string) {
	t.Logf("against apt: %s", how)
	c.y.Point(how)
}

// Every attack of a mirror through the program as it is shipped, with a server
// that runs and must not notice.
func TestHostileMirror(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	began := time.Now()
	s := newShop(t)
	fouls := slicesOf(s.keyFouls(t), messageFouls(), releaseFouls(s), indexFouls(s), packageFouls(s), networkFouls(s), debFouls(s))
	y := lab.NewTally(t, "hostile mirror")
	y.Cases(len(fouls))
	y.Of(len(fouls))
	names := map[string]bool{}
	for _, f := range fouls {
		require.False(t, names[f.name], "two attacks are called %s", f.name)
		names[f.name] = true
	}
	warm := s.warmCache(t)
	t.Logf("the shop took %s", time.Since(began).Round(time.Millisecond))
	clients := make([]*mirrorClient, 4) // most of the time goes into waiting
	for i := range clients {
		clients[i] = newMirrorClient(t, s, y)
		clients[i].warm = warm
	}
	work := make(chan foul)
	var workers sync.WaitGroup
	for _, c := range clients {
		workers.Go(func() {
			for f := range work {
				t.Run(f.name, func(t *testing.T) { c.attack(t, f) })
			}
		})
	}
	for i, f := range fouls {
		if lab.Sampled(t, i) {
			work <- f
		}
	}
	close(work)
	workers.Wait()
	t.Logf("%d attacks in %s", len(fouls), time.Since(began).Round(time.Millisecond))
}

// A signed package may bring scripts and programs with set-user-ID bits beside the
// server: the scripts are not run, the programs do not reach the jail, and the way back
// is whole. Where it is the server that has the bit, nothing is changed.
func TestHostilePackageIsTamed(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	s := newShop(t)
	y := lab.NewTally(t, "hostile mirror")
	y.Cases(3)
	c := newMirrorClient(t, s, y)
	m := s.mirror(t)
	m.serve()
	defer m.close()
	marks := t.TempDir()
	for name, mode := range map[string]string{"set-user-ID": "0004755", "set-group-ID": "0002755", "both": "0006755"} {
		m.put(s.nginx, newDeb(m).mode("./usr/sbin/nginx", mode).bytes())
		m.build()
		got := c.call(t, m, foul{}, lab.ShmDir(t), "upgrade")
		require.Equal(t, 1, got.exit, "%s: %s", name, got.text)
		require.Contains(t, got.text, "/usr/sbin/nginx of package nginx is set-user-ID or set-group-ID", name)
		require.Equal(t, c.pid, c.j.MasterPID(), name)
		require.Empty(t, lab.DiffTrees(c.before, stateless(t, c.j.Dir)), name)
		y.Point("refused")
	}
	d := newDeb(m)
	d.data(byhand.TarMember{Name: "./usr/bin/evil", Mode: "0004755", Data: "#!/bin/sh\n"})
	for _, name := range []string{"preinst", "postinst", "prerm", "postrm", "config", "triggers"} {
		script := "#!/bin/sh\ntouch " + filepath.Join(marks, name) + " /" + name + "-ran\n"
		if name == "triggers" {
			script = "interest-noawait /usr/sbin\n"
		}
		if !strings.Contains(string(d.parts[1].Data), "./"+name+"\x00") {
			d.more(byhand.TarMember{Name: "./" + name, Mode: "0000755", Data: script})
		}
	}
	m.put(s.nginx, d.bytes())
	m.build()
	dir := lab.ShmDir(t)
	got := c.call(t, m, foul{}, dir, "upgrade")
	require.Zero(t, got.exit, got.text)
	y.Point("new")
	ran, err := os.ReadDir(marks)
	require.NoError(t, err)
	require.Empty(t, ran, "a maintainer script was run")
	err = filepath.WalkDir(c.j.Dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().IsRegular() && fi.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			y.Outside("%s has the mode %s", p, fi.Mode())
		}
		if strings.HasSuffix(p, "-ran") {
			y.Outside("a maintainer script has made %s", p)
		}
		return err
	})
	require.NoError(t, err)
	require.NotEqual(t, c.pid, c.j.MasterPID())
	cmd := exec.Command(program(t, false), "rollback", "--jail", c.j.Dir, "--soak", "0s", "--state-dir", filepath.Join(dir, "state"), "--cache-dir", filepath.Join(dir, "cache"), "--snapshots", filepath.Join(dir, "snapshots"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	if diff := lab.DiffTrees(c.before, stateless(t, c.j.Dir)); len(diff) > 0 {
		y.Mixed("the way back is not whole: %v", diff)
	}
	y.Point("old")
}

func slicesOf(lists ...[]foul) (all []foul) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// warmCache is a cache that holds all packages but the server's newest, as an
// earlier run would leave it.
func (s *shop) warmCache(t testing.TB) string {
	dir := filepath.Join(lab.ShmDir(t), "cache")
	for _, d := range []string{"sha256", "partial"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	require.NoError(t, os.Chmod(dir, 0o700))
	for name, data := range s.debs {
		if name == s.nginx {
			continue
		}
		sum := sha256Of(data)
		sub := filepath.Join(dir, "sha256", sum[:2])
		require.NoError(t, os.MkdirAll(sub, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(sub, sum), data, 0o600))
	}
	return dir
}
