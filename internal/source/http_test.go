package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func mkfifo(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, unix.Mkfifo(path, 0o644))
}

// internet is a network of names and addresses that all end at one server.
type internet struct {
	server net.Addr
	names  map[string][]string // what the name server says
	later  map[string][]string // what it says from the second question on
	asked  map[string]int
	mu     sync.Mutex
}

// conn says that it goes where it was meant to go.
type conn struct {
	net.Conn
	to net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.to }

func (n *internet) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.names[host]
	if l, ok := n.later[host]; ok && n.asked[host] > 0 {
		list = l
	}
	n.asked[host]++
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	if out == nil {
		return nil, fmt.Errorf("no such host")
	}
	return out, nil
}

func (n *internet) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	to, err := netip.ParseAddr(host)
	if err != nil {
		list, err := n.lookup(ctx, host)
		if err != nil {
			return nil, err
		}
		to = list[0]
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, n.server.String())
	if err != nil {
		return nil, err
	}
	return conn{c, &net.TCPAddr{IP: to.AsSlice(), Port: 80}}, nil
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	const public, other, private = "203.0.113.7", "203.0.113.8", "10.0.0.1"
	for _, tc := range []struct {
		name, start string
		to          string // Location of the first answer
		names       map[string][]string
		later       map[string][]string
		proxy       bool
		refused     bool
	}{
		{name: "to another public host", start: "http://mirror.test/f", to: "http://other.test/end"},
		{name: "on the same host", start: "http://mirror.test/f", to: "/end"},
		{name: "to a private host by name", start: "http://mirror.test/f", to: "http://inside.test/end", refused: true},
		{name: "to a private address", start: "http://mirror.test/f", to: "http://10.0.0.1/end", refused: true},
		{name: "to loopback", start: "http://mirror.test/f", to: "http://127.0.0.1/end", refused: true},
		{name: "to loopback by an odd form", start: "http://mirror.test/f", to: "http://[::ffff:127.0.0.1]/end", refused: true},
		{name: "to link-local, where clouds keep secrets", start: "http://mirror.test/f", to: "http://169.254.169.254/end", refused: true},
		{name: "to the unspecified address", start: "http://mirror.test/f", to: "http://0.0.0.0/end", refused: true},
		{name: "to IPv6 unique local", start: "http://mirror.test/f", to: "http://[fd00::1]/end", refused: true},
		{name: "to carrier NAT", start: "http://mirror.test/f", to: "http://100.64.1.1/end", refused: true},
		{name: "to a name of two faces", start: "http://mirror.test/f", to: "http://both.test/end", refused: true},
		{name: "to a name that changes its mind", start: "http://mirror.test/f", to: "http://rebind.test/end", refused: true},
		{name: "to a port of the same private host", start: "http://inside.test/f", to: "http://inside.test:8080/end"},
		{name: "from a private host to this machine", start: "http://inside.test/f", to: "http://127.0.0.1:8080/end", refused: true},
		{name: "from a private host to a link-local address", start: "http://inside.test/f", to: "http://169.254.169.254/end", refused: true},
		{name: "behind a proxy to a number", start: "http://mirror.test/f", to: "http://2852039166/end", proxy: true, refused: true},
		{name: "behind a proxy to an address in hexadecimal", start: "http://mirror.test/f", to: "http://0xa9fea9fe/end", proxy: true, refused: true},
		{name: "from a private host to another", start: "http://inside.test/f", to: "http://10.0.0.1/end"},
		{name: "from a private host to a public one", start: "http://inside.test/f", to: "http://other.test/end"},
		{name: "to ftp", start: "http://mirror.test/f", to: "ftp://other.test/end", refused: true},
		{name: "to a file", start: "http://mirror.test/f", to: "file:///etc/passwd", refused: true},
		{name: "to no host", start: "http://mirror.test/f", to: "http:///end", refused: true},
		{name: "behind a proxy to a private address", start: "http://mirror.test/f", to: "http://10.0.0.1/end", proxy: true, refused: true},
		{name: "behind a proxy to localhost", start: "http://mirror.test/f", to: "http://localhost/end", proxy: true, refused: true},
		{name: "behind a proxy to a name", start: "http://mirror.test/f", to: "http://other.test/end", proxy: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/end") {
					fmt.Fprint(w, "content")
					return
				}
				w.Header().Set("Location", tc.to)
				w.WriteHeader(http.StatusFound)
			}))
			defer s.Close()
			n := &internet{
				server: s.Listener.Addr(), asked: map[string]int{},
				names: map[string][]string{
					"mirror.test": {public}, "other.test": {other}, "inside.test": {private},
					"both.test": {other, private}, "rebind.test": {other}, "proxy.test": {private},
				},
				later: map[string][]string{"rebind.test": {private}},
			}
			o := quick()
			o.lookup, o.dial = n.lookup, n.dial
			o.Proxy = func(*url.URL) (*url.URL, error) {
				if tc.proxy {
					return url.Parse("http://proxy.test:3128")
				}
				return nil, nil
			}
			f := newFetcher(nil, o)
			got, err := f.small(context.Background(), tc.start, 100, "", "")
			if tc.refused {
				require.ErrorIs(t, err, errRedirect)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "content", string(got.data))
		})
	}
}

