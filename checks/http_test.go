package checks

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/webconf"
)

// to is a check that asks a test server.
func to(address string) *httpCheck {
	return &httpCheck{name: "http", network: "tcp", address: address, path: "/", dial: dialer(nil)}
}

func runOnce(t *testing.T, c Check) Observation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return c.Run(ctx)
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestHTTPAnswers(t *testing.T) {
	t.Parallel()
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		case "/error":
			w.WriteHeader(http.StatusBadGateway)
		case "/large":
			_, _ = io.Copy(w, io.LimitReader(zeros{}, 4*maxBody))
		case "/torn":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "short")
		case "/gone":
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, "<TITLE>\n for %s\x1b[0m</TITLE>", r.Host)
		}
	})
	for _, c := range []struct {
		path, status, detail string
		ok, pending          bool
	}{
		{"/", "200", "answers 200, ", true, false},
		{"/redirect", "302", "answers 302", true, false},
		{"/error", "502", "answers 502", false, false},
		{"/large", "200", "more than 1048576 bytes", true, false},
		{"/torn", "", "the answer breaks off", false, true},
		{"/gone", "closed", "closes the connection without an answer", true, false},
	} {
		check := to(address)
		check.path, check.host = c.path, "shop.example"
		o := runOnce(t, check)
		require.Equal(t, c.status, o.Values["status"], c.path)
		require.Contains(t, o.Detail, c.detail)
		require.Equal(t, []bool{c.ok, c.pending}, []bool{o.OK, o.Pending}, c.path)
		if c.path == "/" {
			require.Equal(t, "for shop.example", o.Values["title"])
			require.Equal(t, "text/html", o.Values["type"])
			require.Equal(t, "yes", o.Values["static"])
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestHTTPExpectations(t *testing.T) {
	t.Parallel()
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		if r.URL.Path == "/503" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "all is well")
	})
	for _, c := range []struct {
		name   string
		path   string
		expect expect
		detail string
		ok     bool
	}{
		{"status", "/", expect{status: 200}, "answers 200", true},
		{"other status", "/", expect{status: 204}, "expected is 204", false},
		{"a broken page is meant", "/503", expect{status: 503}, "answers 503", true},
		{"body", "/", expect{body: regexp.MustCompile("well$")}, "answers 200", true},
		{"other body", "/", expect{body: regexp.MustCompile("^well")}, `does not match "^well"`, false},
		{"body of an error", "/503", expect{body: regexp.MustCompile("well$")}, "answers 503", false},
		{"time", "/", expect{maxTime: time.Minute}, "answers 200", true},
		{"too slow", "/", expect{maxTime: time.Millisecond}, "expected is at most 1ms", false},
	} {
		check := to(address)
		check.path, check.expect = c.path, c.expect
		o := runOnce(t, check)
		require.Equal(t, c.ok, o.OK, c.name)
		require.Contains(t, o.Detail, c.detail, c.name)
	}
}

func TestHTTPSilence(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close() // accepts into its queue, answers never
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	o := to(l.Addr().String()).Run(ctx)
	require.True(t, o.Pending && !o.OK)
	require.Contains(t, o.Detail, ": timeout")

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()
	o = runOnce(t, to(closed.Addr().String()))
	require.True(t, o.Pending && !o.OK)
	require.Contains(t, o.Detail, "connection refused")
}

func TestHTTPOverTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, r.TLS.ServerName)
	}))
	s.Config.ErrorLog = nil
	s.TLS = &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "refused.example" {
			return nil, errors.New("refused")
		}
		return nil, nil
	}}
	s.Config.ErrorLog = quietLog()
	s.StartTLS()
	defer s.Close()
	c := to(s.Listener.Addr().String())
	c.tls, c.host = true, "example.com"
	o := runOnce(t, c)
	require.True(t, o.OK, o.Detail)
	require.Equal(t, "yes", o.Values["certificate_for_host"])
	require.Len(t, o.Values["certificate"], 32)
	require.Equal(t, "11", o.Values["length"])

	c.host = "other.example"
	require.Equal(t, "no", runOnce(t, c).Values["certificate_for_host"])
	c.host, c.path = "example.com", "/gone"
	require.Equal(t, statusClosed, runOnce(t, c).Values["status"])
	c.host = "refused.example"
	require.Equal(t, statusAlert, runOnce(t, c).Values["status"])
}

func TestHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Proto)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	defer s.Close()
	c := to(s.Listener.Addr().String())
	c.h2c = true
	o := runOnce(t, c)
	require.True(t, o.OK, o.Detail)
}

// raw is a server that writes what it is told, before it was asked for anything
// or after, and then closes.
func raw(t *testing.T, early bool, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !early {
				_, _ = http.ReadRequest(bufio.NewReader(conn))
			}
			_, _ = io.WriteString(conn, text)
			if early {
				_, _ = http.ReadRequest(bufio.NewReader(conn))
			}
			conn.Close()
		}
	}()
	return l.Addr().String()
}

func TestHTTPStrangeAnswers(t *testing.T) {
	t.Parallel()
	const well = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, c := range []struct {
		name, text string
		early      bool
		status     string
		detail     string
	}{
		{"plain", well, false, "200", "answers 200, 2 bytes"},
		{"before the question", well, true, "200", "answers 200, 2 bytes"},
		{"early hints", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + well, false, "200", "answers 200"},
		{"hints without end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50), false, "", "no answer"},
		{"another protocol", "SSH-2.0-x\x1b[2J\r\n", false, "", "no answer from"},
		{"headers without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 200), false, "", "no answer"},
		{"half an answer", "HTTP/1.1 200 O", false, "", "no answer"},
		{"up to the close", "HTTP/1.0 200 OK\r\n\r\nhello", false, "200", "5 bytes"},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false, "200", "2 bytes"},
	} {
		o := runOnce(t, to(raw(t, c.early, c.text)))
		require.Equal(t, c.status, o.Values["status"], c.name)
		require.Contains(t, o.Detail, c.detail, c.name)
		require.NotContains(t, o.Detail, "\x1b")
	}
}

func TestHTTPBehindProxyProtocol(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(conn)
			first, _ := r.ReadString('\n')
			first = strings.TrimSpace(first)
			_, _ = http.ReadRequest(r)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(first), first)
			conn.Close()
		}
	}()
	c := to(l.Addr().String())
	c.proxy = true
	c.expect.body = regexp.MustCompile("^PROXY UNKNOWN$")
	o := runOnce(t, c)
	require.True(t, o.OK, o.Detail)
}

func TestHTTPOverUnixSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	l, err := net.Listen("unix", filepath.Join(dir, "run", "web.sock"))
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "over unix") }))
	s.Listener.Close()
	s.Listener = l
	s.Start()
	defer s.Close()
	require.NoError(t, os.Symlink(filepath.Join(dir, "run", "web.sock"), filepath.Join(dir, "run", "link.sock")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run", "file.sock"), nil, 0o644))

	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	ask := func(path string, parents Parents) Observation {
		l := webconf.Listen{Context: "http", Network: "unix", Address: path}
		return runOnce(t, newHTTPCheck(l, "", dialer(parents)))
	}
	o := ask("/run/web.sock", root)
	require.True(t, o.OK, o.Detail)
	require.Equal(t, "9", o.Values["length"])
	require.True(t, ask("/run/none.sock", root).Pending)
	require.True(t, ask("/run/link.sock", root).Inconclusive, "a link may lead out of the jail")
	require.True(t, ask("/run/file.sock", root).Inconclusive)
	require.True(t, ask("/run/web.sock", nil).Inconclusive)
}

func TestCompareHTTP(t *testing.T) {
	t.Parallel()
	type v = map[string]string
	page := v{"status": "200", "length": "1000", "type": "text/html", "body": "x", "title": "Shop", "limit_ms": "2000"}
	file := with(page, v{"static": "yes"})
	for _, c := range []struct {
		name   string
		was    v
		now    v
		took   time.Duration
		ok     bool
		want   Verdict
		detail string
	}{
		{"same", page, page, 0, true, Healthy, ""},
		{"another status", page, with(page, v{"status": "404"}), 0, true, Unhealthy, "the old one answered 200"},
		{"login is gone", with(page, v{"status": "401"}), page, 0, true, Unhealthy, "the old one answered 401"},
		{"redirect as before", v{"status": "301"}, v{"status": "301"}, 0, true, Healthy, ""},
		{"same 404", v{"status": "404", "length": "9"}, v{"status": "404", "length": "900"}, 0, true, Healthy, ""},
		{"502 now", page, v{"status": "502"}, 0, false, Unhealthy, "the old one answered 200"},
		{"502 as before", v{"status": "502"}, v{"status": "502"}, 0, false, BrokenBefore, "as before"},
		{"502, then 503", v{"status": "502"}, v{"status": "503"}, 0, false, BrokenBefore, "as before"},
		{"mended", v{"status": "502"}, page, 0, true, Healthy, "was broken before"},
		{"502, then silence", v{"status": "502"}, v{}, 0, false, Unhealthy, ""},
		{"silence as before", v{}, v{}, 0, false, BrokenBefore, "as before"},
		{"silence mended", v{}, page, 0, true, Healthy, "was broken before"},
		{"closed as before", v{"status": "closed"}, v{"status": "closed"}, 0, true, Healthy, ""},
		{"closed now", page, v{"status": "closed"}, 0, true, Unhealthy, "the old one answered 200"},
		{"answers now", v{"status": "closed"}, page, 0, true, Unhealthy, "by closing the connection"},
		{"another type", page, with(page, v{"type": "application/octet-stream"}), 0, true, Unhealthy, "its type was text/html, is application/octet-stream"},
		{"no type", page, without2(page, "type"), 0, true, Unhealthy, "is none"},
		{"empty", page, with(page, v{"length": "0", "body": "e"}), 0, true, Unhealthy, "the page is empty, and had 1000 bytes"},
		{"not empty", with(page, v{"length": "0", "body": "e"}), page, 0, true, Unhealthy, "was empty"},
		{"a bit longer", page, with(page, v{"length": "1900", "body": "y", "title": "Shop (2)"}), 0, true, Healthy, ""},
		{"much shorter", page, with(page, v{"length": "200", "body": "y"}), 0, true, Unhealthy, "has 200 bytes, and had 1000"},
		{"small and a little", v{"status": "200", "length": "2", "body": "a"}, v{"status": "200", "length": "10", "body": "b"}, 0, true, Healthy, ""},
		{"a file, another title", file, with(file, v{"body": "y", "title": "Welcome"}), 0, true, Unhealthy, `title was "Shop", is "Welcome"`},
		{"a file, same title", file, with(file, v{"body": "y", "length": "1100"}), 0, true, Healthy, ""},
		{"a file, another size", file, with(file, v{"body": "y", "length": "1600"}), 0, true, Unhealthy, "1600 bytes"},
		{"slow", page, page, 3 * time.Second, true, Unhealthy, "the old one took"},
		{"not yet slow", page, page, 1900 * time.Millisecond, true, Healthy, ""},
		{"certificate of another host", with(page, v{"certificate_for_host": "yes"}), with(page, v{"certificate_for_host": "no"}), 0, true, Unhealthy, "certificate is not for the host"},
		{"certificate renewed", with(page, v{"certificate": "a"}), with(page, v{"certificate": "b"}), 0, true, Healthy, ""},
		{"expected", v{"status": "503", "expected": "yes"}, v{"status": "200", "expected": "yes"}, 0, true, Healthy, ""},
		{"expectation missed", v{"status": "200", "expected": "yes"}, v{"status": "500", "expected": "yes"}, 0, false, Unhealthy, ""},
		{"expectation missed before", v{"status": "500", "expected": "yes"}, v{"status": "404", "expected": "yes"}, 0, false, BrokenBefore, "as before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := Observation{Kind: KindHTTP, Values: c.was, OK: c.was["status"] != "" && (!serverError(c.was["status"]) || c.name == "expected"), Detail: "before"}
			now := Observation{Kind: KindHTTP, Values: c.now, OK: c.ok, Took: c.took, Detail: "now", Pending: c.now["status"] == ""}
			got, detail := judge(&Result{Observation: was}, now)
			require.Equal(t, c.want, got, detail)
			require.Contains(t, detail, c.detail)
		})
	}
}

func with(a map[string]string, b map[string]string) map[string]string {
	c := map[string]string{}
	for k, v := range a {
		c[k] = v
	}
	for k, v := range b {
		c[k] = v
	}
	return c
}

func without2(a map[string]string, key string) map[string]string {
	c := with(a, nil)
	delete(c, key)
	return c
}
