package source

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// bench is what all attacks start from: a good repository with two packages, of
// which one needs the other, and keys of every kind.
type bench struct {
	g    *lab.GnuPG
	good *repo
	pool map[string][]byte
}

func newBench(t *testing.T) *bench {
	lab.Need(t, "gpg", "apt-ftparchive", "dpkg-deb")
	g := lab.NewGnuPG(t)
	never := time.Time{}
	past := time.Now().AddDate(-3, 0, 0)
	g.Key(t, never, "good", "ed25519", "sign,cert", "never")
	g.Key(t, never, "rsa", "rsa2048", "sign,cert", "never")
	g.Key(t, never, "wrong", "ed25519", "sign,cert", "never")
	g.Key(t, never, "weak", "rsa1024", "sign,cert", "never")
	g.Key(t, never, "dsa", "dsa2048", "sign,cert", "never")
	g.Key(t, past, "expired", "ed25519", "sign,cert", "1y")
	g.Key(t, time.Now().AddDate(1, 0, 0), "future", "ed25519", "sign,cert", "never")
	g.Key(t, never, "revoked", "ed25519", "sign,cert", "never")
	pool := map[string][]byte{
		"pool/main/h/hello/hello_1.0-1_amd64.deb":     deb(t, "hello", "1.0-1", "amd64", "Depends: libhello (>= 1.0)\n"),
		"pool/main/h/hello/libhello_1.0-1+b1_all.deb": deb(t, "libhello", "1.0-1+b1", "all", ""),
		"pool/main/o/other/other_2.0-1_amd64.deb":     deb(t, "other", "2.0-1", "amd64", ""),
		"pool/main/h/hello/hello_0.9-1_amd64.deb":     deb(t, "hello", "0.9-1", "amd64", "Depends: libhello\n"),
		"pool/main/h/hello/hello_1.0-1_riscv64.deb":   deb(t, "hello", "1.0-1", "riscv64", ""),
	}
	b := &bench{g: g, pool: pool, good: newRepo(t, g, "test", "testing-codename", pool)}
	b.good.sign(t, "good")
	return b
}

// revoke makes the key "revoked" what it is called, and returns the keyring
// that knows it.
func (b *bench) revoke(t *testing.T) []byte {
	t.Helper()
	b.g.Run(t, time.Time{}, b.g.Revocation(t, b.g.Fingerprints(t, "revoked")[0]), "--import")
	return b.g.Export(t, "revoked")
}

const hello = "pool/main/h/hello/hello_1.0-1_amd64.deb"

// attack is one way in which a mirror may lie or misbehave.
type attack struct {
	name  string
	setup func(t *testing.T, b *bench, r *repo) // of what the mirror serves
	keys  []string                              // of the client's keyring; default good
	kind  error                                 // what must come of it
	says  string                                // in the message
}

