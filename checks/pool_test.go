package checks

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/jailup/jailup/internal/webconf"
)

const statusPage = `{"pool":"www","process manager":"dynamic","start time":1,"accepted conn":17,"listen queue":3,"max children reached":2}`

// says is a server of FastCGI that answers each script with a status and a body.
func says(t *testing.T, l net.Listener, answers map[string]string) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		_ = fcgi.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, ok := answers[r.URL.Path]
			if !ok {
				answer = answers[""]
			}
			code, body, _ := strings.Cut(answer, " ")
			n, err := strconv.Atoi(code)
			if err != nil {
				n = http.StatusTeapot
			}
			w.WriteHeader(n)
			_, _ = io.WriteString(w, body)
		}))
	}()
}

func TestPools(t *testing.T) {
	t.Parallel()
	healthyFPM := map[string]string{"": "404 File not found.\n", "/ping": "200 pong", "/status": "200 " + statusPage}
	ping := phpconf.Pool{PingPath: "/ping"}
	status := phpconf.Pool{StatusPath: "/status"}
	for _, c := range []struct {
		name    string
		pool    phpconf.Pool
		answers map[string]string
		raw     func(c net.Conn) // instead of answers
		ok      bool
		detail  string
	}{
		{name: "without ping and status", answers: healthyFPM, ok: true, detail: "it says 404 of a script that is not there, as it should"},
		{name: "forbidden", answers: map[string]string{"": "403 Access denied."}, ok: true, detail: "it says 403"},
		{name: "ping", pool: ping, answers: healthyFPM, ok: true, detail: "answers a ping"},
		{name: "ping with blanks", pool: ping, answers: map[string]string{"/ping": "200  pong\n"}, ok: true},
		{name: "another answer", pool: phpconf.Pool{PingPath: "/ping", PingResponse: "alive"}, answers: map[string]string{"/ping": "200 alive"}, ok: true},
		{name: "the wrong answer", pool: ping, answers: map[string]string{"/ping": "200 gnop\x1b[2J"}, detail: `answers 200 to a ping, with "gnop"`},
		{name: "no ping page", pool: ping, answers: map[string]string{"": "404 File not found."}, detail: "answers 404 to a ping"},
		{name: "status", pool: status, answers: healthyFPM, ok: true, detail: "tells its status: 17 requests so far, 3 in the queue, 2 times out of workers"},
		{name: "ping and status", pool: phpconf.Pool{PingPath: "/ping", StatusPath: "/status"}, answers: healthyFPM, ok: true, detail: "answers a ping: 17 requests so far"},
		{name: "ping without the status", pool: phpconf.Pool{PingPath: "/ping", StatusPath: "/gone"}, answers: healthyFPM, ok: true, detail: "answers a ping"},
		{name: "no status page", pool: status, answers: map[string]string{"": "404 File not found."}, detail: "answers 404 for its status"},
		{name: "another status page", pool: status, answers: map[string]string{"": "200 <h1>Status</h1>"}, detail: "answers 200 for its status"},
		{name: "a page where none is", answers: map[string]string{"": "200 hello"}, detail: `answers 200 for a script that is not there, with "hello"`},
		{name: "fails", answers: map[string]string{"": "500 "}, detail: "answers 500"},
		{name: "fails at the ping", pool: ping, answers: map[string]string{"": "503 "}, detail: "answers 503 to a ping"},
		{name: "hangs up", raw: func(net.Conn) {}, detail: "no answer from the pool www at"},
		{name: "hangs up in the middle", raw: func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte{1, 6, 0, 1, 0, 90, 0, 0, 'S', 't', 'a'})
		}, detail: "no answer from the pool www at"},
		{name: "speaks HTTP", raw: func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadByte()
			_, _ = io.WriteString(c, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		}, detail: "no answer from the pool www at"},
		{name: "says nothing", raw: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, detail: ": timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := lab.ShmDir(t) // the path of a socket must be short
			root, err := jail.Open(dir)
			require.NoError(t, err)
			defer root.Close()
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			require.NoError(t, err)
			if c.raw == nil {
				says(t, l, c.answers)
			} else {
				t.Cleanup(func() { l.Close() })
				go func() {
					for {
						conn, err := l.Accept()
						if err != nil {
							return
						}
						go func() { defer conn.Close(); c.raw(conn) }()
					}
				}()
			}
			c.pool.Name, c.pool.Network, c.pool.Address = "www", "unix", "/s"
			target := Target{Part: "php-fpm", Pools: []phpconf.Pool{c.pool}, Parents: root}
			set, err := Standard(target, Config{})
			require.NoError(t, err)
			require.Len(t, set.Checks(), 1)
			require.Equal(t, "fastcgi php-fpm www", set.Checks()[0].Name())
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if c.detail == ": timeout" {
				ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
			}
			defer cancel()
			o := set.Checks()[0].Run(ctx)
			require.Equal(t, c.ok, o.OK, o.Detail)
			require.Contains(t, o.Detail, c.detail)
			require.NotContains(t, o.Detail, "\x1b")
			require.Equal(t, strings.Contains(c.detail, "no answer") || c.detail == ": timeout", o.Pending)
			if c.ok && c.pool.StatusPath == "/status" {
				require.Equal(t, "17 3", o.Values["accepted_conn"]+" "+o.Values["listen_queue"])
			}
		})
	}
}

func TestPoolsThatAreNotThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	pools := []phpconf.Pool{
		{Name: "gone", Network: "unix", Address: "/run/gone.sock"},
		{Name: "refused", Network: "tcp", Address: "127.0.0.1:" + strconv.Itoa(lab.FreePort(t))},
		{Name: "nowhere"},
	}
	set, err := Standard(Target{Pools: pools, Parents: root}, Config{Skip: []string{"fastcgi gone"}})
	require.NoError(t, err)
	require.Equal(t, []string{"the pool nowhere is not asked: it listens nowhere that is known"}, set.Notes())
	require.Len(t, set.Checks(), 1)
	o := runOnce(t, set.Checks()[0])
	require.True(t, !o.OK && o.Pending)
	require.Contains(t, o.Detail, "connection refused")

	set, err = Standard(Target{Pools: pools[:1], Parents: root}, Config{})
	require.NoError(t, err)
	o = runOnce(t, set.Checks()[0])
	require.True(t, !o.OK && o.Pending, "%+v", o)

	set, err = Standard(Target{Pools: pools[:1]}, Config{})
	require.NoError(t, err)
	require.True(t, runOnce(t, set.Checks()[0]).Inconclusive, "there is no way into the jail")

	for range 2 * maxPools {
		pools = append(pools, pools[1])
	}
	set, err = Standard(Target{Pools: pools}, Config{})
	require.NoError(t, err)
	require.Contains(t, set.Notes(), fmt.Sprintf("%d pools are not asked: only the first %d are", len(pools)-maxPools, maxPools))
}

// A pool that fails where it did not is the new server's fault, and one that
// failed before is not.
func TestPoolAgainstBefore(t *testing.T) {
	t.Parallel()
	well := Observation{Kind: KindFastCGI, OK: true, Values: map[string]string{"status": "404"}, Detail: "answers"}
	ill := Observation{Kind: KindFastCGI, Pending: true, Values: map[string]string{}, Detail: "connection refused"}
	v, _ := judge(&Result{Observation: well}, ill)
	require.Equal(t, Unhealthy, v)
	v, _ = judge(&Result{Observation: ill}, ill)
	require.Equal(t, BrokenBefore, v)
	v, _ = judge(nil, ill)
	require.Equal(t, Unhealthy, v)
	pinged := well
	pinged.Values = map[string]string{"status": "200", "accepted_conn": "1"}
	v, _ = judge(&Result{Observation: pinged}, well)
	require.Equal(t, Healthy, v, "it may be asked in another way now")
}

func TestListensOfPools(t *testing.T) {
	t.Parallel()
	target := Target{}
	target.FPM(&phpconf.FPM{ErrorLog: "/var/log/fpm.log", Pools: []phpconf.Pool{
		{Name: "a", Listen: "/run/a.sock", Network: "unix", Address: "/run/a.sock", User: "www-data"},
		{Name: "b", Listen: "9000", Network: "tcp", Address: "127.0.0.1:9000", Wildcard: true, User: "bob", Chroot: "/srv/bob"},
		{Name: "c", Listen: "0.0.0.0:9001", Network: "tcp", Address: "127.0.0.1:9001", Wildcard: true},
		{Name: "d", Listen: "*:9002", Network: "tcp", Address: "localhost:9002", StatusNetwork: "tcp", StatusAddress: "127.0.0.1:9003"},
		{Name: "e", Listen: "unix:/run/e.sock"},
	}})
	var got []string
	for _, l := range target.Listens {
		got = append(got, fmt.Sprint(l, l.Any, l.ByName))
		require.Equal(t, contextFastCGI, l.Context)
	}
	require.Equal(t, []string{
		"unix:/run/a.sock false false", "[::]:9000 true false", "0.0.0.0:9001 false false", "localhost:9002 false true", "127.0.0.1:9003 false false",
	}, got)
	require.Equal(t, []WorkerRoot{{"php-fpm: pool b", "/srv/bob"}}, target.Workers.Roots)
	require.False(t, target.Workers.MayBeRoot)
	require.Equal(t, []ErrorLog{{"/var/log/fpm.log", LogFPM}}, target.ErrorLogs)
	target.FPM(&phpconf.FPM{ErrorLog: "syslog", Pools: []phpconf.Pool{{User: "root"}}})
	require.True(t, target.Workers.MayBeRoot)
	require.Empty(t, target.ErrorLogs)
	require.Equal(t, "127.0.0.1:80", dialAddress(webconf.Listen{Network: "tcp", Address: "::", Any: true, Port: 80}))
}
