//go:build faultpoints

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/jailup/jailup/internal/lab/byhand"
)

// repeated is a stream of n times the same text.
type repeated struct {
	text []byte
	n    int64
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	c := copy(p, r.text[r.at:])
	if r.at += c; r.at == len(r.text) {
		r.at, r.n = 0, r.n-1
	}
	return c, nil
}

func zeros(n int64) io.Reader { return &repeated{text: make([]byte, 1<<20), n: n >> 20} }

func gzBomb(r io.Reader) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	_, _ = io.Copy(w, r)
	_ = w.Close()
	return b.Bytes()
}

func zstBomb(r io.Reader) []byte {
	var b bytes.Buffer
	w, _ := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	_, _ = io.Copy(w, r)
	_ = w.Close()
	return b.Bytes()
}

func xzBomb(r io.Reader) []byte {
	var b bytes.Buffer
	w, _ := xz.WriterConfig{DictCap: 1 << 20}.NewWriter(&b)
	_, _ = io.Copy(w, r)
	_ = w.Close()
	return b.Bytes()
}

// xzDictionary writes the dictionary's size code into the first block's header.
func xzDictionary(x []byte, code byte) []byte {
	x = bytes.Clone(x)
	if x[14] != 0x21 {
		panic("no LZMA2 filter where it was expected")
	}
	x[16] = code
	end := 12 + (int(x[12])+1)*4
	binary.LittleEndian.PutUint32(x[end-4:], crc32.ChecksumIEEE(x[12:end-4]))
	return x
}

// zstWindow is a zstd frame without content size whose header asks for a window
// of 2^exp bytes.
func zstWindow(exp int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, byte((exp - 10) << 3), 0x01, 0x00, 0x00}
}

func zstSkippable(n int) []byte {
	b := []byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	return append(b, make([]byte, n)...)
}

