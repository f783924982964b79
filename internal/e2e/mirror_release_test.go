//go:build faultpoints

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// changed makes an attack that changes InRelease after it was signed.
func changed(change func(in []byte) []byte) func(*mirror) {
	return func(m *mirror) { m.signed = change }
}

func replaced(old, now string) func([]byte) []byte {
	return func(in []byte) []byte {
		out := bytes.Replace(in, []byte(old), []byte(now), 1)
		if bytes.Equal(in, out) {
			panic("nothing was replaced: " + old)
		}
		return out
	}
}

// messageFouls: the clearsigned message is not what it seems.
func messageFouls() []foul {
	evil := "Suite: evil\nCodename: evil\n"
	return []foul{
		{name: "signature stripped", set: func(m *mirror) { m.sign = func(text []byte) []byte { return text } }},
		{name: "empty index", set: changed(func([]byte) []byte { return nil })},
		{name: "a blank line for an index", set: changed(func([]byte) []byte { return []byte("\n") })},
		{name: "signature block empty", set: changed(func(in []byte) []byte {
			i := bytes.Index(in, []byte(beginSignature))
			return append(in[:i:i], beginSignature+"\n\n"+endSignature+"\n"...)
		})},
		{name: "signature block of another text", set: func(m *mirror) {
			m.signed = func(in []byte) []byte {
				other := m.s.clearsign(m.t, time.Time{}, "good", []byte("Suite: test\n"))
				return append(in[:bytes.Index(in, []byte(beginSignature))], other[bytes.Index(other, []byte(beginSignature)):]...)
			}
		}, says: "is wrong"},
		{name: "detached signature in its place", set: func(m *mirror) {
			m.sign = func(text []byte) []byte {
				return m.s.Run(m.t, time.Time{}, text, "--local-user", lab.User("good"), "--armor", "--detach-sign")
			}
		}},
		{name: "signed, but as one packet", set: func(m *mirror) {
			m.sign = func(text []byte) []byte {
				return m.s.Run(m.t, time.Time{}, text, "--local-user", lab.User("good"), "--armor", "--sign")
			}
		}},
		{name: "only a detached signature beside", set: func(m *mirror) {
			m.after = func() {
				release := m.files["dists/test/Release"]
				m.files["dists/test/Release.gpg"] = m.s.Run(m.t, time.Time{}, release, "--local-user", lab.User("good"), "--armor", "--detach-sign")
				delete(m.files, m.inRelease())
			}
		}, says: "404"},
		{name: "a letter of the text changed", set: changed(replaced("Codename: codename", "Codename: codenamf")), says: "is wrong"},
		{name: "a digest changed", set: changed(func(in []byte) []byte {
			i := bytes.Index(in, []byte("SHA256:\n ")) + len("SHA256:\n ")
			in[i] ^= 1
			return in
		}), says: "is wrong"},
		{name: "a line added", set: changed(replaced("\n\nOrigin", "\n\nNotAutomatic: no\nOrigin")), says: "is wrong"},
		{name: "a line taken out", set: changed(replaced("Label: jailup test\n", "")), says: "is wrong"},
		{name: "junk before", set: changed(func(in []byte) []byte { return append([]byte(evil+"\n"), in...) })},
		{name: "a blank line before", set: changed(func(in []byte) []byte { return append([]byte("\n"), in...) })},
		{name: "a byte order mark before", set: changed(func(in []byte) []byte { return append([]byte("\xef\xbb\xbf"), in...) })},
		{name: "junk after", set: changed(func(in []byte) []byte { return append(in, evil...) }), says: "follows"},
		{name: "a blank line after", set: changed(func(in []byte) []byte { return append(in, '\n') }), says: "follows"},
		{name: "junk between text and signature", set: changed(replaced(beginSignature, evil+beginSignature))},
		{name: "junk between the lines of the signature", set: changed(replaced(endSignature, evil+endSignature))},
		{name: "two messages, both good", set: changed(func(in []byte) []byte { return append(bytes.Clone(in), in...) })},
		{name: "an unsigned message before a good one", set: changed(func(in []byte) []byte {
			return append([]byte(beginMessage+"\nHash: SHA512\n\n"+evil), in...)
		})},
		{name: "a good message and one more text", set: changed(func(in []byte) []byte {
			return append(in, beginMessage+"\nHash: SHA512\n\n"+evil...)
		})},
		{name: "a header that is a field", set: changed(replaced("\nHash:", "\nSuite: evil\nHash:")), says: "header"},
		{name: "a header that is a charset", set: changed(replaced("\nHash:", "\nCharset: UTF-7\nHash:")), says: "header"},
		{name: "text in front of the blank line", set: changed(replaced("\nHash: SHA512\n\n", "\nHash: SHA512\n"+evil+"\n"))},
		{name: "no blank line", set: changed(replaced("\nHash: SHA512\n\n", "\nHash: SHA512\n"))},
		{name: "a dash that is not escaped", set: changed(replaced("\n\n", "\n\n-evil: 1\n"))},
		{name: "an escaped line more", set: changed(replaced("\n\n", "\n\n- Suite: evil\n"))},
		{name: "escapes where none are needed", set: changed(replaced("\nOrigin:", "\n- Origin:")), exit: fine},
		{name: "escapes twice", set: changed(replaced("\nOrigin:", "\n- - Origin:")), says: "is wrong"},
		{name: "blanks at a line's end", set: changed(replaced("Codename: codename\n", "Codename: codename \t\n")), exit: fine},
		{name: "a form feed at a line's end", set: changed(replaced("Codename: codename\n", "Codename: codename\f\n")), says: "control"},
		{name: "carriage returns", set: changed(func(in []byte) []byte { return bytes.ReplaceAll(in, []byte("\n"), []byte("\r\n")) })},
		{name: "one carriage return", set: changed(replaced("Codename: codename\n", "Codename: codename\r\n"))},
		{name: "a NUL byte", set: changed(replaced("Codename", "\x00odename")), says: "control"},
		{name: "a NUL byte behind the text", set: changed(replaced("\n"+beginSignature, "\x00\n"+beginSignature))},
		{name: "a begin line with a blank", set: changed(replaced(beginMessage+"\n", beginMessage+" \n"))},
		{name: "a signature line with a blank", set: changed(replaced(beginSignature+"\n", beginSignature+" \n"))},
		{name: "cut off in the text", set: changed(func(in []byte) []byte { return in[:len(in)/3] }), says: "cut off"},
		{name: "cut off in the signature", set: changed(func(in []byte) []byte { return in[:len(in)-60] }), says: "cut off"},
		{name: "the armor's checksum wrong", set: changed(func(in []byte) []byte {
			i := bytes.LastIndex(in, []byte("\n=")) + 2
			in[i] ^= 2
			return in
		})},
		{name: "a long header line", set: changed(replaced("\nHash: SHA512\n", "\nHash: "+strings.Repeat("SHA512,", 100_000)+"SHA512\n")), noApt: true, exit: fine},
	}
}

