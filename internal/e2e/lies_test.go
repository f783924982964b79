//go:build faultpoints

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// lie is one way of a new server to look well and not to be, or to look ill and
// to be well.
type lie struct {
	name string
	ways []string // of lab.FakeNginx; @PORT@ and @MORE@ are filled in
	conf string   // of the old server, and of the new one
	args []string
	// want is what the message must hold; "" is a server that must be taken.
	want string
	exit int // 0: 3 where want is set
	old  func(t *testing.T, j *lab.Jail)
	end  func(t *testing.T, j *lab.Jail, r result)
}

const liesConf = `user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log notice;
events { worker_connections 64; }
http {
    include /etc/nginx/mime.types;
    access_log /var/log/nginx/access.log;
    @HTTP@
    server {
        listen 127.0.0.1:@PORT@;
        server_name a.example;
        root /srv/www;
        location / { index index.html; @BROKEN@ }
    }
}
`

// liesIn is a configuration with something more in http, or in the location.
func liesIn(http, location string) string {
	return strings.NewReplacer("@HTTP@", http, "@BROKEN@", location).Replace(liesConf)
}

const second = `server { listen 127.0.0.2:@PORT@; server_name b.example; root /srv/www; index index.html; }`

// One upgrade each, by the built program, from a real server that runs to one that
// lies. A lie ends rolled back, with the real one answering, every byte the old
// one, the evidence kept and the cause named.
func TestLyingServers(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb", "go")
	soak := []string{"--soak", "2s"}
	loud := func(t *testing.T, j *lab.Jail) {
		log := filepath.Join(j.Dir, "var/log/nginx/error.log")
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		defer f.Close()
		for i := range 200 {
			fmt.Fprintf(f, "2024/01/02 03:04:05 [crit] %d#0: *1 open() \"/srv/x\" failed (5: Input/output error)\n", i)
		}
	}
	kept := func(path string) func(t *testing.T, j *lab.Jail, r result) {
		return func(t *testing.T, j *lab.Jail, _ result) {
			data, err := os.ReadFile(filepath.Join(j.Dir, path))
			require.NoError(t, err, "what the new server has written is gone")
			require.Equal(t, "written by the new server\n", string(data))
		}
	}
	lies := []lie{
		{name: "exits at once", ways: []string{"die-after 1ms"}, want: "no process of the server runs|left no process running|the master is gone|exited on signal 11"},
		{name: "exits after 2 s", ways: []string{"die-after 2s"}, args: []string{"--soak", "5s"}, want: "the master is gone|no process of the server runs|exited on signal 11|no answer from"},
		{name: "exits after 9 s", ways: []string{"die-after 9s"}, args: []string{"--soak", "20s"}, want: "the master is gone|no process of the server runs|exited on signal 11|has no workers"},
		{name: "loops", ways: []string{"loops 300ms"}, args: []string{"--soak", "5s"}, want: "it does not stay up|the master is gone|no process of the server runs|no answer from"},
		{name: "loops slowly", ways: []string{"loops 2500ms"}, args: []string{"--soak", "6s"}, want: "it does not stay up|the master is gone|no process of the server runs|no answer from"},
		{name: "workers die", ways: []string{"worker-dies-after 1s"}, args: []string{"--soak", "5s", "--start-timeout", "10s"}, want: "has no workers|no answer from"},
		{name: "workers crash", ways: []string{"worker-crashes 300ms"}, args: []string{"--soak", "5s"}, want: "workers die|has no workers"},
		{name: "silent", ways: []string{"silent"}, args: []string{"--start-timeout", "7s"}, want: "timeout"},
		{name: "slow", ways: []string{"slow-answer 2500ms"}, want: "the old one took"},
		{name: "wrong page", ways: []string{"body something else, and much more of it than there was before: " + strings.Repeat("lie ", 100)}, want: "its type was|bytes, and had|title was"},
		{name: "bad gateway", ways: []string{"status 502"}, want: "answers 502"},
		{name: "forbidden", ways: []string{"status 403"}, want: "answers 403"},
		{name: "empty reply", ways: []string{"empty"}, want: "closes the connection without an answer"},
		{name: "garbage", ways: []string{"garbage"}, args: []string{"--start-timeout", "7s"}, want: "no answer from"},
		{name: "cut off", ways: []string{"cut-off"}, args: []string{"--start-timeout", "7s"}, want: "breaks off"},
		{
			name: "IPv6 dead", conf: liesIn("server { listen [::1]:@PORT@; server_name a.example; root /srv/www; index index.html; }", ""),
			ways: []string{"deaf [::1]:@PORT@"}, args: []string{"--start-timeout", "7s"}, want: "[::1]",
		},
		{name: "one site gone", conf: liesIn(second, ""), ways: []string{"lost-host b.example"}, want: "b.example) answers 404"},
		{name: "another process has the port", ways: []string{"squat"}, want: "is held by process"},
		{name: "listens on more", ways: []string{"extra-listen 127.0.0.3:@MORE@"}, want: "listens on 127.0.0.3:@MORE@, which the old one did not"},
		{name: "listens on less", conf: liesIn(second, ""), ways: []string{"less-listen 127.0.0.2:@PORT@"}, want: "127.0.0.2:@PORT@"},
		{name: "listens on nothing", ways: []string{"no-listen"}, want: "does not listen on|listens on nothing", args: []string{"--start-timeout", "7s"}},
		{name: "start fails", ways: []string{"start-fails no luck today"}, want: "no luck today"},
		{name: "bad after 2 s", ways: []string{"bad-after 2s"}, args: []string{"--soak", "5s"}, want: "answers 502"},
		{name: "good for the first 40 answers", ways: []string{"good-first 40"}, args: []string{"--soak", "6s"}, want: "answers 502"},
		{name: "good for the prober alone", ways: []string{"only-agent jailup"}, args: []string{"--soak", "3s", "--start-timeout", "20s"}, want: "answers 502"},
		{name: "emergencies in the log", ways: []string{"log-level emerg", "log something is very wrong"}, args: soak, want: "something is very wrong"},
		{name: "the log is gone", ways: []string{"removes /var/log/nginx/error.log"}, args: soak, want: "inconclusive: "},
		{name: "workers are root", ways: []string{"worker-is-root"}, want: "its workers run as root"},
		{name: "workers escape", ways: []string{"worker-escapes"}, want: "its root is not the jail"},
		{
			name: "another certificate", ways: []string{"log-level notice", "log hello"}, want: "its certificate is not for the host",
			conf: liesIn("server { listen 127.0.0.4:@PORT@ ssl; server_name a.example; ssl_certificate /etc/nginx/a.pem; ssl_certificate_key /etc/nginx/a.key; root /srv/www; index index.html; }", ""),
			old:  certify,
		},
		{name: "resets 3 of 10", ways: []string{"resets 30"}, args: []string{"--soak", "4s", "--start-timeout", "20s"}, want: "reset|looks failed|no answer"},
		{name: "ignores signals and lies", ways: []string{"ignore-signals", "status 500"}, args: []string{"--stop-timeout", "1s"}, want: "answers 500"},
		{
			name: "no server to go back to", ways: []string{"spoils /var/log/nginx/error.log", "status 502"}, exit: 4, want: "every file of the jail is the old one",
			end: func(t *testing.T, j *lab.Jail, r result) {
				require.Contains(t, r.Done["hint"], "jailup recover --jail "+j.Dir)
				log := filepath.Join(j.Dir, "var/log/nginx/error.log")
				require.NoError(t, os.Remove(log)) // a person mends the cause
			},
		},
		{name: "data is kept", ways: []string{"writes /srv/www/upload", "status 502"}, want: "answers 502", end: kept("srv/www/upload")},

		// What looks ill and is well.
		{name: "honest", args: soak},
		{name: "slow start", ways: []string{"slow-start 20s"}},
		{name: "one in a hundred is an error", ways: []string{"one-in 100"}, args: []string{"--soak", "6s"}},
		{name: "old errors in the log", old: loud, args: soak},
		{name: "an old error again", old: loud, ways: []string{"log-level crit", `log *1 open() "/srv/x" failed (5: Input/output error)`}, args: soak},
		{name: "the log was rotated", args: soak, old: func(t *testing.T, j *lab.Jail) {
			loud(t, j)
			log := filepath.Join(j.Dir, "var/log/nginx/error.log")
			require.NoError(t, os.Rename(log, log+".1"))
			require.NoError(t, os.WriteFile(log, nil, 0o644))
		}},
		{
			name: "broken before", conf: liesIn("", "return 502;"), ways: []string{"status 502"}, args: soak,
			end: func(t *testing.T, _ *lab.Jail, r result) {
				told := false
				for _, e := range r.Events {
					if c, ok := e["check"].(map[string]any); ok && c["status"] == "before" {
						told = true
					}
				}
				require.True(t, told, "that it was broken before is not told: %s", r)
			},
		},
		{name: "nothing to ask, accepted", conf: liesIn("", ""), ways: []string{"status 502"}, args: []string{"--accept-inconclusive"}, old: func(t *testing.T, j *lab.Jail) { j.Stop(t) }},
		{
			name: "nothing to ask", ways: []string{"status 502"}, exit: 3, want: "inconclusive: ", old: func(t *testing.T, j *lab.Jail) { j.Stop(t) },
			end: func(t *testing.T, j *lab.Jail, r result) {
				require.Equal(t, "inconclusive", r.Done["verdict"])
				require.Contains(t, r.Done["hint"], "--accept-inconclusive")
				require.Empty(t, j.Processes(), "it was down before")
				j.Start(t)
			},
		},
	}
	y := lab.NewTally(t, "lying health")
	y.Of(len(lies))
	for i, l := range lies {
		if !lab.Sampled(t, i) {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			y.Cases(1)
			tellLie(t, y, l)
		})
	}
}