// indexFouls: what comes below the signed index is not what was signed, or was
// signed and is hostile.
func indexFouls(s *shop) []foul {
	name := "main/binary-" + s.arch + "/Packages"
	path := "dists/test/" + name
	served := func(ext string, change func([]byte) []byte) func(*mirror) {
		return func(m *mirror) {
			m.after = func() { m.files[path+ext] = change(bytes.Clone(m.files[path+ext])) }
		}
	}
	// signed serves, and signs, these bytes as the only form of the index, and
	// lies as much as it can about how much comes out of them.
	signed := func(ext string, make func(m *mirror, plain []byte) []byte) func(*mirror) {
		return func(m *mirror) {
			m.indices = func(files map[string][]byte) {
				plain := files[name]
				clear(files)
				files[name+ext] = make(m, plain)
			}
			m.release = func(text string) string {
				return text + fmt.Sprintf(" %s %d %s\n", strings.Repeat("0", 64), 1<<30, name)
			}
		}
	}
	// told is the same, and the plain form is signed too, but not served.
	told := func(ext string, make func(m *mirror, plain []byte) []byte) func(*mirror) {
		return func(m *mirror) {
			m.indices = func(files map[string][]byte) {
				plain := files[name]
				clear(files)
				files[name] = plain
				files[name+ext] = make(m, plain)
			}
		}
	}
	flip := func(d []byte) []byte { d[len(d)/2] ^= 1; return d }
	text := func(change func(string) string) func(*mirror) { return func(m *mirror) { m.packages = change } }
	// nginx changes the stanza of the newest nginx, and takes the older ones out.
	nginx := func(change func(string) string) func(*mirror) {
		return text(func(all string) string {
			var kept []string
			for one := range strings.SplitSeq(strings.TrimSpace(all), "\n\n") {
				if fieldOf(one, "Package") != "nginx" || fieldOf(one, "Filename") == s.nginx {
					kept = append(kept, one)
				}
			}
			all = strings.Join(kept, "\n\n") + "\n"
			at := strings.Index(all, "Filename: "+s.nginx+"\n")
			from := strings.LastIndex(all[:at], "\n\n") + 2
			to := at + strings.Index(all[at:]+"\n\n", "\n\n")
			to = min(to, len(all))
			out := change(all[from:to])
			if out == all[from:to] {
				panic("the stanza was not changed")
			}
			return all[:from] + out + all[to:]
		})
	}
	field := func(name, value string) func(*mirror) {
		return nginx(func(st string) string {
			old := name + ": " + fieldOf(st, name) + "\n"
			return strings.Replace(st+"\n", old, name+": "+value+"\n", 1)
		})
	}
	file := func(value string) func(*mirror) { return field("Filename", value) }
	var diffs atomic.Int32

	return []foul{
		// other bytes than were signed
		{name: "index changed", set: served(".xz", flip), says: "SHA-256"},
		{name: "index cut off", set: served(".xz", func(d []byte) []byte { return d[:len(d)/2] }), says: "bytes"},
		{name: "index one byte short", set: served(".xz", func(d []byte) []byte { return d[:len(d)-1] }), says: "bytes"},
		{name: "index longer", set: served(".xz", func(d []byte) []byte { return append(d, "more"...) }), says: "bytes"},
		{name: "index empty", set: served(".xz", func([]byte) []byte { return nil })},
		{name: "index of zeros", set: served(".xz", func(d []byte) []byte { return make([]byte, len(d)) }), says: "SHA-256"},
		{name: "index missing", set: func(m *mirror) { m.after = func() { delete(m.files, path+".xz") } }, says: "404", noApt: true},
		{name: "all forms of the index missing", set: func(m *mirror) { m.after = func() { delete(m.files, path+".xz"); delete(m.files, path) } }, says: "404"},
		{name: "index of the day before", set: func(m *mirror) {
			m.after = func() { m.files[path+".xz"] = byhand.Pack(m.t, ".xz", []byte(s.stanzas[0]+"\n")) }
		}},
		{name: "by hash: other bytes", set: func(m *mirror) {
			m.fields["Acquire-By-Hash"] = "yes"
			m.after = func() {
				m.files["dists/test/main/binary-"+s.arch+"/by-hash/SHA256/"+sha256Of(m.files[path+".xz"])] = bytes.Repeat([]byte("x"), len(m.files[path+".xz"]))
			}
		}, says: "SHA-256", noApt: true},
		{name: "by hash: a redirect to a file", set: func(m *mirror) {
			m.fields["Acquire-By-Hash"] = "yes"
			m.after = func() {
				m.hooks["dists/test/main/binary-"+s.arch+"/by-hash/SHA256/"+sha256Of(m.files[path+".xz"])] = redirect("file:///etc/passwd")
			}
		}, says: "redirect", noApt: true},
		{name: "by hash: nothing there", set: func(m *mirror) { m.fields["Acquire-By-Hash"] = "yes" }, exit: fine},
		{name: "by hash: other bytes at the plain name", exit: fine, noApt: true, set: func(m *mirror) {
			m.fields["Acquire-By-Hash"] = "yes"
			m.after = func() {
				x := m.files[path+".xz"]
				m.files["dists/test/main/binary-"+s.arch+"/by-hash/SHA256/"+sha256Of(x)] = x
				m.files[path+".xz"] = []byte("the mirror is in the middle of its update")
			}
		}},
		{name: "304 for an index that changed", seed: hasIndex, noApt: true, set: func(m *mirror) {
			m.fields["Date"] = date(s.now)
			m.packages = func(text string) string { return strings.Replace(text, "Description:", "Description: new", 1) }
			m.hooks[path+".xz"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}, exit: fine, says: "cached"},
		{name: "changes of an index are not asked for", seed: hasIndex, noApt: true, exit: fine, set: func(m *mirror) {
			m.fields["Date"] = date(s.now)
			m.packages = func(text string) string { return strings.Replace(text, "Description:", "Description: new", 1) }
			m.indices = func(files map[string][]byte) {
				files[name+".diff/Index"] = []byte("SHA256-Current: " + strings.Repeat("0", 64) + " 12\n")
			}
			m.seen = func(q *http.Request) {
				if strings.Contains(q.URL.Path, ".diff/") {
					diffs.Add(1)
					m.t.Error("a diff of an index was asked for: it would be applied to bytes that were not signed")
				}
			}
		}},
		{name: "a part of an index resumed over other bytes", noApt: true, set: func(m *mirror) {
			first := true
			m.after = func() {
				x := m.files[path+".xz"]
				m.hooks[path+".xz"] = func(w http.ResponseWriter, q *http.Request) {
					if first && q.Method == http.MethodGet {
						first = false
						w.Header().Set("Content-Length", fmt.Sprint(len(x)))
						_, _ = w.Write(bytes.Repeat([]byte("x"), len(x)/2))
						return // the connection breaks off
					}
					http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(x))
				}
			}
		}, exit: fine},
		{name: "a part of an index resumed over other bytes, again and again", noApt: true, set: func(m *mirror) {
			m.after = func() {
				x := m.files[path+".xz"]
				m.hooks[path+".xz"] = func(w http.ResponseWriter, q *http.Request) {
					w.Header().Set("Content-Length", fmt.Sprint(len(x)))
					_, _ = w.Write(bytes.Repeat([]byte("x"), len(x)/2))
				}
			}
		}},

		// signed, and hostile
		{name: "index is not what its plain text was signed as", noApt: true, set: told(".xz", func(m *mirror, plain []byte) []byte {
			return byhand.Pack(m.t, ".xz", bytes.Replace(plain, []byte("Description:"), []byte("Descriptiom:"), 1))
		}), says: "unpacked"},
		{name: "index unpacks to more than its plain text", noApt: true, set: told(".xz", func(m *mirror, plain []byte) []byte {
			return byhand.Pack(m.t, ".xz", append(plain, bytes.Repeat([]byte("\n"), 1<<20)...))
		}), says: "more than"},
		{name: "gzip bomb", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte {
			return gzBomb(&repeated{text: []byte(strings.Repeat("A: b\n\n", 1<<16)), n: 1 << 12})
		})},
		{name: "gzip bomb of zeros", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte { return gzBomb(zeros(2 << 30)) })},
		{name: "xz bomb", noApt: true, set: signed(".xz", func(*mirror, []byte) []byte { return xzBomb(zeros(256 << 20)) })},
		{name: "zstd bomb", noApt: true, set: signed(".zst", func(*mirror, []byte) []byte { return zstBomb(zeros(2 << 30)) })},
		{name: "bomb beside an honest plain text", noApt: true, set: told(".gz", func(*mirror, []byte) []byte { return gzBomb(zeros(1 << 30)) }), says: "more than"},
		{name: "one endless stanza", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte {
			return gzBomb(&repeated{text: []byte(strings.Repeat(" x\n", 1<<16)), n: 1 << 10})
		})},
		{name: "one endless line", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte {
			return gzBomb(io.MultiReader(strings.NewReader("Package: "), &repeated{text: bytes.Repeat([]byte("x"), 1<<20), n: 512}))
		})},
		{name: "half a million small packages", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte {
			one := "Package: p\nVersion: 1\nArchitecture: all\nFilename: pool/p.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n\n"
			return gzBomb(&repeated{text: []byte(strings.Repeat(one, 1000)), n: 500})
		})},
		{name: "a hundred thousand packages with long fields", noApt: true, set: signed(".gz", func(*mirror, []byte) []byte {
			one := "Package: p\nVersion: 1\nArchitecture: all\nFilename: pool/p.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\nDepends: " + strings.Repeat("a, ", 2000) + "a\n\n"
			return gzBomb(&repeated{text: []byte(strings.Repeat(one, 100)), n: 1000})
		})},
		{name: "dictionary of 1 GiB", noApt: true, set: signed(".xz", func(m *mirror, plain []byte) []byte { return xzDictionary(byhand.Pack(m.t, ".xz", plain), 36) }), says: "dictionary"},
		{name: "dictionary of 4 GiB", noApt: true, set: signed(".xz", func(m *mirror, plain []byte) []byte { return xzDictionary(byhand.Pack(m.t, ".xz", plain), 40) }), says: "dictionary"},
		{name: "a larger dictionary in the second stream", noApt: true, set: signed(".xz", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".xz", plain), xzDictionary(byhand.Pack(m.t, ".xz", plain), 36)...)
		}), says: "dictionary|more than one stream"},
		{name: "four indexes at once, each with the largest dictionary", noApt: true, set: func(m *mirror) {
			m.indices = func(files map[string][]byte) {
				clear(files)
				for i := range 4 {
					// The output fills the dictionary, which costs nothing before.
					files[strings.Replace(name, "main/", fmt.Sprintf("c%d/", i), 1)+".xz"] = xzDictionary(bigXZ(m.t), 28)
				}
			}
			m.fields["Components"] = "c0 c1 c2 c3"
			m.sources = func(text string) string {
				var b strings.Builder
				for i := range 4 { // as four sources: they are read side by side
					b.WriteString(strings.Replace(text, "Components: main", fmt.Sprintf("Components: c%d\nCheck-Valid-Until: %s", i, []string{"yes", "no"}[i%2]), 1))
					if i > 1 {
						b.WriteString("By-Hash: no\n")
					}
					b.WriteString("\n")
				}
				return b.String()
			}
		}},
		{name: "window of 2 GiB", noApt: true, set: signed(".zst", func(*mirror, []byte) []byte { return zstWindow(31) })},
		{name: "a larger window in the second frame", noApt: true, set: signed(".zst", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".zst", plain), zstWindow(31)...)
		})},
		{name: "zstd, a frame to pass over", noApt: true, exit: fine, set: told(".zst", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".zst", plain), zstSkippable(1000)...)
		})},
		{name: "zstd, two frames", exit: fine, set: told(".zst", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".zst", plain[:1000]), byhand.Pack(m.t, ".zst", plain[1000:])...)
		})},
		{name: "gzip, two members", exit: fine, set: told(".gz", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".gz", plain[:1000]), byhand.Pack(m.t, ".gz", plain[1000:])...)
		})},
		{name: "xz, two streams", says: "more than one stream", set: told(".xz", func(m *mirror, plain []byte) []byte {
			return append(byhand.Pack(m.t, ".xz", plain[:1000]), byhand.Pack(m.t, ".xz", plain[1000:])...)
		})},
		{name: "nothing is told of the plain text", set: func(m *mirror) {
			m.indices = func(files map[string][]byte) { delete(files, name) }
		}, says: "no packages"},
		{name: "gzip with a tail", noApt: true, set: signed(".gz", func(m *mirror, plain []byte) []byte { return append(byhand.Pack(m.t, ".gz", plain), "tail"...) })},
		{name: "xz with a tail", noApt: true, set: signed(".xz", func(m *mirror, plain []byte) []byte { return append(byhand.Pack(m.t, ".xz", plain), "tail"...) })},
		{name: "zstd with a tail", noApt: true, set: signed(".zst", func(m *mirror, plain []byte) []byte { return append(byhand.Pack(m.t, ".zst", plain), "tail"...) })},
		{name: "xz whose index lies", set: signed(".xz", func(m *mirror, plain []byte) []byte {
			x := byhand.Pack(m.t, ".xz", plain)
			at := len(x) - 12 - int(binary.LittleEndian.Uint32(x[len(x)-8:])+1)*4
			end := len(x) - 12
			x[at+2] ^= 4 // of the first record's unpadded size
			binary.LittleEndian.PutUint32(x[end-4:], crc32.ChecksumIEEE(x[at:end-4]))
			return x
		})},
		{name: "gzip cut off and signed so", set: signed(".gz", func(m *mirror, plain []byte) []byte { x := byhand.Pack(m.t, ".gz", plain); return x[:len(x)-6] })},
		{name: "xz cut off and signed so", set: signed(".xz", func(m *mirror, plain []byte) []byte { x := byhand.Pack(m.t, ".xz", plain); return x[:len(x)-20] })},
		{name: "zstd cut off and signed so", noApt: true, set: signed(".zst", func(m *mirror, plain []byte) []byte { x := byhand.Pack(m.t, ".zst", plain); return x[:len(x)-6] })},
		{name: "gzip called xz", set: signed(".xz", func(m *mirror, plain []byte) []byte { return byhand.Pack(m.t, ".gz", plain) })},
		{name: "plain text called gzip", set: signed(".gz", func(_ *mirror, plain []byte) []byte { return plain })},
		{name: "an index in bzip2 only", noApt: true, set: signed(".bz2", func(_ *mirror, plain []byte) []byte { return plain })},
		{name: "an index of nothing", set: text(func(string) string { return "" })},
		{name: "an index of rubbish", set: text(func(string) string { return strings.Repeat("\x00\xff\x1b[31m rubbish\n", 1000) })},
		{name: "an index of HTML", set: text(func(string) string { return "<html>\n<body>please log in</body>\n</html>\n" })},

		// what a stanza says
		{name: "file name with dots", noApt: true, set: file("pool/../../../etc/passwd")},
		{name: "file name absolute", noApt: true, set: file("/etc/passwd")},
		{name: "file name with escaped dots", noApt: true, set: file("pool/%2e%2e/%2E%2e/x.deb")},
		{name: "file name with an escaped slash", noApt: true, set: file("pool%2f..%2f..%2fetc/passwd")},
		{name: "file name that is a URL", noApt: true, set: file("http://127.0.0.1:1/x.deb")},
		{name: "file name that is a host", noApt: true, set: file("//127.0.0.1:1/x.deb")},
		{name: "file name that is a file's URL", noApt: true, set: file("file:///etc/passwd")},
		{name: "file name with a query", noApt: true, set: file("pool/x.deb?y#z")},
		{name: "file name with a backslash", noApt: true, set: file(`pool\..\x.deb`)},
		{name: "file name over two lines", noApt: true, set: file("pool/x.deb\n /../../etc/passwd")},
		{name: "file name with a carriage return", noApt: true, set: file("pool/x.deb\rHost: evil")},
		{name: "file name with escapes", noApt: true, set: file("pool/\x1b]0;evil\x07.deb")},
		{name: "file name of 100 KB", noApt: true, set: file("pool/" + strings.Repeat("x/", 50_000) + "x.deb")},
		{name: "no file name", noApt: true, set: nginx(func(st string) string { return strings.Replace(st, "Filename:", "Filenane:", 1) })},
		{name: "no digest", noApt: true, set: nginx(func(st string) string { return strings.Replace(st, "SHA256:", "SHA257:", 1) })},
		{name: "digest by MD5 only", noApt: true, set: nginx(func(st string) string {
			return strings.NewReplacer("SHA256:", "X-SHA256:", "SHA512:", "X-SHA512:", "SHA1:", "X-SHA1:").Replace(st)
		})},
		{name: "digest too short", noApt: true, set: field("SHA256", "00ff")},
		{name: "digest of something else", set: field("SHA256", strings.Repeat("0", 64)), says: "SHA-256"},
		{name: "another size", set: field("Size", "12345"), says: "bytes"},
		{name: "size 0", noApt: true, set: field("Size", "0")},
		{name: "size below zero", noApt: true, set: field("Size", "-1")},
		{name: "size of exabytes", noApt: true, set: field("Size", "9223372036854775807")},
		{name: "size in words", noApt: true, set: field("Size", "big")},
		{name: "the same package twice, differently", noApt: true, set: nginx(func(st string) string {
			return st + "\n\n" + relisted(st, []byte("another"))
		}), exit: fine},
		{name: "the same package twice, the other first", noApt: true, set: nginx(func(st string) string {
			return relisted(st, []byte("another")) + "\n\n" + st
		}), exit: fine},
		{name: "a field twice in a stanza", noApt: true, set: nginx(func(st string) string { return "Package: other\n" + st })},
		{name: "name with a path", noApt: true, set: field("Package", "../../nginx")},
		{name: "name with escapes", noApt: true, set: field("Package", "ng\x1b[31minx")},
		{name: "version with a path", noApt: true, set: field("Version", "9:9/../../x")},
		{name: "version with escapes", noApt: true, set: field("Version", "99\x1b]0;x\x07")},
		{name: "version that is none", noApt: true, set: field("Version", "new")},
		{name: "needs what there is not", noApt: true, set: nginx(func(st string) string { return st + "\nPre-Depends: no-such-package (>= 1)" })},
		{name: "needs what has escapes in its name", noApt: true, set: nginx(func(st string) string { return st + "\nPre-Depends: \u009b31mevil\u202e (>= 1)" })},
		{name: "conflicts with what it needs", noApt: true, set: nginx(func(st string) string { return st + "\nConflicts: nginx-common, libc6" })},
		{name: "needs ten thousand things", noApt: true, set: nginx(func(st string) string {
			return st + "\nPre-Depends: " + strings.TrimSuffix(strings.Repeat("a | b | c, ", 10_000), ", ")
		})},
		{name: "a maze of alternatives", noApt: true, set: func(m *mirror) {
			m.packages = func(all string) string {
				var b strings.Builder
				for i := range 24 {
					for _, side := range []string{"a", "b"} {
						fmt.Fprintf(&b, "\nPackage: maze%s%d\nVersion: 1\nArchitecture: all\nDepends: mazea%d | mazeb%d\nFilename: pool/x.deb\nSize: 1\nSHA256: %s\n", side, i, i+1, i+1, strings.Repeat("0", 64))
					}
				}
				at := strings.Index(all, "Filename: "+s.nginx+"\n")
				return all[:at] + "Pre-Depends: mazea0 | mazeb0\n" + all[at:] + b.String()
			}
		}},
	}
}

