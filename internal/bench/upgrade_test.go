package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// maxMemory is what an upgrade may use at its peak, in MB.
const maxMemory = 150

// weights are what a jail weighs besides its server: files of its site.
var weights = []struct {
	name  string
	files int
}{{"bare", 0}, {"5000-files-100MB", 5000}}

// BenchmarkStopToAnswer measures, with a client that asks once a millisecond, how
// long nothing answers in an upgrade of a jail that was made by hand; and the
// same for what the tutorials say: stop, copy the jail, unpack the package over
// it, start. The tutorial's way has its package at hand and unpacks the one that
// holds the server, and no library; jailup resolves, verifies, tests, replaces
// what changes, checks and can go back. Both end with the new server answering.
func BenchmarkStopToAnswer(b *testing.B) {
	lab.Need(b, "root", "apt", "dpkg-deb")
	pair := lab.NginxPair(b)
	bin := program(b)
	debs := both(b, pair)
	deb := holding(b, pair.New, "./usr/sbin/nginx")
	for _, w := range weights {
		b.Run(w.name+"/jailup", func(b *testing.B) {
			rounds(b, func() time.Duration {
				j, dir := oldJail(b, pair.Old, w.files)
				defer gone(b, j, dir)
				c := watch(j.Port)
				upgrade(b, bin, dir, j, "--source", "dir:"+debs)
				return c.down(b)
			})
		})
		b.Run(w.name+"/stop-cp-dpkg-start", func(b *testing.B) {
			rounds(b, func() time.Duration {
				j, dir := oldJail(b, pair.Old, w.files)
				defer gone(b, j, dir)
				c := watch(j.Port)
				time.Sleep(50 * time.Millisecond)
				old := digest(b, j)
				textbook(b, j, filepath.Join(dir, "copy"), deb)
				j.Start(b)
				time.Sleep(50 * time.Millisecond)
				require.NotEqual(b, old, digest(b, j), "nothing was upgraded")
				return c.down(b)
			})
		})
	}
}

// BenchmarkPeakMemory upgrades with packages from a folder, and from the host's
// apt sources, where the index of the whole archive is read.
func BenchmarkPeakMemory(b *testing.B) {
	lab.Need(b, "root", "apt")
	pair := lab.NginxPair(b)
	bin := program(b)
	for _, src := range []string{"dir:" + both(b, pair), "apt"} {
		kind, _, _ := strings.Cut(src, ":")
		b.Run(kind, func(b *testing.B) {
			var peak int64
			for b.Loop() {
				j, dir := oldJail(b, pair.Old, 0)
				peak = max(peak, upgrade(b, bin, dir, j, "--source", src))
				gone(b, j, dir)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(peak)/1024, "MB-peak")
			if peak/1024 >= maxMemory {
				b.Errorf("the upgrade used %d MB at its peak; the aim is below %d", peak/1024, maxMemory)
			}
		})
	}
}

// both is a folder with the packages of both versions, as an archive has them: by
// the old ones the server in the jail is recognised.
func both(b *testing.B, pair lab.Pair) string {
	b.Helper()
	dir := lab.ShmDir(b)
	for _, set := range []string{pair.Old, pair.New} {
		all, err := filepath.Glob(filepath.Join(set, "*.deb"))
		require.NoError(b, err)
		for _, deb := range all {
			if err := os.Symlink(deb, filepath.Join(dir, filepath.Base(deb))); !os.IsExist(err) {
				require.NoError(b, err)
			}
		}
	}
	return dir
}

// program builds the program as it is shipped.
func program(b *testing.B) string {
	b.Helper()
	out := filepath.Join(b.TempDir(), "jailup")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "../../cmd/jailup")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	msg, err := cmd.CombinedOutput()
	require.NoError(b, err, string(msg))
	return out
}

// oldJail is a running jail made by hand, in a folder of its own in memory.
func oldJail(b *testing.B, debs string, files int) (*lab.Jail, string) {
	b.Helper()
	dir := lab.ShmDir(b)
	j := lab.HandMadeJail(b, debs, lab.InDir(filepath.Join(dir, "chroot")))
	text := bytes.Repeat([]byte("the quick brown fox "), 1024)
	for i := range files {
		p := filepath.Join(j.Dir, "srv/www", fmt.Sprint(i%50), fmt.Sprintf("%d.html", i))
		require.NoError(b, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(b, os.WriteFile(p, text, 0o644))
	}
	j.Start(b)
	return j, dir
}

// gone ends a round: its server and all its files.
func gone(b *testing.B, j *lab.Jail, dir string) {
	j.Stop(b)
	require.NoError(b, os.RemoveAll(dir))
	require.NoError(b, os.Mkdir(dir, 0o755)) // the end of the benchmark removes it
}

// upgrade calls the program and returns its peak memory in KB, and that of its
// children.
func upgrade(b *testing.B, bin, dir string, j *lab.Jail, args ...string) int64 {
	b.Helper()
	old := digest(b, j)
	cmd := exec.Command(bin, append([]string{"upgrade", "nginx", "--jail", j.Dir, "--soak", "500ms", "--output", "json",
		"--state-dir", filepath.Join(dir, "state"), "--cache-dir", filepath.Join(dir, "cache")}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	for _, v := range []string{"http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if s := os.Getenv(v); s != "" {
			cmd.Env = append(cmd.Env, v+"="+s)
		}
	}
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, string(out))
	require.NotEqual(b, old, digest(b, j), "nothing was upgraded")
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	require.True(b, ok)
	return usage.Maxrss
}

// textbook stops the server, copies the jail and unpacks the package over it.
func textbook(b *testing.B, j *lab.Jail, to, deb string) {
	b.Helper()
	require.NoError(b, unix.Kill(j.MasterPID(), unix.SIGQUIT))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if len(j.Processes()) == 0 {
			break
		}
		require.True(b, time.Now().Before(end), "the server does not end")
	}
	for _, argv := range [][]string{{"cp", "-a", j.Dir, to}, {"dpkg-deb", "-x", deb, j.Dir}} {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		require.NoError(b, err, string(out))
	}
}

func digest(b *testing.B, j *lab.Jail) string {
	b.Helper()
	return lab.TreeDigest(b, filepath.Join(j.Dir, "usr/sbin"))["nginx"]
}

// holding returns the package of a folder that has a file.
func holding(b *testing.B, debs, file string) string {
	b.Helper()
	all, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	require.NoError(b, err)
	for _, deb := range all {
		out, err := exec.Command("dpkg-deb", "--contents", deb).Output()
		require.NoError(b, err)
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			if len(f) > 5 && f[5] == file {
				return deb
			}
		}
	}
	b.Fatalf("no package of %s holds %s", debs, file)
	return ""
}
