package source

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestSignedBy(t *testing.T) {
	t.Parallel()
	g := lab.NewGnuPG(t)
	g.Key(t, time.Time{}, "one", "ed25519", "sign,cert", "never")
	g.Key(t, time.Time{}, "two", "rsa2048", "sign,cert", "never")
	g.Key(t, time.Time{}, "sub", "ed25519", "sign,cert", "never")
	sub := g.Fingerprints(t, "sub")[0]
	g.Run(t, time.Time{}, nil, "--quick-add-key", sub, "ed25519", "sign", "never")
	both := g.Fingerprints(t, "sub")
	require.Len(t, both, 2)

	text := []byte("Suite: s\nDate: x\n- a line with a dash\n\ttab\n\nend")
	by := func(user string) []byte {
		return g.Run(t, time.Time{}, text, "--local-user", user, "--clearsign")
	}
	signedOne, signedSub := by("one@test"), by(both[1]+"!")
	signedTwice := g.Run(t, time.Time{}, text, "--local-user", "one@test", "--local-user", "two@test", "--clearsign")
	armored := func(names ...string) []byte {
		args := []string{"--armor", "--export"}
		for _, n := range names {
			args = append(args, n+"@test")
		}
		return g.Run(t, time.Time{}, nil, args...)
	}
	root := t.TempDir()
	put := func(name string, data []byte) {
		p := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, data, 0o644))
	}
	put("etc/apt/trusted.gpg", g.Export(t, "two"))
	put("etc/apt/trusted.gpg.d/one.asc", armored("one"))
	put("etc/apt/trusted.gpg.d/sub.gpg", g.Export(t, "sub"))
	put("etc/apt/trusted.gpg.d/broken.gpg", []byte("not a key"))
	put("etc/apt/trusted.gpg.d/ignored.txt", []byte("not a key"))
	put("k/one.gpg", g.Export(t, "one"))
	put("k/both.asc", append(armored("two"), armored("one")...))
	put("k/empty.gpg", nil)
	put("k/broken.gpg", []byte("not a key"))
	one, two := g.Fingerprints(t, "one")[0], g.Fingerprints(t, "two")[0]

	for _, tc := range []struct {
		name     string
		signedBy []string
		data     []byte
		bad      string
	}{
		{name: "default keyrings", data: signedOne},
		{name: "default keyrings, subkey", data: signedSub},
		{name: "path", signedBy: []string{"/k/one.gpg"}, data: signedOne},
		{name: "path of other keys", signedBy: []string{"/k/one.gpg"}, data: signedSub, bad: "no key of this source"},
		{name: "two armored blocks", signedBy: []string{"/k/both.asc"}, data: signedOne},
		{name: "fingerprint", signedBy: []string{one}, data: signedOne},
		{name: "fingerprint in lower case", signedBy: []string{strings.ToLower(one)}, data: signedOne},
		{name: "another fingerprint", signedBy: []string{two}, data: signedOne, bad: "no key of this source"},
		{name: "one of two fingerprints", signedBy: []string{two, one}, data: signedOne},
		{name: "fingerprint of the primary key, signed by the subkey", signedBy: []string{both[0]}, data: signedSub},
		{name: "exactly the primary key, signed by the subkey", signedBy: []string{both[0] + "!"}, data: signedSub, bad: "no key of this source"},
		{name: "exactly the subkey", signedBy: []string{both[1] + "!"}, data: signedSub},
		{name: "subkey without the mark", signedBy: []string{both[1]}, data: signedSub},
		{name: "key block", signedBy: []string{string(armored("one"))}, data: signedOne},
		{name: "key block of another", signedBy: []string{string(armored("two"))}, data: signedOne, bad: "no key of this source"},
		{name: "path and fingerprint", signedBy: []string{"/k/both.asc", two}, data: signedOne, bad: "no key of this source"},
		{name: "two signatures, the first known", signedBy: []string{"/k/one.gpg"}, data: signedTwice},
		{name: "two signatures, the second known", signedBy: []string{two}, data: signedTwice},
		{name: "no such path", signedBy: []string{"/k/none.gpg"}, bad: "none.gpg"},
		{name: "empty keyring", signedBy: []string{"/k/empty.gpg"}, bad: "no keyring holds a key"},
		{name: "broken keyring", signedBy: []string{"/k/broken.gpg"}, bad: "broken.gpg"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ring, err := loadKeyring(tc.signedBy, root)
			if err == nil {
				var got []byte
				got, err = verifyClearsigned(tc.data, ring, time.Now().Add(time.Second))
				if err == nil {
					require.Equal(t, string(text), string(got), "the parsed text is the signed text")
				}
			}
			if tc.bad != "" {
				require.ErrorContains(t, err, tc.bad)
				return
			}
			require.NoError(t, err)
		})
	}
}