// bigXZ is 96 MiB of what cannot be packed into less than itself by much, so
// that a dictionary is filled: a few bytes for each KB.
func bigXZ(t interface{ Helper() }) []byte {
	t.Helper()
	return xzBomb(&repeated{text: append(bytes.Repeat([]byte("A: "+strings.Repeat("b", 1000)+"\n"), 1000), '\n'), n: 96})
}

// packageFouls: the packages are not those that were signed.
func packageFouls(s *shop) []foul {
	served := func(change func([]byte) []byte) func(*mirror) {
		return func(m *mirror) {
			data := change(bytes.Clone(s.debs[s.nginx]))
			m.hooks[s.nginx] = func(w http.ResponseWriter, q *http.Request) {
				http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
			}
		}
	}
	// instead lists another package by the name of nginx.
	instead := func(pick func(st string) bool) func(*mirror) {
		return func(m *mirror) {
			for _, st := range s.stanzas {
				if pick(st) {
					m.put(s.nginx, s.debs[fieldOf(st, "Filename")])
					return
				}
			}
			m.t.Fatal("there is no such package")
		}
	}
	flip := func(d []byte) []byte { d[len(d)/2] ^= 1; return d }
	return []foul{
		{name: "package changed", warm: true, set: served(flip), says: "SHA-256"},
		{name: "package cut off", warm: true, set: served(func(d []byte) []byte { return d[:len(d)/2] }), says: "bytes"},
		{name: "package longer", warm: true, set: served(func(d []byte) []byte { return append(d, "more"...) }), says: "bytes"},
		{name: "package empty", warm: true, set: served(func([]byte) []byte { return nil })},
		{name: "package missing", warm: true, set: func(m *mirror) { m.hooks[s.nginx] = http.NotFound }, says: "404"},
		{name: "package forbidden", warm: true, set: func(m *mirror) {
			m.hooks[s.nginx] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
		}, says: "403"},
		{name: "HTML for a package", warm: true, set: served(func([]byte) []byte { return []byte("<html>please log in</html>") })},
		{name: "the older package for the newer", warm: true, set: instead(func(st string) bool {
			return fieldOf(st, "Package") == "nginx" && fieldOf(st, "Version") != s.version
		}), says: "not the package", deb: true},
		{name: "another package for it", warm: true, set: instead(func(st string) bool { return fieldOf(st, "Package") == "nginx-common" }), says: "not the package", deb: true},
		{name: "package for another machine", warm: true, deb: true, set: func(m *mirror) {
			m.put(s.nginx, newDeb(m).control(func(c string) string { return strings.Replace(c, "Architecture: "+s.arch, "Architecture: riscv64", 1) }).bytes())
		}, says: "not the package"},
		{name: "package with a later version inside", warm: true, deb: true, set: func(m *mirror) {
			m.put(s.nginx, newDeb(m).control(func(c string) string {
				return strings.Replace(c, "Version: "+s.version, "Version: "+s.version+"+evil", 1)
			}).bytes())
		}, says: "not the package"},
		{name: "package resumed over other bytes", warm: true, exit: took, noApt: true, set: func(m *mirror) {
			first := true
			data := s.debs[s.nginx]
			m.hooks[s.nginx] = func(w http.ResponseWriter, q *http.Request) {
				if first && q.Method == http.MethodGet {
					first = false
					w.Header().Set("Content-Length", fmt.Sprint(len(data)))
					_, _ = w.Write(bytes.Repeat([]byte("x"), len(data)/2))
					return
				}
				http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
			}
		}},
		{name: "package always broken off", warm: true, noApt: true, set: func(m *mirror) {
			data := s.debs[s.nginx]
			m.hooks[s.nginx] = func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				_, _ = w.Write(data[:len(data)/2])
			}
		}},
		{name: "another part than was asked for", warm: true, noApt: true, set: func(m *mirror) {
			data := s.debs[s.nginx]
			m.hooks[s.nginx] = func(w http.ResponseWriter, q *http.Request) {
				if q.Header.Get("Range") != "" {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(data)))
					w.WriteHeader(http.StatusPartialContent)
					_, _ = w.Write(data[:10])
					return
				}
				w.Header().Set("Accept-Ranges", "bytes")
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				if q.Method == http.MethodGet {
					_, _ = w.Write(data[:len(data)/2])
				}
			}
		}},
		{name: "304 for a package", warm: true, noApt: true, set: func(m *mirror) {
			m.hooks[s.nginx] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}},
		{name: "204 for a package", warm: true, noApt: true, set: func(m *mirror) {
			m.hooks[s.nginx] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
		}},
	}
}