func TestRedirectFromHTTPSToHTTP(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "content") }))
	defer plain.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/end" {
			fmt.Fprint(w, "content")
			return
		}
		to := "/end"
		if r.URL.Path == "/down" {
			to = plain.URL
		}
		http.Redirect(w, r, to, http.StatusMovedPermanently)
	}))
	defer s.Close()
	f := newFetcher(nil, quick())
	f.client.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	_, err := f.small(context.Background(), s.URL+"/down", 100, "", "")
	require.ErrorIs(t, err, errRedirect)
	got, err := f.small(context.Background(), s.URL+"/", 100, "", "")
	require.NoError(t, err)
	require.Equal(t, "content", string(got.data))
	// and a certificate that nobody vouches for is no https
	_, err = newFetcher(nil, quick()).small(context.Background(), s.URL+"/", 100, "", "")
	require.Error(t, err)
}

func TestHopsAreCounted(t *testing.T) {
	t.Parallel()
	var n atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, fmt.Sprintf("/%d", n.Add(1)), http.StatusFound)
	}))
	defer s.Close()
	_, err := newFetcher(nil, quick()).small(context.Background(), s.URL, 100, "", "")
	require.ErrorIs(t, err, errRedirect)
	require.EqualValues(t, 6, n.Load())
}

// download fetches one file from a handler into a new cache, which prepare may
// spoil before.
func download(t *testing.T, data []byte, h http.HandlerFunc, prepare func(part string)) (Blob, error) {
	t.Helper()
	s := httptest.NewServer(h)
	defer s.Close()
	defer s.CloseClientConnections()
	c, err := OpenCache(t.TempDir())
	require.NoError(t, err)
	w := want{name: "a file", urls: []string{s.URL + "/f"}, sha: sum(data), size: int64(len(data))}
	part := filepath.Join(c.dir, "partial", w.sha)
	if prepare != nil {
		prepare(part)
	}
	blob, err := newFetcher(c, quick()).file(context.Background(), w, nil)
	if err == nil {
		f, err := blob.Open()
		require.NoError(t, err)
		require.NoError(t, f.Close())
		left, err := os.ReadDir(filepath.Join(c.dir, "partial"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	return blob, err
}

func TestResume(t *testing.T) {
	t.Parallel()
	data := make([]byte, 300<<10)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	content := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
	part := func(p []byte) func(string) {
		return func(path string) { _ = os.WriteFile(path, p, 0o600) }
	}
	t.Run("the rest is asked for", func(t *testing.T) {
		t.Parallel()
		var ranges atomic.Int32
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "bytes=100000-" {
				ranges.Add(1)
			}
			content(w, r)
		}, part(data[:100000]))
		require.NoError(t, err)
		require.EqualValues(t, 1, ranges.Load())
	})
	t.Run("over changed bytes", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, content, part(make([]byte, 100000)))
		require.NoError(t, err)
	})
	t.Run("same size, other bytes", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, content, part(make([]byte, len(data))))
		require.NoError(t, err)
	})
	t.Run("longer than the file", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, content, part(make([]byte, len(data)+1)))
		require.NoError(t, err)
	})
	t.Run("a link in its place", func(t *testing.T) {
		t.Parallel()
		victim := filepath.Join(t.TempDir(), "victim")
		require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o600))
		_, err := download(t, data, content, func(p string) { _ = os.Symlink(victim, p) })
		require.NoError(t, err)
		require.Equal(t, "mine", readText(t, victim))
	})
	t.Run("a hard link in its place", func(t *testing.T) {
		t.Parallel()
		var victim string
		_, err := download(t, data, content, func(p string) {
			victim = filepath.Join(filepath.Dir(filepath.Dir(p)), "victim")
			_ = os.WriteFile(victim, []byte("mine"), 0o600)
			_ = os.Link(victim, p)
		})
		require.NoError(t, err)
		require.Equal(t, "mine", readText(t, victim))
	})
	t.Run("a FIFO in its place", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, content, func(p string) { _ = unix.Mkfifo(p, 0o600) })
		require.NoError(t, err)
	})
	t.Run("the server knows no ranges", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.Header().Set("Accept-Ranges", "bytes")
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data)
		}, part(data[:1000]))
		require.NoError(t, err)
	})
	t.Run("the server sends another range", func(t *testing.T) {
		t.Parallel()
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", len(data)-1, len(data)))
				w.Header().Set("Content-Length", fmt.Sprint(len(data)-1000))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[:len(data)-1000])
				return
			}
			content(w, r)
		}, part(data[:1000]))
		require.NoError(t, err)
	})
	t.Run("connections that break", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int32
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && n.Add(1) < 3 {
				var from int
				_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				if from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(data)-from))
				if from > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				_, _ = w.Write(data[from : from+100000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			content(w, r)
		}, nil)
		require.NoError(t, err)
		require.EqualValues(t, 3, n.Load())
	})
	t.Run("a passing error", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int32
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			content(w, r)
		}, nil)
		require.NoError(t, err)
	})
	t.Run("a proxy's damaged copy, once", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int32
		_, err := download(t, data, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				_, _ = w.Write(make([]byte, len(data)))
				return
			}
			content(w, r)
		}, nil)
		require.NoError(t, err)
	})
	t.Run("nothing is asked for twice that is not there", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int32
		_, err := download(t, data, func(w http.ResponseWriter, _ *http.Request) {
			n.Add(1)
			w.WriteHeader(http.StatusNotFound)
		}, nil)
		require.ErrorIs(t, err, ErrUnreachable)
		require.EqualValues(t, 1, n.Load())
	})
}