// TestKeySignedAgain is the life of a real archive key: its time is prolonged,
// and the keyring then holds only the new self-signature, which is younger than
// the index.
func TestKeySignedAgain(t *testing.T) {
	t.Parallel()
	g := lab.NewGnuPG(t)
	longAgo := time.Now().AddDate(-2, 0, 0)
	g.Key(t, longAgo, "old", "ed25519", "sign,cert", "3y")
	signed := g.Run(t, time.Now().AddDate(-1, 0, 0), []byte("text\n"), "--local-user", "old@test", "--clearsign")
	g.Run(t, time.Now().AddDate(0, 0, -1), nil, "--quick-set-expire", g.Fingerprints(t, "old")[0], "4y")
	keys, err := parseKeys(g.Run(t, time.Time{}, nil, "--export-options", "export-minimal", "--export", "old@test"))
	require.NoError(t, err)
	_, err = verifyClearsigned(signed, keyring{entities: keys}, time.Now())
	require.NoError(t, err)
	// Two years later it has expired.
	_, err = verifyClearsigned(signed, keyring{entities: keys}, time.Now().AddDate(4, 0, 0))
	require.Error(t, err)
}

func TestSplitClearsigned(t *testing.T) {
	t.Parallel()
	sig := beginSignature + "\n\nabcd\n" + endSignature
	for _, tc := range []struct{ name, in, text, bad string }{
		{name: "plain", in: beginMessage + "\nHash: SHA256\n\na\nb\n" + sig + "\n", text: "a\nb"},
		{name: "no line end at the end", in: beginMessage + "\n\na\n" + sig, text: "a"},
		{name: "empty text", in: beginMessage + "\n\n" + sig, text: ""},
		{name: "one empty line", in: beginMessage + "\n\n\n" + sig, text: ""},
		{name: "escapes and blanks", in: beginMessage + "\n\n- -x \t\n- - y\n" + sig, text: "-x\n- y"},
		{name: "headers with a blank line that is not empty", in: beginMessage + "\nHash: SHA256\n \na\n" + sig, bad: "header"},
		{name: "two signatures blocks", in: beginMessage + "\n\na\n" + sig + "\n" + sig, bad: "follows"},
		{name: "text in the signature", in: beginMessage + "\n\na\n" + beginSignature + "\n-----BEGIN X\n" + endSignature, bad: "more than one"},
		{name: "end without begin", in: beginMessage + "\n\na\n" + endSignature, bad: "cut off"},
		{name: "begin line with more", in: beginMessage + " \n\na\n" + sig, bad: "not a signed message"},
		{name: "end line with more", in: beginMessage + "\n\na\n" + sig + " ", bad: "follows"},
		{name: "form feed", in: beginMessage + "\n\na\fb\n" + sig, bad: "control"},
		{name: "nothing", in: "", bad: "not a signed message"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			text, got, err := splitClearsigned([]byte(tc.in))
			if tc.bad != "" {
				require.ErrorContains(t, err, tc.bad)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.text, string(text))
			require.Equal(t, sig, strings.TrimSuffix(string(got), "\n"))
		})
	}
}

func FuzzClearsigned(f *testing.F) {
	f.Add([]byte(beginMessage + "\nHash: SHA256\n\na\n- -b\n" + beginSignature + "\n\nabcd\n" + endSignature + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, sig, err := splitClearsigned(data)
		if err != nil {
			return
		}
		require.Equal(t, 1, bytes.Count(sig, []byte("-----BEGIN")))
		require.LessOrEqual(t, len(text)+len(sig), len(data))
		_, err = verifyClearsigned(data, keyring{}, time.Now())
		require.Error(t, err)
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Suite: s\nDate: Mon, 23 Nov 2020 10:00:00 UTC\nSHA256:\n " + strings.Repeat("0", 64) + " 12 main/binary-amd64/Packages\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err != nil {
			return
		}
		require.False(t, r.Date.IsZero())
		for _, file := range r.files {
			require.True(t, isSHA256(file.SHA256))
		}
		_, _ = r.packagesFiles(entry{Suite: "s", Components: []string{"main"}}, "amd64")
	})
}

func TestParseDate(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Sat, 11 Jul 2026 10:16:37 UTC":   "2026-07-11T10:16:37Z",
		"Sat, 11 Jul 2026 10:16:37 GMT":   "2026-07-11T10:16:37Z",
		"Sat, 11 Jul 2026 10:16:37 +0000": "2026-07-11T10:16:37Z",
		"Sat, 11 Jul 2026 12:16:37 +0200": "2026-07-11T10:16:37Z",
		"Sat, 1 Aug 2026 01:02:03 UTC":    "2026-08-01T01:02:03Z",
		"Sat, 01 Aug 2026 1:2:3 UTC":      "2026-08-01T01:02:03Z",
		"Sat, 11 Jul 2026 10:16:37 CET":   "",
		"2026-07-11":                      "",
		"":                                "",
	} {
		t.Run(in, func(t *testing.T) {
			got, err := parseDate(in)
			if want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, want, got.Format(time.RFC3339))
		})
	}
}