func TestAttacks(t *testing.T) {
	b := newBench(t)
	revokedRing := ""
	{
		b.good.clone().sign(t, "revoked") // while it can
		early := b.good.clone()
		early.sign(t, "revoked")
		b.good.files["revoked-inrelease"] = early.files[early.inRelease()]
		ring := b.revoke(t)
		revokedRing = filepath.Join(t.TempDir(), "revoked.gpg")
		require.NoError(t, os.WriteFile(revokedRing, ring, 0o644))
	}
	inRelease := func(change func([]byte) []byte) func(*testing.T, *bench, *repo) {
		return func(_ *testing.T, _ *bench, r *repo) {
			r.files[r.inRelease()] = change(bytes.Clone(r.files[r.inRelease()]))
		}
	}
	fields := func(key string, f map[string]string) func(*testing.T, *bench, *repo) {
		return func(t *testing.T, _ *bench, r *repo) {
			r.release(t, "test", "testing-codename", f)
			r.sign(t, key)
		}
	}
	packages := func(change func(string) string) func(*testing.T, *bench, *repo) {
		return func(t *testing.T, _ *bench, r *repo) {
			r.setPackages(t, []byte(change(string(r.files[r.indexPath()]))))
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}
	}
	hookAll := func(suffix string, h func(r *repo) http.HandlerFunc) func(*testing.T, *bench, *repo) {
		return func(_ *testing.T, _ *bench, r *repo) {
			for name := range r.files {
				if strings.HasSuffix(name, suffix) {
					r.hooks[name] = h(r)
				}
			}
		}
	}
	replace := func(name string, change func([]byte) []byte) func(*testing.T, *bench, *repo) {
		return func(_ *testing.T, _ *bench, r *repo) { r.files[name] = change(bytes.Clone(r.files[name])) }
	}
	index := func(ext string, change func([]byte) []byte) func(*testing.T, *bench, *repo) {
		return func(_ *testing.T, _ *bench, r *repo) {
			r.files[r.indexPath()+ext] = change(bytes.Clone(r.files[r.indexPath()+ext]))
		}
	}
	flip := func(d []byte) []byte { d[len(d)/2] ^= 1; return d }
	cut := func(d []byte) []byte { return d[:len(d)/2] }
	longer := func(d []byte) []byte { return append(d, "more"...) }
	date := func(at time.Time) map[string]string {
		return map[string]string{"Date": at.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC")}
	}

	attacks := []attack{
		// who signed
		{name: "wrong key", setup: fields("wrong", nil), kind: ErrSignature, says: "no key of this source"},
		{name: "expired key", setup: func(t *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.g.Run(t, time.Now().AddDate(-3, 0, 1), r.files["dists/test/Release"], "--local-user", "expired@test", "--clearsign")
		}, keys: []string{"expired"}, kind: ErrSignature, says: "expired"},
		{name: "key from the future", setup: func(t *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.g.Run(t, time.Now().AddDate(2, 0, 0), r.files["dists/test/Release"], "--local-user", "future@test", "--clearsign")
		}, keys: []string{"future"}, kind: ErrSignature, says: "future"},
		{name: "revoked key", setup: func(_ *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.good.files["revoked-inrelease"]
		}, keys: []string{"revoked"}, kind: ErrSignature, says: "revoked"},
		{name: "RSA key of 1024 bits", setup: fields("weak", nil), keys: []string{"weak"}, kind: ErrSignature},
		{name: "DSA key", setup: fields("dsa", nil), keys: []string{"dsa"}, kind: ErrSignature},
		{name: "SHA-1", setup: func(t *testing.T, _ *bench, r *repo) { r.sign(t, "rsa", "--digest-algo", "SHA1") }, keys: []string{"rsa"}, kind: ErrSignature, says: "SHA-1"},
		{name: "signature from the future", setup: func(t *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.g.Run(t, time.Now().AddDate(0, 0, 2), r.files["dists/test/Release"], "--local-user", "good@test", "--clearsign")
		}, kind: ErrSignature, says: "future"},
		{name: "expired signature", setup: func(t *testing.T, b *bench, r *repo) {
			r.sign(t, "good", "--default-sig-expire", "seconds=1")
			time.Sleep(2100 * time.Millisecond) // the unit of the format is a second
		}, kind: ErrSignature, says: "expired"},
		{name: "critical notation", setup: func(t *testing.T, _ *bench, r *repo) { r.sign(t, "good", "--sig-notation", "!x@test=1") }, kind: ErrSignature, says: "notation"},

		// what was signed
		{name: "signature stripped", setup: func(_ *testing.T, _ *bench, r *repo) { r.files[r.inRelease()] = r.files["dists/test/Release"] }, kind: ErrSignature},
		{name: "empty file", setup: inRelease(func([]byte) []byte { return nil }), kind: ErrSignature},
		{name: "signature block empty", setup: inRelease(func(d []byte) []byte {
			i := bytes.Index(d, []byte(beginSignature))
			return append(d[:i:i], beginSignature+"\n\n"+endSignature+"\n"...)
		}), kind: ErrSignature},
		{name: "detached signature in its place", setup: func(t *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.g.Run(t, time.Time{}, r.files["dists/test/Release"], "--local-user", "good@test", "--armor", "--detach-sign")
		}, kind: ErrSignature},
		{name: "signed but not clearsigned", setup: func(t *testing.T, b *bench, r *repo) {
			r.files[r.inRelease()] = b.g.Run(t, time.Time{}, r.files["dists/test/Release"], "--local-user", "good@test", "--armor", "--sign")
		}, kind: ErrSignature},
		{name: "text changed", setup: inRelease(func(d []byte) []byte {
			return bytes.Replace(d, []byte("Codename: testing-codename"), []byte("Codename: testing-codenamf"), 1)
		}), kind: ErrSignature, says: "wrong"},
		{name: "junk before", setup: inRelease(func(d []byte) []byte { return append([]byte("Suite: evil\n\n"), d...) }), kind: ErrSignature},
		{name: "blank line before", setup: inRelease(func(d []byte) []byte { return append([]byte("\n"), d...) }), kind: ErrSignature},
		{name: "junk after", setup: inRelease(func(d []byte) []byte { return append(d, "Suite: evil\n"...) }), kind: ErrSignature, says: "follows"},
		{name: "blank line after", setup: inRelease(func(d []byte) []byte { return append(d, '\n') }), kind: ErrSignature, says: "follows"},
		{name: "two messages", setup: inRelease(func(d []byte) []byte { return append(bytes.Clone(d), d...) }), kind: ErrSignature},
		{name: "message in a message", setup: inRelease(func(d []byte) []byte { return append([]byte(beginMessage+"\nHash: SHA256\n\nSuite: evil\n"), d...) }), kind: ErrSignature},
		{name: "header other than Hash", setup: inRelease(func(d []byte) []byte { return bytes.Replace(d, []byte("\nHash:"), []byte("\nSuite: evil\nHash:"), 1) }), kind: ErrSignature},
		{name: "two Hash headers with blanks", setup: inRelease(func(d []byte) []byte {
			return bytes.Replace(d, []byte("\nHash:"), []byte("\nHash: SHA512 \t\nHash:"), 1)
		}), kind: nil},
		{name: "line not escaped", setup: inRelease(func(d []byte) []byte { return bytes.Replace(d, []byte("\n\n"), []byte("\n\n-evil: 1\n"), 1) }), kind: ErrSignature},
		{name: "escaped line added", setup: inRelease(func(d []byte) []byte { return bytes.Replace(d, []byte("\n\n"), []byte("\n\n- Suite: evil\n"), 1) }), kind: ErrSignature},
		{name: "carriage returns", setup: inRelease(func(d []byte) []byte { return bytes.ReplaceAll(d, []byte("\n"), []byte("\r\n")) }), kind: ErrSignature},
		{name: "NUL byte", setup: inRelease(func(d []byte) []byte { return bytes.Replace(d, []byte("Codename"), []byte("\x00odename"), 1) }), kind: ErrSignature},
		{name: "cut in the text", setup: inRelease(cut), kind: ErrSignature},
		{name: "cut in the signature", setup: inRelease(func(d []byte) []byte { return d[:len(d)-60] }), kind: ErrSignature},
		{name: "blanks at line ends", setup: inRelease(func(d []byte) []byte {
			return bytes.Replace(d, []byte("Codename: testing-codename\n"), []byte("Codename: testing-codename \t\n"), 1)
		}), kind: nil},
		{name: "captive portal", setup: func(_ *testing.T, _ *bench, r *repo) {
			r.any = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>please log in</html>") }
		}, kind: ErrSignature},

		// is it the index that was asked for
		{name: "another suite", setup: func(t *testing.T, _ *bench, r *repo) {
			r.release(t, "oldtest", "old-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease, says: "another suite"},
		{name: "no suite", setup: fields("good", map[string]string{"Suite": "-", "Codename": "-"}), kind: ErrRelease},
		{name: "no date", setup: fields("good", map[string]string{"Date": "-"}), kind: ErrRelease, says: "Date"},
		{name: "unreadable date", setup: fields("good", map[string]string{"Date": "yesterday"}), kind: ErrRelease},
		{name: "date in a zone by name", setup: fields("good", map[string]string{"Date": "Mon, 23 Nov 2020 10:00:00 EST"}), kind: ErrRelease},
		{name: "date in the future", setup: fields("good", date(time.Now().AddDate(0, 0, 2))), kind: ErrExpired, says: "future"},
		{name: "Valid-Until passed", setup: fields("good", map[string]string{"Valid-Until": "Mon, 23 Nov 2020 10:00:00 UTC"}), kind: ErrExpired, says: "valid until"},
		{name: "unreadable Valid-Until", setup: fields("good", map[string]string{"Valid-Until": "never"}), kind: ErrRelease},
		{name: "two stanzas", setup: func(t *testing.T, _ *bench, r *repo) {
			rel := r.files["dists/test/Release"]
			r.files["dists/test/Release"] = append(bytes.Clone(rel), append([]byte("\n"), rel...)...)
			r.sign(t, "good")
		}, kind: ErrRelease},
		{name: "a field twice", setup: func(t *testing.T, _ *bench, r *repo) {
			r.files["dists/test/Release"] = append([]byte("Suite: evil\n"), r.files["dists/test/Release"]...)
			r.sign(t, "good")
		}, kind: ErrRelease},
		{name: "a file twice", setup: func(t *testing.T, _ *bench, r *repo) {
			rel := r.files["dists/test/Release"]
			r.files["dists/test/Release"] = bytes.Replace(rel, []byte("\nSHA256:\n"), []byte("\nSHA256:\n "+strings.Repeat("0", 64)+" 12 main/binary-amd64/Packages.xz\n"), 1)
			r.sign(t, "good")
		}, kind: ErrRelease, says: "twice"},
		{name: "impossible size", setup: func(t *testing.T, _ *bench, r *repo) {
			rel := r.files["dists/test/Release"]
			r.files["dists/test/Release"] = bytes.Replace(rel, []byte("\nSHA256:\n"), []byte("\nSHA256:\n "+strings.Repeat("0", 64)+" 99999999999999 main/binary-amd64/Packages.zst\n"), 1)
			r.sign(t, "good")
		}, kind: ErrRelease, says: "size"},

		// files by hash
		{name: "index changed", setup: index(".xz", flip), kind: ErrHash},
		{name: "index cut off", setup: index(".xz", cut), kind: ErrHash},
		{name: "index longer", setup: index(".xz", longer), kind: ErrHash},
		{name: "index empty", setup: index(".xz", func([]byte) []byte { return nil }), kind: ErrHash},
		{name: "index missing", setup: func(_ *testing.T, _ *bench, r *repo) { delete(r.files, r.indexPath()+".xz") }, kind: ErrUnreachable},
		{name: "index is not what its plain text was signed as", setup: func(t *testing.T, _ *bench, r *repo) {
			plain := r.files[r.indexPath()]
			r.setPackages(t, bytes.Replace(plain, []byte("1.0-1"), []byte("1.0-2"), 1))
			r.files[r.indexPath()] = plain
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrHash, says: "unpacked"},
		{name: "index is a bomb", setup: func(t *testing.T, _ *bench, r *repo) {
			var gz bytes.Buffer
			w := gzip.NewWriter(&gz)
			line := []byte(strings.Repeat("A: b\n\n", 1<<16))
			for range 8 {
				_, _ = w.Write(line)
			}
			require.NoError(t, w.Close())
			delete(r.files, r.indexPath()+".xz")
			r.files[r.indexPath()+".gz"] = gz.Bytes()
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease, says: "more than"},
		{name: "index unpacks to more than was signed", setup: func(t *testing.T, _ *bench, r *repo) {
			plain := r.files[r.indexPath()]
			r.setPackages(t, append(bytes.Clone(plain), bytes.Repeat([]byte("\n"), 1<<20)...))
			r.files[r.indexPath()] = plain
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease, says: "more than"},
		{name: "index is one endless line", setup: func(t *testing.T, _ *bench, r *repo) {
			var gz bytes.Buffer
			w := gzip.NewWriter(&gz)
			_, _ = io.CopyN(w, zeros('x'), 64<<20)
			require.NoError(t, w.Close())
			r.files[r.indexPath()] = bytes.Repeat([]byte{'x'}, 64<<20)
			delete(r.files, r.indexPath()+".xz")
			r.files[r.indexPath()+".gz"] = gz.Bytes()
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease},
		{name: "index wants a dictionary of 1 GiB", setup: func(t *testing.T, _ *bench, r *repo) {
			x := bytes.Clone(r.files[r.indexPath()+".xz"])
			require.EqualValues(t, 0x21, x[14], "LZMA2")
			x[16] = 36 // 1 GiB, by the xz file format, 5.3.1
			end := 12 + (int(x[12])+1)*4
			binary.LittleEndian.PutUint32(x[end-4:], crc32.ChecksumIEEE(x[12:end-4]))
			r.files[r.indexPath()+".xz"] = x
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease},
		{name: "index is of another format than its name says", setup: func(t *testing.T, _ *bench, r *repo) {
			r.files[r.indexPath()+".xz"] = r.files[r.indexPath()+".gz"]
			r.release(t, "test", "testing-codename", nil)
			r.sign(t, "good")
		}, kind: ErrRelease},

		{name: "package changed", setup: replace(hello, flip), kind: ErrHash},
		{name: "package cut off", setup: replace(hello, cut), kind: ErrHash},
		{name: "package longer", setup: replace(hello, longer), kind: ErrHash},
		{name: "package missing", setup: func(_ *testing.T, _ *bench, r *repo) { delete(r.files, hello) }, kind: ErrUnreachable, says: "404"},
		{name: "package of another name inside", setup: swapInside("pool/main/o/other/other_2.0-1_amd64.deb"), kind: ErrHash, says: "not the package"},
		{name: "package of another version inside", setup: swapInside("pool/main/h/hello/hello_0.9-1_amd64.deb"), kind: ErrHash, says: "not the package"},
		{name: "package of another architecture inside", setup: swapInside("pool/main/h/hello/hello_1.0-1_riscv64.deb"), kind: ErrHash, says: "not the package"},
		{name: "package is no package", setup: func(t *testing.T, _ *bench, r *repo) {
			r.files[hello] = []byte("!<arch>\nnot really\n")
			relist(t, r, hello, nil)
		}, kind: ErrHash, says: "not the package"},
		{name: "file name with dots", setup: packages(rename("pool/../../../etc/passwd")), kind: ErrUnresolved},
		{name: "file name absolute", setup: packages(rename("/etc/passwd")), kind: ErrUnresolved},
		{name: "file name with escaped dots", setup: packages(rename("pool/%2e%2e/%2E%2e/x.deb")), kind: ErrUnresolved},
		{name: "file name is a URL", setup: packages(rename("http://127.0.0.1/x.deb")), kind: ErrUnresolved},
		{name: "file name with a query", setup: packages(rename("pool/x.deb?y")), kind: ErrUnresolved},
		{name: "no digest in the index", setup: packages(func(s string) string { return strings.ReplaceAll(s, "\nSHA256:", "\nSHA257:") }), kind: ErrUnresolved},
		{name: "another size in the index", setup: packages(func(s string) string { return strings.ReplaceAll(s, "\nSize: ", "\nSize: 1") }), kind: ErrHash},

		// how it comes
		{name: "stall before the header", setup: hookAll("hello_1.0-1_amd64.deb", func(*repo) http.HandlerFunc { return hang }), kind: ErrUnreachable},
		{name: "stall of the index", setup: hookAll("InRelease", func(*repo) http.HandlerFunc { return hang }), kind: ErrUnreachable},
		{name: "stall in the body", setup: hookAll("hello_1.0-1_amd64.deb", func(r *repo) http.HandlerFunc {
			return func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(r.files[hello])))
				_, _ = w.Write(r.files[hello][:10])
				w.(http.Flusher).Flush()
				hang(w, q)
			}
		}), kind: ErrUnreachable, says: "slowly"},
		{name: "a byte now and then", setup: hookAll("hello_1.0-1_amd64.deb", func(r *repo) http.HandlerFunc { return drip(r.files[hello]) }), kind: ErrUnreachable, says: "slowly"},
		{name: "an index byte now and then", setup: hookAll("InRelease", func(r *repo) http.HandlerFunc { return drip(r.files[r.inRelease()]) }), kind: ErrUnreachable, says: "slowly"},
		{name: "endless package", setup: hookAll("hello_1.0-1_amd64.deb", func(*repo) http.HandlerFunc { return endless }), kind: ErrHash},
		{name: "endless Packages file", setup: hookAll("Packages.xz", func(*repo) http.HandlerFunc { return endless }), kind: ErrHash},
		{name: "endless index", setup: hookAll("InRelease", func(*repo) http.HandlerFunc { return endless }), kind: ErrRelease, says: "longer"},
		{name: "length of a terabyte", setup: hookAll("hello_1.0-1_amd64.deb", func(*repo) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "1099511627776") }
		}), kind: ErrHash},
		{name: "header flood", setup: hookAll("InRelease", func(*repo) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				for i := range 4000 {
					w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("y", 200))
				}
			}
		}), kind: ErrUnreachable},
		{name: "redirect loop", setup: hookAll("InRelease", func(*repo) http.HandlerFunc {
			return func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, q.URL.Path, http.StatusFound) }
		}), kind: ErrUnreachable, says: "redirect"},
		{name: "redirect to a file", setup: hookAll("InRelease", func(*repo) http.HandlerFunc {
			return func(w http.ResponseWriter, q *http.Request) {
				http.Redirect(w, q, "file:///etc/passwd", http.StatusFound)
			}
		}), kind: ErrUnreachable, says: "redirect"},
		{name: "error for everything", setup: func(_ *testing.T, _ *bench, r *repo) {
			r.any = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }
		}, kind: ErrUnreachable, says: "502"},
		{name: "nothing there", setup: func(_ *testing.T, _ *bench, r *repo) { clear(r.files) }, kind: ErrUnreachable, says: "404"},
		{name: "unasked 304", setup: hookAll("InRelease", func(*repo) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}), kind: ErrUnreachable},
		{name: "a part that nobody asked for", setup: hookAll("InRelease", func(r *repo) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", "bytes 0-9/10")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(r.files[r.inRelease()])
			}
		}), kind: ErrUnreachable},
		{name: "packed on the way", setup: hookAll("Packages.xz", func(r *repo) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				_, _ = z.Write(r.files[r.indexPath()+".xz"])
				_ = z.Close()
			}
		}), kind: ErrHash},
	}
	// The control: the same client, the same road, and nothing wrong.
	attacks = append(attacks, attack{name: "no attack", kind: nil})

	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			r := b.good.clone()
			if a.setup != nil {
				a.setup(t, b, r)
			}
			keys := a.keys
			if keys == nil {
				keys = []string{"good"}
			}
			c := newClientDir(t, b.g, r.serve(t), "test", keys...)
			if a.name == "revoked key" {
				c.o.Keyring = revokedRing
			}
			start := time.Now()
			_, err := c.fetch(t, "hello")
			require.Less(t, time.Since(start), 10*time.Second)
			if a.kind == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, a.kind)
			require.Contains(t, err.Error(), a.says)
			require.Equal(t, strings.Contains(a.says, "no key"), errors.Is(err, ErrNoKey), "%v", err)
			require.NotRegexp(t, `[\x00-\x1f\x7f]`, err.Error())
			require.Less(t, len(err.Error()), 1500)
			// What was refused left no trace that a later run would believe.
			_, serr := os.Stat(filepath.Join(c.o.CacheDir, "sha256"))
			require.NoError(t, serr)
			parts, serr := filepath.Glob(filepath.Join(c.o.CacheDir, "partial", "put-*"))
			require.NoError(t, serr)
			require.Empty(t, parts)
		})
	}
	t.Cleanup(func() {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t.Logf("memory taken from the system by all attacks at once: %d MB", m.Sys>>20)
		require.Less(t, m.Sys, uint64(256<<20))
	})
}