func TestOneDownloadForManyRuns(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("0123456789"), 50000)
	var gets atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gets.Add(1)
		time.Sleep(50 * time.Millisecond)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer s.Close()
	dir := t.TempDir()
	w := want{name: "a file", urls: []string{s.URL}, sha: sum(data), size: int64(len(data))}
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() {
			c, err := OpenCache(dir)
			if err == nil {
				_, err = newFetcher(c, quick()).file(context.Background(), w, nil)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	require.EqualValues(t, 1, gets.Load())
}

func TestCancelledDownload(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(hang))
	defer s.Close()
	defer s.CloseClientConnections()
	c, err := OpenCache(t.TempDir())
	require.NoError(t, err)
	o := quick()
	o.Header = time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = newFetcher(c, o).file(ctx, want{name: "f", urls: []string{s.URL}, sha: sum([]byte("x")), size: 1}, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 5*time.Second)
}

// TestDefaultsGiveUpInTime runs the worst mirrors against the bounds that users
// have: none may cost more than 10 s.
func TestDefaultsGiveUpInTime(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 8 s")
	}
	t.Parallel()
	data := make([]byte, 1<<20)
	for name, h := range map[string]http.HandlerFunc{
		"no answer":       hang,
		"a byte a second": drip(data),
		"stall": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:1000])
			w.(http.Flusher).Flush()
			hang(w, r)
		},
		"a little further each time": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.Header().Set("Accept-Ranges", "bytes")
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				return
			}
			http.ServeContent(&shortWriter{w, r, 20000}, r, "", time.Time{}, bytes.NewReader(data))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(h)
			defer s.Close()
			defer s.CloseClientConnections()
			c, err := OpenCache(t.TempDir())
			require.NoError(t, err)
			start := time.Now()
			_, err = newFetcher(c, HTTPOptions{}).file(context.Background(), want{name: "f", urls: []string{s.URL}, sha: sum(data), size: int64(len(data))}, nil)
			require.ErrorIs(t, err, ErrUnreachable)
			require.Less(t, time.Since(start), 10*time.Second)
		})
	}
}

// shortWriter stalls after some bytes.
type shortWriter struct {
	http.ResponseWriter
	r    *http.Request
	left int
}

func (s *shortWriter) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	s.left -= n
	if s.left == 0 {
		s.ResponseWriter.(http.Flusher).Flush()
		hang(s, s.r)
		return n, errors.New("enough")
	}
	return n, err
}
