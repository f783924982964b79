package checks

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

func names(s *Set) []string {
	var list []string
	for _, c := range s.Checks() {
		list = append(list, c.Name())
	}
	return list
}

// full is a target with something for each kind of check.
func full(t *testing.T, part string) (Target, string) {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "srv/www"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "srv/www/index.php"), []byte("<?php echo 1;"), 0o644))
	root, err := jail.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return Target{
		Part: part, Files: root, Parents: root,
		Server:  func(context.Context) (Processes, error) { return Processes{}, nil },
		Runtime: func(context.Context) (Runtime, error) { return Runtime{}, nil },
		Listens: append(listenOn(80), webconf.Listen{Context: "stream", Network: "tcp", Address: "127.0.0.1", Port: 81}),
		VHosts: []webconf.VHost{
			{Names: []string{"shop.example"}, Listens: listenOn(80), Root: "/srv/www", PHP: true},
			{Names: []string{"plain.example"}, Listens: listenOn(80), Root: "/srv/www"},
			{Names: []string{"empty.example"}, Listens: listenOn(80), Root: "/srv", PHP: true},
		},
		ErrorLogs: []ErrorLog{{"/error.log", LogApache}},
		Pools:     []phpconf.Pool{{Name: "www", Network: "unix", Address: "/run/x.sock"}},
	}, dir
}

func TestNamesOfParts(t *testing.T) {
	t.Parallel()
	first, _ := full(t, "")
	user := Config{Checks: []UserCheck{{Path: "/mine"}}}
	set, err := Standard(first, user)
	require.NoError(t, err)
	want := []string{
		"process", "port", "php", "fastcgi www", "http 127.0.0.1:80 shop.example", "http 127.0.0.1:80 plain.example", "http 127.0.0.1:80 empty.example",
		"tcp 127.0.0.1:81", "php page shop.example 127.0.0.1:80", "log /error.log", "http /mine",
	}
	require.Equal(t, want, names(set))

	second, _ := full(t, "apache")
	other, err := Standard(second, user)
	require.NoError(t, err)
	var parted []string
	for _, n := range want[:len(want)-1] {
		kind, rest, _ := strings.Cut(n, " ")
		parted = append(parted, strings.TrimSpace(kind+" apache "+rest))
	}
	require.Equal(t, parted, names(other))
	require.Equal(t, append(want, parted...), names(Join(set, other)))
	require.Equal(t, want, names(Join(set, nil, set)), "each name once")
	require.Empty(t, Join().Checks())

	for skip, left := range map[string]int{"http": 10 - 3, "http apache": 7, "php apache": 8, "php apache page": 9, "fastcgi": 9, "log apache /error.log": 9, "process": 9} {
		set, err := Standard(second, Config{Skip: []string{skip}})
		require.NoError(t, err)
		require.Len(t, set.Checks(), left, skip)
		require.Len(t, set.logs, map[bool]int{true: 0, false: 1}[strings.HasPrefix(skip, "log")])
	}
}

// Two servers may write logs of one name, where one of them is outside of the
// jail; what is marked of one says nothing of the other.
func TestMarksOfSeveralServers(t *testing.T) {
	t.Parallel()
	const emerg = "[23-Nov-2026 17:02:16] ERROR: FPM initialization failed\n"
	a, dirA := full(t, "")
	b, dirB := full(t, "php-fpm")
	b.ErrorLogs = []ErrorLog{{"/error.log", LogFPM}}
	for _, d := range []string{dirA, dirB} {
		require.NoError(t, os.WriteFile(filepath.Join(d, "error.log"), []byte(emerg), 0o644))
	}
	both := func() *Set {
		var sets []*Set
		for _, target := range []Target{a, b} {
			s, err := Standard(target, Config{})
			require.NoError(t, err)
			sets = append(sets, s)
		}
		return Join(sets...)
	}
	marks := both().Mark()
	require.Len(t, marks, 2)
	require.NotEqual(t, marks[0].Inode, marks[1].Inode)
	set := both() // another run, with the marks that were saved
	set.Since(marks)
	f, err := os.OpenFile(filepath.Join(dirB, "error.log"), os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(emerg)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	got := map[string]string{}
	for _, c := range set.Checks() {
		if l, ok := c.(*logCheck); ok {
			got[c.Name()] = runOnce(t, l).Detail
		}
	}
	require.Equal(t, map[string]string{
		"log /error.log": "no new line above the level warn", "log php-fpm /error.log": "[emerg] FPM initialization failed",
	}, got)
}

func TestLogsOfAMasterOutside(t *testing.T) {
	t.Parallel()
	target, _ := full(t, "")
	outside, dir := full(t, "")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "error.log"), nil, 0o644))
	target.MasterOutside = true
	set, err := Standard(target, Config{})
	require.NoError(t, err)
	require.True(t, runOnce(t, set.logs[0]).Inconclusive, "nobody says where it is")
	target.Outside = outside.Files
	set, err = Standard(target, Config{})
	require.NoError(t, err)
	require.True(t, runOnce(t, set.logs[0]).OK)
}

// Pages of a server that sends what it should have run.
func TestPageThatIsSource(t *testing.T) {
	t.Parallel()
	const script = "<!doctype html>\n<p>\n<?php require 'config.php'; echo $secret; ?>\n"
	const page = "<!doctype html>\n<p>\nhello, write &lt;?php\n"
	for _, c := range []struct {
		name        string
		before, now string
		want        Verdict
		detail      string
	}{
		{"well", page, page, Healthy, "answers 200"},
		{"source", page, script, Unhealthy, "PHP does not run it"},
		{"source, now as before", script, script, BrokenBefore, "PHP does not run it"},
		{"another script's source", page, "\ufeff\n<?php phpinfo();", Unhealthy, "PHP does not run it"},
		{"a short tag", page, "<?= $secret ?>", Unhealthy, "PHP does not run it"},
		{"talks of PHP", page + "<textarea><?php</textarea>", page + "<textarea><?php</textarea>", Healthy, "answers 200"},
		{"talks of PHP now", page, page + "<textarea><?php</textarea>", Unhealthy, "the page shows source of PHP, and did not"},
		{"an error", page, "500", Unhealthy, "answers 500"},
		{"redirects", page, "302", Unhealthy, "answers 302"},
		{"empty", page + strings.Repeat(" ", 100), "", Unhealthy, "the page is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var now atomic.Value
			now.Store(c.before)
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := now.Load().(string)
				w.Header().Set("Content-Type", "text/html")
				if r.URL.Path != "/index.php" || r.Host != "shop.example" {
					w.WriteHeader(http.StatusTeapot)
				} else if n, err := strconv.Atoi(body); err == nil {
					w.WriteHeader(n)
				} else {
					_, _ = w.Write([]byte(body))
				}
			}))
			defer s.Close()
			port := s.Listener.Addr().(*net.TCPAddr).Port
			target, dir := full(t, "")
			require.NoError(t, os.WriteFile(filepath.Join(dir, "srv/www/index.php"), []byte(script), 0o644))
			target.Listens, target.VHosts[0].Listens = nil, listenOn(port)
			set, err := Standard(target, Config{Skip: []string{"http", "process", "fastcgi", "log"}})
			require.NoError(t, err)
			check := set.Checks()[1]
			require.Equal(t, "php page shop.example 127.0.0.1:"+strconv.Itoa(port), check.Name())
			before := Baseline(t.Context(), []Check{check})
			now.Store(c.now)
			v, detail := judge(&before.Results[0], runOnce(t, check))
			require.Equal(t, c.want, v, detail)
			require.Contains(t, detail, c.detail)
		})
	}
}