func TestReleaseFiles(t *testing.T) {
	t.Parallel()
	mk := func(more string, files ...string) *release {
		text := "Suite: s\nDate: Mon, 23 Nov 2020 10:00:00 UTC\n" + more + "SHA256:\n"
		for i, f := range files {
			text += fmt.Sprintf(" %064d %d %s\n", i, i+1, f)
		}
		r, err := parseRelease([]byte(text))
		require.NoError(t, err)
		return r
	}
	names := func(r *release, e entry) string {
		files, missing := r.packagesFiles(e, "amd64")
		var out []string
		for _, f := range files {
			out = append(out, f.Name)
		}
		for _, m := range missing {
			out = append(out, "!"+m)
		}
		return strings.Join(out, " ")
	}
	e := entry{Suite: "s", Components: []string{"main", "extra"}}
	require.Equal(t, "main/binary-amd64/Packages.xz !extra", names(mk("", "main/binary-amd64/Packages", "main/binary-amd64/Packages.gz", "main/binary-amd64/Packages.xz"), e))
	require.Equal(t, "main/binary-amd64/Packages.zst extra/binary-amd64/Packages", names(mk("", "main/binary-amd64/Packages", "main/binary-amd64/Packages.zst", "main/binary-amd64/Packages.xz", "extra/binary-amd64/Packages"), e))
	both := []string{"main/binary-amd64/Packages", "main/binary-all/Packages"}
	e.Components = []string{"main"}
	require.Equal(t, "main/binary-amd64/Packages", names(mk("Architectures: amd64\n", both...), e))
	require.Equal(t, "main/binary-amd64/Packages main/binary-all/Packages", names(mk("Architectures: all amd64\n", both...), e))
	require.Equal(t, "main/binary-amd64/Packages", names(mk("Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\n", both...), e))
	require.Equal(t, "Packages.gz", names(mk("", "Packages", "Packages.gz"), entry{Suite: "./"}))
	require.Equal(t, "!Packages", names(mk("", "Packages.gz"), entry{Suite: "./"}), "how much may come out of it?")

	require.Equal(t, 500, mk("").priority())
	require.Equal(t, 1, mk("NotAutomatic: yes\n").priority())
	require.Equal(t, 100, mk("NotAutomatic: yes\nButAutomaticUpgrades: yes\n").priority())
}

func TestPins(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", 40), strings.Repeat("B", 40)
	uri := func(s string) entry {
		u, err := url.Parse(s)
		require.NoError(t, err)
		return entry{URI: u}
	}
	pins, err := parsePins([]string{a, "https://deb.example.org/debian/=" + b + "!"})
	require.NoError(t, err)
	all, own := fingerprint{strings.ToUpper(a), false}, fingerprint{b, true}
	require.Equal(t, []fingerprint{own}, pinsOf(pins, uri("https://deb.example.org/debian/")))
	require.Equal(t, []fingerprint{own}, pinsOf(pins, uri("https://user:pass@deb.example.org/debian/more/")))
	require.Equal(t, []fingerprint{all}, pinsOf(pins, uri("https://deb.example.org/debian-other/")))
	require.Empty(t, pinsOf(nil, uri("https://deb.example.org/")))
	for _, bad := range []string{"", "abc", a[1:], "deb.example.org=" + a, "https://x=" + a[1:], a + "!!"} {
		_, err := parsePins([]string{bad})
		require.ErrorIs(t, err, ErrSources, bad)
	}
	dir := t.TempDir()
	list := filepath.Join(dir, "x.list")
	require.NoError(t, os.WriteFile(list, []byte("deb http://deb.example.org/debian stable main\n"), 0o644))
	o := AptOptions{SourcesFiles: []string{list}, CacheDir: filepath.Join(dir, "cache"), StateDir: filepath.Join(dir, "state"), Keys: []string{"http://deb.example.com=" + a}}
	_, err = OpenApt(o)
	require.ErrorContains(t, err, "no apt source begins so", "a pin that holds nothing")
}

// TestSignatureBlockIsStrict: nothing but base64 and its checksum may stand in
// the block, and the checksum must be right, as GnuPG has it.
func TestSignatureBlockIsStrict(t *testing.T) {
	t.Parallel()
	g := lab.NewGnuPG(t)
	g.Key(t, time.Time{}, "one", "ed25519", "sign,cert", "never")
	keys, err := parseKeys(g.Export(t, "one"))
	require.NoError(t, err)
	signed := string(g.Run(t, time.Time{}, []byte("text\n"), "--local-user", "one@test", "--clearsign"))
	ring, now := keyring{entities: keys}, time.Now().Add(time.Second)
	_, err = verifyClearsigned([]byte(signed), ring, now)
	require.NoError(t, err)
	sum := strings.LastIndex(signed, "\n=")
	require.Positive(t, sum)
	other := byte('A')
	if signed[sum+2] == other {
		other = 'B'
	}
	_, err = verifyClearsigned([]byte(signed[:sum+2]+string(other)+signed[sum+3:]), ring, now)
	require.ErrorContains(t, err, "checksum")
	for _, junk := range []string{"Suite: evil\n", "\n", "=AAAA\n", "- x\n"} {
		_, err = verifyClearsigned([]byte(strings.Replace(signed, endSignature, junk+endSignature, 1)), ring, now)
		require.Error(t, err, junk)
	}
	// Without a checksum, as RFC 9580 would have it.
	_, err = verifyClearsigned([]byte(signed[:sum+1]+endSignature+"\n"), ring, now)
	require.NoError(t, err)
}