// releaseFouls: the index is signed well, and still not the one to use.
func releaseFouls(s *shop) []foul {
	fields := func(kv ...string) func(*mirror) {
		return func(m *mirror) {
			for i := 0; i < len(kv); i += 2 {
				m.fields[kv[i]] = kv[i+1]
			}
		}
	}
	text := func(change func(string) string) func(*mirror) { return func(m *mirror) { m.release = change } }
	older := func(by time.Duration) func(*mirror) {
		return func(m *mirror) {
			m.fields["Date"] = date(s.now.Add(-24*time.Hour - by))
			m.packages = func(text string) string { return text + "\nPackage: old\n" } // another file
		}
	}
	section := func(name string) func(string) string { // takes all other digests away
		return func(text string) string {
			var out []string
			keep := true
			for line := range strings.Lines(text) {
				switch strings.TrimSuffix(line, "\n") {
				case "MD5Sum:", "SHA1:", "SHA256:":
					keep = strings.HasPrefix(line, name+":")
				}
				if keep {
					out = append(out, line)
				}
			}
			return strings.Join(out, "")
		}
	}
	sha256Line := func(format string, args ...any) func(string) string {
		return func(text string) string {
			return strings.Replace(text, "\nSHA256:\n", "\nSHA256:\n"+fmt.Sprintf(format, args...)+"\n", 1)
		}
	}
	none := strings.Repeat("0", 64)
	index := "main/binary-" + s.arch + "/Packages.xz"
	return []foul{
		{name: "another suite", set: fields("Suite", "stable", "Codename", "bookworm"), says: "another suite"},
		{name: "no suite and no codename", set: fields("Suite", "-", "Codename", "-"), says: "another suite"},
		{name: "asked for by its codename", set: fields("Suite", "stable", "Codename", "test"), exit: fine},
		{name: "another suite with escapes in its name", set: fields("Suite", "\u009b31mred\u202etxt.exe", "Codename", "\u2028x"), says: "another suite"},
		{name: "no Date", set: fields("Date", "-"), says: "Date"},
		{name: "Date in words", set: fields("Date", "yesterday"), says: "date"},
		{name: "Date in a zone by name", set: fields("Date", "Mon, 23 Nov 2020 10:00:00 EST"), says: "date"},
		{name: "Date that is none", set: fields("Date", "Mon, 31 Feb 2020 10:00:00 UTC"), says: "date"},
		{name: "Date in two days", set: fields("Date", date(s.now.AddDate(0, 0, 2)), "Valid-Until", "-"), says: "future"},
		{name: "Date in the year 9999", set: fields("Date", "Fri, 31 Dec 9999 23:59:59 UTC", "Valid-Until", "-"), says: "future"},
		{name: "Valid-Until passed", set: fields("Valid-Until", date(s.now.Add(-time.Minute))), says: "valid until"},
		{name: "Valid-Until passed long ago", set: fields("Valid-Until", "Mon, 23 Nov 2020 10:00:00 UTC"), says: "valid until"},
		{name: "Valid-Until before Date", set: fields("Date", date(s.now.Add(-time.Hour)), "Valid-Until", date(s.now.Add(-2*time.Hour))), says: "valid until"},
		{name: "Valid-Until in words", set: fields("Valid-Until", "for ever")},
		{name: "no Valid-Until", set: fields("Valid-Until", "-"), exit: fine},
		{name: "an older index, a newer one in the cache", seed: hasIndex, set: older(24 * time.Hour), exit: fine, says: "behind", noApt: true},
		{name: "an index an hour older, a newer one in the cache", seed: hasIndex, set: older(time.Hour), exit: fine, says: "behind", noApt: true},
		{name: "an older index, a newer one seen", seed: hasMemory, set: older(24 * time.Hour), exit: 14, says: "behind", noApt: true},
		{name: "an index a second older, a newer one seen", seed: hasMemory, set: older(time.Second), exit: 14, says: "behind", noApt: true},
		{name: "an older index of another suite, a newer one seen", seed: hasMemory, set: func(m *mirror) {
			older(24 * time.Hour)(m)
			fields("Suite", "stable", "Codename", "bookworm")(m)
		}, says: "another suite", noApt: true},
		{name: "an older index without a signature, a newer one in the cache", seed: hasIndex, set: func(m *mirror) {
			older(24 * time.Hour)(m)
			m.key = "wrong"
		}, says: "no key of this source", noApt: true},
		{name: "an older index, and the newer one's files are gone", seed: hasMemory, noApt: true, set: func(m *mirror) {
			older(24 * time.Hour)(m)
			m.after = func() { delete(m.files, m.indexPath()+".xz") }
		}, exit: 14, says: "behind"},
		{name: "frozen: 304 for ever", seed: hasIndex, noApt: true, set: func(m *mirror) {
			fields("Date", date(s.now))(m)
			m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}, exit: fine},
		{name: "frozen: 304 beyond Valid-Until", seed: hasIndex, noApt: true,
			first: func(m *mirror) { m.fields["Valid-Until"] = date(time.Now().Add(4 * time.Second)) },
			set: func(m *mirror) {
				until, err := time.Parse(time.RFC1123, m.fields["Valid-Until"])
				require.NoError(m.t, err)
				time.Sleep(time.Until(until) + time.Second)
				m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
			}, says: "valid until"},
		{name: "frozen: silence beyond Valid-Until", seed: hasIndex, noApt: true,
			first: func(m *mirror) { m.fields["Valid-Until"] = date(time.Now().Add(4 * time.Second)) },
			set: func(m *mirror) {
				until, err := time.Parse(time.RFC1123, m.fields["Valid-Until"])
				require.NoError(m.t, err)
				time.Sleep(time.Until(until) + time.Second)
				m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
			}, says: "404"},
		{name: "the cached index forged, and 304", seed: hasIndex, noApt: true, set: func(m *mirror) {
			m.client = forgeCache
			m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}, says: "304"},
		{name: "304 that nobody asked for", set: func(m *mirror) {
			m.hooks[m.inRelease()] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }
		}, says: "304"},
		{name: "digests by MD5 only", set: text(section("MD5Sum"))},
		{name: "digests by SHA-1 only", set: text(section("SHA1"))},
		{name: "SHA-1 called SHA-256", set: text(func(text string) string { return strings.Replace(section("SHA1")(text), "\nSHA1:", "\nSHA256:", 1) }), says: "list of files"},
		{name: "no digests", set: text(section("none"))},
		{name: "digests by SHA-256 only", set: text(section("SHA256")), exit: fine},
		{name: "a file twice, differently", set: text(sha256Line(" %s 12 %s", none, index)), says: "twice"},
		{name: "a file twice, the same", set: text(func(text string) string {
			line := "\n" + text[strings.Index(text, "SHA256:\n")+len("SHA256:\n"):]
			return text + strings.TrimPrefix(line, "\n")
		}), exit: fine},
		{name: "a file with an impossible size", set: text(sha256Line(" %s 99999999999999 main/binary-%s/Packages.zst", none, s.arch)), says: "size"},
		{name: "a file with a size below zero", set: text(sha256Line(" %s -1 main/binary-%s/Packages.zst", none, s.arch)), says: "size"},
		{name: "a file with a size in words", set: text(sha256Line(" %s many main/binary-%s/Packages.zst", none, s.arch)), says: "size"},
		{name: "a file with a digest that is too short", set: text(sha256Line(" 00 12 main/binary-%s/Packages.zst", s.arch)), says: "list of files"},
		{name: "a file with a digest that is none", set: text(sha256Line(" %s 12 main/binary-%s/Packages.zst", strings.Repeat("zz", 32), s.arch)), says: "list of files"},
		{name: "a file name that leaves the suite", set: text(sha256Line(" %s 12 ../../../etc/Packages", none)), exit: fine, noApt: true},
		{name: "a field twice", set: text(func(text string) string { return "Suite: evil\n" + text })},
		{name: "a field twice in other letters", set: text(func(text string) string { return "sUITE: evil\n" + text })},
		{name: "two stanzas", set: text(func(text string) string { return text + "\n" + text })},
		{name: "a line that is no field", set: text(func(text string) string { return "evil\n" + text })},
		{name: "a folded first line", set: text(func(text string) string { return " evil\n" + text })},
		{name: "an index for another machine only", set: func(m *mirror) {
			m.indices = func(files map[string][]byte) {
				for n, d := range files {
					delete(files, n)
					files[strings.Replace(n, "binary-"+s.arch, "binary-riscv64", 1)] = d
				}
			}
			m.fields["Architectures"] = "riscv64"
		}, says: "no packages"},
		{name: "another machine's packages in the index for this one", set: func(m *mirror) {
			m.packages = func(text string) string {
				return strings.ReplaceAll(text, "Architecture: "+s.arch+"\n", "Architecture: riscv64\n")
			}
		}},
		{name: "another component", set: func(m *mirror) {
			m.indices = func(files map[string][]byte) {
				for n, d := range files {
					delete(files, n)
					files[strings.Replace(n, "main/", "contrib/", 1)] = d
				}
			}
			m.fields["Components"] = "contrib"
		}},
		{name: "an index of 3 MB", set: func(m *mirror) {
			key := s.secret(m.t, "good").PrivateKey // GnuPG cuts long lines
			m.sign = func(text []byte) []byte {
				return handSigned(m.t, key, append(text, "X-Long: "+strings.Repeat("x", 3<<20)+"\n"...), nil)
			}
		}, says: "longer than", noApt: true},
		{name: "a hundred thousand fields", set: text(func(text string) string {
			var b strings.Builder
			b.WriteString(text)
			for i := range 100_000 {
				fmt.Fprintf(&b, "X-%d: y\n", i)
			}
			return b.String()
		}), noApt: true},
		{name: "twenty thousand files", set: text(func(text string) string {
			var b strings.Builder
			b.WriteString(text)
			for i := range 20_000 {
				fmt.Fprintf(&b, " %s 12 main/binary-x%d/Packages\n", none, i)
			}
			return b.String()
		}), exit: fine, noApt: true},
	}
}

// forgeCache gives the signed index in the client's cache other bytes.
func forgeCache(m *mirror, dir string) {
	want := []byte(beginMessage)
	n := 0
	err := filepath.Walk(filepath.Join(dir, "cache", "sha256"), func(p string, fi os.FileInfo, err error) error {
		if err != nil || !fi.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if err == nil && bytes.HasPrefix(data, want) {
			n++
			data = bytes.Replace(data, []byte("Suite: test"), []byte("Suite: evil"), 1)
			return os.WriteFile(p, data, 0o600)
		}
		return err
	})
	require.NoError(m.t, err)
	require.Equal(m.t, 1, n)
}
