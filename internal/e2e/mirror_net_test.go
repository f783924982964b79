//go:build faultpoints

package e2e

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/stretchr/testify/require"
)

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusFound)
	}
}

// hang keeps a client waiting until it leaves.
func hang(_ http.ResponseWriter, q *http.Request) {
	if q.Method == http.MethodHead {
		return // its connection is used again, and one would not see it leave
	}
	select {
	case <-q.Context().Done():
	case <-time.After(30 * time.Second):
	}
}

func endless(w http.ResponseWriter, q *http.Request) {
	for block := make([]byte, 64<<10); q.Context().Err() == nil; {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// drip sends a file byte by byte.
func drip(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if q.Method == http.MethodHead {
			return
		}
		for i := range data {
			if _, err := w.Write(data[i : i+1]); err != nil || q.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// rawAnswer answers with bytes as they are.
func rawAnswer(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, b, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = b.WriteString(answer)
		_ = b.Flush()
	}
}

// networkFouls: how it comes.
func networkFouls(s *shop) []foul {
	index := func(h http.HandlerFunc) func(*mirror) {
		return func(m *mirror) { m.hooks[m.inRelease()] = h }
	}
	packages := func(make func(m *mirror) http.HandlerFunc) func(*mirror) {
		return func(m *mirror) { m.after = func() { m.hooks[m.indexPath()+".xz"] = make(m) } }
	}
	deb := func(make func(data []byte) http.HandlerFunc) func(*mirror) {
		return func(m *mirror) { m.hooks[s.nginx] = make(s.debs[s.nginx]) }
	}
	all := func(h http.HandlerFunc) func(*mirror) {
		return func(m *mirror) { m.every = func(http.Handler) http.Handler { return h } }
	}
	https := func(h http.Handler) *httptest.Server { return httptest.NewTLSServer(h) }
	// trusting makes the client trust the mirror's certificate.
	trusting := func(set func(*mirror)) func(*mirror) {
		return func(m *mirror) {
			file := filepath.Join(s.dir, fmt.Sprintf("ca-%p.pem", m))
			require.NoError(m.t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.srv.Certificate().Raw}), 0o644))
			m.env = append(m.env, "SSL_CERT_FILE="+file, "SSL_CERT_DIR="+s.dir+"/none")
			m.aptConf = append(m.aptConf, "-o", "Acquire::https::CAInfo="+file)
			set(m)
		}
	}
	// proxied lets the mirror be the proxy through which a public host is asked.
	proxied := func(set func(*mirror)) func(*mirror) {
		return func(m *mirror) {
			m.env = append(m.env, "http_proxy="+m.url)
			m.url = "http://deb.example.org/debian"
			m.every = func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					if q.URL.Host != "" && q.URL.Host != "deb.example.org" {
						m.t.Errorf("a request went to %s", q.URL.Host)
					}
					q.URL.Path = strings.TrimPrefix(q.URL.Path, "/debian")
					next.ServeHTTP(w, q)
				})
			}
			set(m)
		}
	}
	html := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<!doctype html><title>\x1b[31mwelcome</title><form>please log in</form>")
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	return []foul{
		{name: "captive portal", set: all(html), says: "not a signed message|control"},
		{name: "captive portal that redirects", set: all(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/login" {
				html(w, q)
				return
			}
			http.Redirect(w, q, "/login?from="+url.QueryEscape(q.URL.Path), http.StatusFound)
		}), says: "not a signed message|control"},
		{name: "captive portal for packages only", warm: true, set: deb(func([]byte) http.HandlerFunc { return html })},
		{name: "404 for everything", set: all(http.NotFound), says: "404"},
		{name: "401 for everything", set: all(status(401)), says: "401"},
		{name: "429 for everything", set: all(status(429)), says: "429", slow: true, noApt: true},
		{name: "500 for everything", set: all(status(500)), says: "500"},
		{name: "502 for the index", set: index(status(502)), says: "502"},
		{name: "an unknown status", set: all(status(799)), says: "799"},
		{name: "206 that nobody asked for", set: func(m *mirror) {
			m.after = func() {
				in := m.files[m.inRelease()]
				m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(in)-1, len(in)))
					w.WriteHeader(http.StatusPartialContent)
					_, _ = w.Write(in)
				}
			}
		}, noApt: true},

		{name: "redirect to itself", set: index(func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, q.URL.Path, 302) }), says: "redirect"},
		{name: "redirects without end", set: func(m *mirror) {
			n := 0
			m.every = func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					n++
					http.Redirect(w, q, fmt.Sprintf("/%d", n), 302)
				})
			}
		}, says: "redirect"},
		{name: "redirect to a file", set: index(redirect("file:///etc/passwd")), says: "redirect"},
		{name: "redirect to ftp", set: index(redirect("ftp://127.0.0.1/x")), says: "redirect"},
		{name: "redirect to gopher", set: index(redirect("gopher://127.0.0.1:6379/_FLUSHALL")), says: "redirect"},
		{name: "redirect to data", set: index(redirect("data:text/plain,Suite:%20evil")), says: "redirect"},
		{name: "redirect to no host", set: index(redirect("http:///x"))},
		{name: "redirect to rubbish", set: index(redirect("http://[::1]:namedport/%zz\x1b[31m"))},
		{name: "redirect without a target", set: index(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(302) })},
		{name: "redirect of a package to a file", warm: true, noApt: true, set: deb(func([]byte) http.HandlerFunc { return redirect("file:///etc/passwd") }), says: "redirect"},
		{name: "redirect to the link-local metadata address", noApt: true, set: index(redirect("http://169.254.169.254/latest/meta-data/")), says: "redirect"},
		{name: "redirect to a link-local address of IPv6", noApt: true, set: index(redirect("http://[fe80::1]/")), says: "redirect"},
		{name: "redirect to the metadata address in IPv6's clothes", noApt: true, set: index(redirect("http://[::ffff:169.254.169.254]/")), says: "redirect"},
		{name: "redirect to this machine's zero address", noApt: true, set: index(redirect("http://0.0.0.0:1/")), says: "redirect|refused"},
		{name: "nothing wrong, by a proxy", noApt: true, set: proxied(func(*mirror) {}), exit: fine},
		{name: "by a proxy: redirect to the metadata address", noApt: true, set: proxied(index(redirect("http://169.254.169.254/latest/meta-data/"))), says: "redirect"},
		{name: "by a proxy: redirect to this machine", noApt: true, set: proxied(index(redirect("http://127.0.0.1:22/"))), says: "redirect"},
		{name: "by a proxy: redirect to localhost", noApt: true, set: proxied(index(redirect("http://localhost/"))), says: "redirect"},
		{name: "by a proxy: redirect to a private network", noApt: true, set: proxied(index(redirect("http://10.0.0.1/"))), says: "redirect"},
		{name: "by a proxy: redirect to a private network of IPv6", noApt: true, set: proxied(index(redirect("http://[fd00::1]/"))), says: "redirect"},
		{name: "by a proxy: redirect to an address written as a number", noApt: true, set: proxied(index(redirect("http://2852039166/"))), says: "redirect"},
		{name: "by a proxy: redirect to an address in hexadecimal", noApt: true, set: proxied(index(redirect("http://0xa9fea9fe/"))), says: "redirect"},
		{name: "by a proxy: redirect to an address with one part", noApt: true, set: proxied(index(redirect("http://127.1/"))), says: "redirect"},

		{name: "certificate of nobody", listen: https, says: "certificate"},
		{name: "nothing wrong, https", listen: https, set: trusting(func(*mirror) {}), exit: fine},
		{name: "https to http", listen: https, set: trusting(func(m *mirror) {
			plain := httptest.NewServer(m)
			m.t.Cleanup(plain.Close)
			m.hooks[m.inRelease()] = redirect(plain.URL + "/moved")
		}), says: "https to http"},
		{name: "https to http for a package", listen: https, warm: true, noApt: true, set: trusting(func(m *mirror) {
			plain := httptest.NewServer(m)
			m.t.Cleanup(plain.Close)
			m.hooks[s.nginx] = redirect(plain.URL + "/moved")
		}), says: "https to http"},
		{name: "certificate of another host", listen: https, set: trusting(func(m *mirror) {
			m.url = strings.Replace(m.url, "127.0.0.1", "localhost", 1)
		}), says: "certificate"},
		{name: "https that speaks http", set: func(m *mirror) { m.url = strings.Replace(m.url, "http:", "https:", 1) }},

		{name: "stall before the header", slow: true, set: index(hang)},
		{name: "stall before the header of the Packages file", slow: true, noApt: true, set: packages(func(*mirror) http.HandlerFunc { return hang })},
		{name: "stall before the header of a package", slow: true, warm: true, noApt: true, set: deb(func([]byte) http.HandlerFunc { return hang })},
		{name: "stall behind the header", slow: true, set: index(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			hang(w, q)
		})},
		{name: "stall in the middle", slow: true, warm: true, noApt: true, set: deb(func(data []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				_, _ = w.Write(data[:1000])
				w.(http.Flusher).Flush()
				hang(w, q)
			}
		}), says: "slowly"},
		{name: "a byte now and then: index", slow: true, noApt: true, set: func(m *mirror) {
			m.after = func() { m.hooks[m.inRelease()] = drip(m.files[m.inRelease()]) }
		}, says: "slowly"},
		{name: "a byte now and then: Packages file", slow: true, noApt: true, set: packages(func(m *mirror) http.HandlerFunc { return drip(m.files[m.indexPath()+".xz"]) }), says: "slowly"},
		{name: "a byte now and then: package", slow: true, warm: true, noApt: true, set: deb(drip), says: "slowly"},
		{name: "a byte of the header now and then", slow: true, noApt: true, set: index(func(w http.ResponseWriter, q *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			for _, b := range []byte("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX: " + strings.Repeat("y", 2000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})},
		{name: "stall before the header, stated limits", noApt: true, set: index(hang)},
		{name: "a byte now and then, stated limits", warm: true, noApt: true, set: deb(drip), says: "slowly"},
		{name: "redirects that each stall, stated limits", noApt: true, set: func(m *mirror) {
			n := 0
			m.every = func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					n++
					time.Sleep(2500 * time.Millisecond)
					http.Redirect(w, q, fmt.Sprintf("/%d", n), 302)
				})
			}
		}},
		{name: "every answer breaks off, stated limits", warm: true, noApt: true, set: deb(func(data []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				if q.Method == http.MethodGet {
					_, _ = w.Write(data[:1000])
				}
			}
		})},
		{name: "no answer to a connection", slow: true, noApt: true, set: func(m *mirror) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(m.t, err)
			m.t.Cleanup(func() { l.Close() })
			m.url = "http://" + l.Addr().String() // nobody accepts
		}},
		{name: "nobody listens", set: func(m *mirror) { m.url = "http://127.0.0.1:1" }},
		{name: "a host that there is not", noApt: true, slow: true, set: func(m *mirror) { m.url = "http://nowhere.invalid/" }},

		{name: "endless index", noApt: true, set: index(endless), says: "longer than"},
		{name: "endless Packages file", noApt: true, set: packages(func(*mirror) http.HandlerFunc { return endless }), says: "bytes"},
		{name: "endless package", warm: true, noApt: true, set: deb(func([]byte) http.HandlerFunc { return endless }), says: "bytes"},
		{name: "endless error page", noApt: true, set: index(func(w http.ResponseWriter, q *http.Request) { w.WriteHeader(404); endless(w, q) }), says: "404"},
		{name: "endless header", noApt: true, set: index(func(w http.ResponseWriter, _ *http.Request) {
			c, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			b := bufio.NewWriter(c)
			_, _ = b.WriteString("HTTP/1.1 200 OK\r\n")
			for i := range 2_000_000 {
				if _, err := fmt.Fprintf(b, "X-%d: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", i); err != nil {
					return
				}
			}
		})},
		{name: "header flood", noApt: true, set: index(func(w http.ResponseWriter, _ *http.Request) {
			for i := range 4000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("y", 200))
			}
		})},
		{name: "a header line without end", noApt: true, set: index(rawAnswer("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 4<<20)))},
		{name: "a flood of early answers", noApt: true, set: index(rawAnswer(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000)))},
		{name: "no HTTP at all", set: all(rawAnswer("SSH-2.0-OpenSSH_9.2\x1b[31m\r\n"))},
		{name: "a status line with escapes", set: all(rawAnswer("HTTP/1.1 500 \x1b]0;evil\x07\u009b31m\r\n\r\n"))},
		{name: "HTTP 0.9", set: all(rawAnswer("Suite: test\n"))},
		{name: "the connection closed at once", set: all(rawAnswer(""))},
		{name: "two lengths", set: func(m *mirror) {
			m.after = func() {
				in := string(m.files[m.inRelease()])
				m.hooks[m.inRelease()] = rawAnswer(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Length: %d\r\n\r\n%s", len(in), in))
			}
		}, noApt: true},
		{name: "a length below zero", set: index(rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nSuite")), noApt: true},
		{name: "a length of a terabyte", noApt: true, set: packages(func(*mirror) http.HandlerFunc {
			return rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\nSuite")
		}), says: "bytes"},
		{name: "a length that is too short", noApt: true, set: func(m *mirror) {
			m.after = func() {
				in := string(m.files[m.inRelease()])
				m.hooks[m.inRelease()] = rawAnswer(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(in)-100, in))
			}
		}, says: "cut off"},
		{name: "a length that is too long", noApt: true, set: func(m *mirror) {
			m.after = func() {
				in := string(m.files[m.inRelease()])
				m.hooks[m.inRelease()] = rawAnswer(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(in)+100, in))
			}
		}},
		{name: "chunks of rubbish", set: index(rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\x1b[31mrubbish\r\n")), noApt: true},
		{name: "a chunk of exabytes", set: index(rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx")), noApt: true},
		{name: "chunk extensions without end", noApt: true, set: index(rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 4000)))},
		{name: "packed on the way", noApt: true, set: packages(func(m *mirror) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write(m.files[m.indexPath()+".xz"])
				_ = z.Close()
			}
		})},
		{name: "a bomb packed on the way", noApt: true, set: index(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bombOnTheWay())
		}), says: "control|not a signed|longer than"},
	}
}

func bombOnTheWay() []byte { return gzBomb(zeros(256 << 20)) }
