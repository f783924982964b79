package checks

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

// crowd starts children of this test with command lines, below roots of their
// own where these are given (TITLE or TITLE@ROOT), and stands for their master.
func crowd(t *testing.T, titles ...string) func(context.Context) (Processes, error) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	f := Processes{Master: os.Getpid(), All: []int{os.Getpid()}}
	for _, title := range titles {
		title, root, _ := strings.Cut(title, "@")
		cmd := &exec.Cmd{Path: self, Args: []string{title}, Env: append(os.Environ(), liarEnv+"=worker", rootEnv+"="+root)}
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
		f.All = append(f.All, cmd.Process.Pid)
	}
	return func(context.Context) (Processes, error) { return f, nil }
}

func TestWorkersOfKinds(t *testing.T) {
	t.Parallel()
	mine := title(os.Getpid())
	dev, ino := rootOf(t)
	for _, c := range []struct {
		name    string
		workers Workers
		titles  []string
		ok      bool
		detail  string
	}{
		{"of a title", Workers{Title: "php-fpm: pool "}, []string{"php-fpm: pool www", "php-fpm: pool bob", "sh"}, true, "with 2 workers"},
		{"none of the title", Workers{Title: "php-fpm: pool "}, []string{"sh"}, false, "has no workers"},
		{"none for now", Workers{Title: "php-fpm: pool ", Few: true}, []string{"sh"}, true, "with 0 workers"},
		{"of the master's title", Workers{SameTitle: true}, []string{mine, "rotatelogs"}, true, "with 1 worker"},
		{"any", Workers{}, []string{"a", "b"}, true, "with 2 workers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			find := crowd(t, c.titles...)
			check := &processCheck{target: Target{Server: find, Workers: c.workers, RootDev: dev, RootIno: ino}}
			// Until it has become the program, a child has our command line.
			lab.Eventually(t, 10e9, "the children are there", func() bool {
				f, _ := find(t.Context())
				for i, pid := range f.All[1:] {
					if title(pid) != c.titles[i] {
						return false
					}
				}
				return true
			})
			o := runOnce(t, check)
			require.Equal(t, c.ok, o.OK, o.Detail)
			require.Contains(t, o.Detail, c.detail)
			require.Equal(t, "jail", o.Values["root"])
		})
	}
}

func TestWorkersOfSeveralUsers(t *testing.T) {
	t.Parallel()
	was := map[string]string{"worker_uids": "33"}
	now := map[string]string{"worker_uids": "33 1001"}
	require.NotEmpty(t, compareProcess(was, now))
	now["varied"] = "yes"
	require.Empty(t, compareProcess(was, now), "another pool has work now")
	now["worker_uids"] = "0 33"
	require.Equal(t, []string{"its workers run as root"}, compareProcess(was, now))
}

func TestRootsOfWorkers(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	outer := filepath.Join(lab.ShmDir(t), "jail")
	for _, d := range []string{"bob", "eve"} {
		require.NoError(t, os.MkdirAll(filepath.Join(outer, d), 0o755))
	}
	root, err := jail.Open(outer)
	require.NoError(t, err)
	defer root.Close()
	bob := WorkerRoot{"pool bob", "/bob"}
	for _, c := range []struct {
		name  string
		roots []WorkerRoot
		title string
		want  string
	}{
		{"in the jail", nil, "pool www@" + outer, "jail"},
		{"outside", nil, "pool www", "other"},
		{"in its own", []WorkerRoot{bob}, "pool bob@" + outer + "/bob", "jail"},
		{"in the jail instead", []WorkerRoot{bob}, "pool bob@" + outer, "other"},
		{"in another's", []WorkerRoot{bob}, "pool bob@" + outer + "/eve", "other"},
		{"of no pool, in the jail", []WorkerRoot{bob}, "pool bob_status@" + outer, "jail"},
		{"of no pool, in one's root", []WorkerRoot{bob}, "pool bob_status@" + outer + "/bob", "jail"},
		{"of no pool, elsewhere", []WorkerRoot{bob}, "pool bob_status@" + outer + "/eve", "other"},
		{"all in one", []WorkerRoot{{"", "/eve"}}, "any@" + outer + "/eve", "jail"},
		{"in one that is gone", []WorkerRoot{{"", "/gone"}}, "any@" + outer + "/eve", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			target := Target{Files: root, Parents: root, Workers: Workers{Roots: c.roots}, MasterOutside: true, Server: crowd(t, c.title)}
			target.RootDev, target.RootIno = root.DevIno()
			check := &processCheck{target: target}
			want, _, _ := strings.Cut(c.title, "@")
			lab.Eventually(t, 10e9, "the child is there", func() bool {
				f, _ := target.Server(t.Context())
				_, root, _ := strings.Cut(c.title, "@")
				at, _ := os.Readlink(fmt.Sprintf("/proc/%d/root", f.All[1]))
				return title(f.All[1]) == want && (root == "" || at == root)
			})
			o := runOnce(t, check)
			require.Equal(t, c.want, o.Values["worker_root"])
			_, known := o.Values["root"]
			require.False(t, known, "the master is outside, as it should")
			require.True(t, o.Pending, "it runs as root, and may still become one")
			v, detail := judge(nil, o)
			require.Equal(t, c.want == "other", v == Unhealthy && detail == "its root is not the jail", detail)
		})
	}
}

// What is wrong with a worker that has just begun may pass; what stays is wrong.
func TestWorkersGrowUp(t *testing.T) {
	t.Parallel()
	dev, ino := rootOf(t)
	target := Target{Server: crowd(t, "worker"), RootDev: dev, RootIno: ino + 1}
	check := &processCheck{target: target}
	lab.Eventually(t, 10e9, "the worker is grown up", func() bool {
		o := runOnce(t, check)
		return o.Values["worker_root"] == "other" && !o.Pending
	})
	f, _ := target.Server(t.Context())
	p, ok := readProc(f.All[1])
	require.True(t, ok)
	require.GreaterOrEqual(t, time.Since(p.began()), infancy)
	require.Less(t, time.Since(p.began()), time.Minute)
}

func TestSocketOfAnyAddress(t *testing.T) {
	t.Parallel()
	both := webconf.Listen{Network: "tcp", Address: "::", Port: 80, Any: true}
	four := socket{network: "tcp", addr: netip.MustParseAddrPort("0.0.0.0:80")}
	six := socket{network: "tcp6", addr: netip.MustParseAddrPort("[::]:80")}
	require.True(t, four.is(both), "a machine without IPv6")
	require.True(t, six.is(both))
	both.Any = false
	require.False(t, four.is(both))
	require.False(t, socket{network: "tcp", addr: netip.MustParseAddrPort("127.0.0.1:80")}.is(webconf.Listen{Network: "tcp", Address: "::", Port: 80, Any: true}))
}