func tellLie(t *testing.T, y *lab.Tally, l lie) {
	pair := lab.Light(t, lab.NginxPair(t))
	port, more := lab.FreePort(t), lab.FreePort(t)
	fill := strings.NewReplacer("@PORT@", strconv.Itoa(port), "@MORE@", strconv.Itoa(more))
	conf := l.conf
	if conf == "" {
		conf = liesIn("", "")
	}
	if strings.Contains(conf, "[::1]") {
		needIPv6(t)
	}
	base := lab.ShmDir(t)
	j := lab.HandMadeJail(t, pair.Old, lab.InDir(filepath.Join(base, "chroot")), lab.WithConf(conf), lab.Port(port))
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/unknown"), []byte("mine"), 0o640))
	if l.name == "another certificate" {
		l.old(t, j)
		l.old = nil
	}
	j.Start(t)
	if l.old != nil {
		l.old(t, j)
	}
	status, page := 200, lab.Page
	if strings.Contains(conf, "return 502") {
		status, page = 502, ""
	}
	ways := make([]string, len(l.ways))
	for i, w := range l.ways {
		ways[i] = fill.Replace(w)
	}
	liar := lab.FakeNginx(t, lab.FindDeb(t, pair.New, "nginx"), ways...)
	h := newHost(t, filepath.Dir(liar), pair.Old, pair.New)
	before, canary := stateless(t, j.Dir), map[string]string{}
	canary = lab.TreeDigest(t, base, "chroot/**", "chroot", ".jailup-stage*", ".jailup-stage*/**")

	args := append([]string{"upgrade", "nginx", "--jail", j.Dir}, l.args...)
	if len(l.args) == 0 || !strings.Contains(strings.Join(l.args, " "), "--soak") {
		args = append(args, "--soak", "1s")
	}
	r := h.run(args...)

	want := l.exit
	if want == 0 && l.want != "" {
		want = 3
	}
	if r.Exit != want {
		y.WrongExit("%s: exit status %d, not %d: %v %s", l.name, r.Exit, want, r.Done, r.Stderr)
	}
	if len(lab.DiffTrees(canary, lab.TreeDigest(t, base, "chroot/**", "chroot", ".jailup-stage*", ".jailup-stage*/**"))) > 0 {
		y.Outside("something beside the jail was touched")
	}
	if l.want == "" {
		if l.end != nil {
			l.end(t, j, r)
		}
		require.Equal(t, "upgraded", r.result(), "%v", r.Done)
		require.NotEmpty(t, lab.DiffTrees(before, stateless(t, j.Dir)))
		y.Point("new")
		return
	}
	message := r.err()
	named := false
	for part := range strings.SplitSeq(fill.Replace(l.want), "|") {
		named = named || strings.Contains(message, part)
	}
	require.True(t, named, "the cause is not named: %s\n%v", message, r.Done)
	require.LessOrEqual(t, strings.Count(message, "\n"), 2)
	require.NotContains(t, message, "\x1b")
	evidence, _ := r.Done["evidence"].(string)
	require.DirExists(t, evidence, "no evidence is kept: %v", r.Done)
	list, err := os.ReadDir(evidence)
	require.NoError(t, err)
	require.NotEmpty(t, list)
	after := stateless(t, j.Dir)
	for path := range after {
		if strings.HasPrefix(path, "srv/www/upload") {
			delete(after, path)
		}
	}
	if l.name == "data is kept" { // the folder's own time is not what was written into it
		delete(before, "srv/www")
		delete(after, "srv/www")
	}
	if d := lab.DiffTrees(before, after); len(d) > 0 {
		y.Mixed("not the old tree: %v", d)
	}
	if l.end != nil {
		l.end(t, j, r)
	}
	if want == 4 {
		again := h.run("recover", "--jail", j.Dir)
		if again.Exit != 0 {
			y.Person("recover ends with %d once the cause is mended: %s", again.Exit, again)
		}
	}
	got, body, err := j.TryGet("/")
	require.NoError(t, err, "the old server does not answer")
	require.Equal(t, status, got)
	if page != "" {
		require.Equal(t, page, body)
	}
	for _, p := range j.Processes() {
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID))
		require.True(t, exe == "" || strings.HasSuffix(exe, "/usr/sbin/nginx"), "a process of the new server is left: %s", exe)
	}
	y.Point("old")
}

// certify makes a certificate for the jail's site.
func certify(t *testing.T, j *lab.Jail) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(7), DNSNames: []string{"a.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for name, block := range map[string]*pem.Block{"a.pem": {Type: "CERTIFICATE", Bytes: der}, "a.key": {Type: "PRIVATE KEY", Bytes: raw}} {
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "etc/nginx", name), pem.EncodeToMemory(block), 0o600))
	}
}

// needIPv6 skips where ::1 is not there.
func needIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp6", "[::1]:0")
	if err == nil {
		l.Close()
		return
	}
	if lab.RequireAll() {
		t.Fatalf("needs IPv6: %v", err)
	}
	t.Skipf("needs IPv6: %v", err)
}