// zeros is an endless stream of one byte.
type zeros byte

func (z zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(z)
	}
	return len(p), nil
}

// hang keeps a client waiting. A HEAD request is let go: its connection is used
// again, and then the server would not see the client leave.
func hang(_ http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		return
	}
	select {
	case <-r.Context().Done():
	case <-time.After(30 * time.Second):
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// drip sends a file byte by byte.
func drip(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method == http.MethodHead {
			return
		}
		for i := range data {
			if _, err := w.Write(data[i : i+1]); err != nil || r.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// rename gives hello another Filename in the index.
func rename(to string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, "Filename: "+hello, "Filename: "+to) }
}

// swapInside serves another package under the name, digest and size of hello.
func swapInside(with string) func(*testing.T, *bench, *repo) {
	return func(t *testing.T, b *bench, r *repo) {
		r.files[hello] = b.pool[with]
		relist(t, r, hello, nil)
	}
}

// relist signs an index in which the stanza of a file has the file's digest and
// size, and nothing else changed.
func relist(t *testing.T, r *repo, name string, _ []byte) {
	t.Helper()
	stanzas := strings.Split(string(r.files[r.indexPath()]), "\n\n")
	for i, s := range stanzas {
		if strings.Contains(s, "Filename: "+name+"\n") {
			var out []string
			for line := range strings.Lines(s) {
				switch {
				case strings.HasPrefix(line, "Size:"):
					line = fmt.Sprintf("Size: %d\n", len(r.files[name]))
				case strings.HasPrefix(line, "SHA256:"):
					line = "SHA256: " + sum(r.files[name]) + "\n"
				}
				out = append(out, line)
			}
			stanzas[i] = strings.Join(out, "")
		}
	}
	r.setPackages(t, []byte(strings.Join(stanzas, "\n\n")))
	r.release(t, "test", "testing-codename", nil)
	r.sign(t, "good")
}
