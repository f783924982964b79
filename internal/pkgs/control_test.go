package pkgs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// paragraphs reads control data into lists of "name=value".
func paragraphs(r io.Reader, lim Limits) (all [][]string, err error) {
	err = ReadParagraphs(r, lim, func(p Paragraph) error {
		var fields []string
		for _, n := range p.Fields() {
			fields = append(fields, n+"="+p.Get(n))
		}
		all = append(all, fields)
		return nil
	})
	return all, err
}

func TestReadParagraphs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		want [][]string
	}{
		{"", nil},
		{"\n\n \n\t\n", nil},
		{"A: 1", [][]string{{"A=1"}}},
		{"A: 1\n", [][]string{{"A=1"}}},
		{"A:1\nB:\t 2 \t\n", [][]string{{"A=1", "B=2"}}},
		{"A: 1\n\nA: 2\n\n\n\nA: 3", [][]string{{"A=1"}, {"A=2"}, {"A=3"}}},
		{"A: 1\n \nB: 2\n", [][]string{{"A=1"}, {"B=2"}}},
		{"A:\nB:", [][]string{{"A=", "B="}}},
		{"A: b: c:d\n", [][]string{{"A=b: c:d"}}},
		{"D: short\n long\n .\n\tmore  \nE: x\n", [][]string{{"D=short\n long\n .\n\tmore", "E=x"}}},
		{"D:\n one\n two", [][]string{{"D=\n one\n two"}}},
		{"A: 1\r\nB: 2\r\n", [][]string{{"A=1", "B=2"}}},
		{"A: 1\r\n\r\nA: 2\n \r\n", [][]string{{"A=1"}, {"A=2"}}},
		{"A: \xff\x1b[0m\n", [][]string{{"A=\xff\x1b[0m"}}}, // bytes are the caller's
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
			got, err := paragraphs(r, Limits{})
			require.NoError(t, err, "%q", c.in)
			require.Equal(t, c.want, got, "%q", c.in)
		}
	}
}

func TestComments(t *testing.T) {
	t.Parallel()
	in := "# head\n\n# more\nTypes: deb\n# about\nURIs:\n one\n# between\n two\n# and\n#\n three  \nSuites: x\n# tail\n"
	for _, r := range []io.Reader{strings.NewReader(in), iotest.OneByteReader(strings.NewReader(in))} {
		got, err := paragraphs(r, Limits{Comments: true})
		require.NoError(t, err)
		require.Equal(t, [][]string{{"Types=deb", "URIs=\n one\n two\n three", "Suites=x"}}, got)
	}
	_, err := paragraphs(strings.NewReader(in), Limits{})
	require.ErrorContains(t, err, "line 1")
}

func TestLookup(t *testing.T) {
	t.Parallel()
	n := 0
	require.NoError(t, ReadParagraphs(strings.NewReader("\n\nPackage: nginx\nMULTI-Arch: foreign\nEmpty:\n"), Limits{}, func(p Paragraph) error {
		n++
		require.Equal(t, "nginx", p.Get("package"))
		require.Equal(t, "nginx", p.Get("PACKAGE"))
		require.Equal(t, "foreign", p.Get("Multi-Arch"))
		require.True(t, p.Has("empty"))
		require.False(t, p.Has("Emptyx"))
		require.Equal(t, "", p.Get("absent"))
		require.Equal(t, 3, p.Line())
		return nil
	}))
	require.Equal(t, 1, n)
}

func TestBadParagraphs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		" A: 1\n":              "line 1: a continuation without a field",
		"A: 1\n\n x\n":         "line 3: a continuation without a field",
		"A: 1\nnonsense\n":     `line 2: no colon in "nonsense"`,
		"A: 1\na: 2\n":         `line 2: field "a" twice`,
		": x\n":                "bad field name",
		"A B: x\n":             "bad field name",
		"-A: x\n":              "bad field name",
		"#A: x\n":              "bad field name",
		"\xc3\xa9: x\n":        "bad field name",
		"A\x1b: x\n":           `bad field name "A\x1b"`,
		"A: x\x00y\n":          "line 1: NUL byte",
		"A: x\n \x00\n":        "line 2: NUL byte",
		"<html>hello</html>\n": "no colon",
	} {
		_, err := paragraphs(strings.NewReader(in), Limits{})
		require.ErrorContains(t, err, want, "%q", in)
	}
}

func TestControlLimits(t *testing.T) {
	t.Parallel()
	endless := func(s string) io.Reader { return &endlessTar{next: func(int) []byte { return []byte(s) }} }
	counted := func(format string) io.Reader {
		return &endlessTar{next: func(i int) []byte { return fmt.Appendf(nil, format, i) }}
	}
	for want, r := range map[string]io.Reader{
		"longer than 262144 bytes":   endless("x"),
		"longer than 262144 bytes ":  io.MultiReader(strings.NewReader("A: "), endless("x")),
		"more than 256 fields":       counted("F%d: x\n"),
		"larger than 1048576 bytes":  io.MultiReader(strings.NewReader("A: x\n"), endless(" continued\n")),
		"more than 1000000 paragr":   endless("A: x\n\n"),
		"more than 10000000 bytes":   endless("\n"),
		"more than 10000000 bytes ":  endless("# comment\n"),
		"larger than 1048576 bytes ": io.MultiReader(strings.NewReader("A: x\n"), endless("# comment\n")),
	} {
		_, err := paragraphs(r, Limits{Output: 10_000_000, Comments: true})
		require.ErrorContains(t, err, strings.TrimSpace(want))
	}
	// To the byte.
	line := "A: " + strings.Repeat("x", 97)
	_, err := paragraphs(strings.NewReader(line+"\n"), Limits{Line: 100})
	require.NoError(t, err)
	_, err = paragraphs(strings.NewReader(line), Limits{Line: 100})
	require.NoError(t, err)
	_, err = paragraphs(strings.NewReader(line+"\n"), Limits{Line: 99})
	require.ErrorContains(t, err, "line 1 is longer than 99 bytes")
	_, err = paragraphs(strings.NewReader(line+"\n x\n"), Limits{Paragraph: 104})
	require.NoError(t, err)
	_, err = paragraphs(strings.NewReader(line+"\n xxx\n"), Limits{Paragraph: 104})
	require.ErrorContains(t, err, "larger than 104")
	_, err = paragraphs(iotest.ErrReader(io.ErrClosedPipe), Limits{})
	require.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = paragraphs(stuck{}, Limits{})
	require.ErrorIs(t, err, io.ErrNoProgress)
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestCallersErrorEndsTheReading(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	n := 0
	err := ReadParagraphs(strings.NewReader("A: 1\n\nA: 2\n"), Limits{}, func(Paragraph) error { n++; return mine })
	require.Equal(t, mine, err)
	require.Equal(t, 1, n)
}

func stanzaOf(text string) (s Stanza, err error) {
	err = ReadParagraphs(strings.NewReader(text), Limits{}, func(p Paragraph) (err error) {
		s, err = ParseStanza(p)
		return err
	})
	return s, err
}

func TestParseStanza(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("0a", 32)
	s, err := stanzaOf("Package: nginx\nSOURCE: nginx-src (1.22)\nVersion: 1.22.1-9\nArchitecture: amd64\nMulti-Arch: foreign\nEssential: yes\n" +
		"Section: httpd\nDepends: libc6 (>= 2.34),\n libssl3\nPre-Depends: a1\nProvides: httpd\nConflicts: b1\nBreaks: c1\nReplaces: d1\n" +
		"Filename: pool/main/n/nginx/nginx_1.22.1-9_amd64.deb\nSize: 532468\nInstalled-Size: 1500\nSHA256: " + strings.ToUpper(sum) + "\nAnother-Rather-Long-Field-Name: x\n")
	require.NoError(t, err)
	require.Equal(t, Stanza{
		Package: "nginx", Source: "nginx-src", SourceVersion: "1.22", Version: "1.22.1-9", Architecture: "amd64", MultiArch: "foreign", Essential: true,
		Section: "httpd", Depends: "libc6 (>= 2.34),\n libssl3", PreDepends: "a1", Provides: "httpd", Conflicts: "b1", Breaks: "c1", Replaces: "d1",
		Filename: "pool/main/n/nginx/nginx_1.22.1-9_amd64.deb", Size: 532468, InstalledSize: 1500, SHA256: sum,
	}, s)
	require.NoError(t, s.Fetchable())
	require.Equal(t, "nginx-src", s.SourceName())

	s, err = stanzaOf("Package: a1\nVersion: 1\nArchitecture: all\nSource: a1 (1)\n")
	require.NoError(t, err)
	require.Equal(t, Stanza{Package: "a1", Version: "1", Architecture: "all"}, s)
	require.Equal(t, "a1", s.SourceName())
	require.ErrorContains(t, s.Fetchable(), "file name")
	s.Filename = "x.deb"
	require.ErrorContains(t, s.Fetchable(), "SHA-256")
	s.SHA256 = sum
	require.ErrorContains(t, s.Fetchable(), "size")
}

func TestBadStanzas(t *testing.T) {
	t.Parallel()
	base := map[string]string{"Package": "good", "Version": "1", "Architecture": "all"}
	for _, c := range []struct{ field, value, err string }{
		{"Package", "", "Package: missing"}, {"Package", "a", "no package name"}, {"Package", "Upper", "no package name"},
		{"Package", "../x", "no package name"}, {"Package", "a/b", "no package name"}, {"Package", "-rf", "no package name"},
		{"Package", "a b", "no package name"}, {"Package", "a\n b", "no package name"}, {"Package", "a\x1bb", "no package name"},
		{"Package", strings.Repeat("a", 201), "no package name"},
		{"Version", "", "Version"}, {"Version", "x", "Version"}, {"Version", "1/../2", "Version"}, {"Version", "1 2", "Version"},
		{"Architecture", "", "Architecture"}, {"Architecture", "any", "Architecture"}, {"Architecture", "amd64 arm64", "Architecture"},
		{"Architecture", "AMD64", "Architecture"}, {"Architecture", "../x", "Architecture"}, {"Architecture", "source", "Architecture"},
		{"Source", "A", "Source"}, {"Source", "ab cd", "Source"}, {"Source", "ab (x)", "Source"}, {"Source", "ab (1", "Source"}, {"Source", "ab ()", "Source"},
		{"Multi-Arch", "maybe", "Multi-Arch"}, {"Essential", "perhaps", "Essential"},
		{"Size", "-1", "Size"}, {"Size", "+1", "Size"}, {"Size", "1.5", "Size"}, {"Size", "0x10", "Size"}, {"Size", "99999999999999999999", "Size"}, {"Size", "9223372036854775808", "Size"},
		{"Installed-Size", "-5", "Installed-Size"},
		{"SHA256", "abc", "SHA256"}, {"SHA256", strings.Repeat("g", 64), "SHA256"}, {"SHA256", strings.Repeat("a", 65), "SHA256"},
		{"Filename", "/etc/passwd", "Filename"}, {"Filename", "../x.deb", "Filename"}, {"Filename", "pool/../../x.deb", "Filename"}, {"Filename", "pool/..", "Filename"},
		{"Filename", "pool//x.deb", "Filename"}, {"Filename", "pool/./x.deb", "Filename"}, {"Filename", "././x.deb", "Filename"}, {"Filename", ".", "Filename"}, {"Filename", "./", "Filename"},
		{"Filename", "pool/%2e%2e/x.deb", "escape"}, {"Filename", "pool/%2E./x.deb", "escape"}, {"Filename", "pool%2fx.deb", "escape"}, {"Filename", "pool/%252e/x.deb", "escape"},
		{"Filename", "pool/%00x.deb", "escape"}, {"Filename", "pool/x.deb%", "half an escape"}, {"Filename", "pool/x.deb%2", "half an escape"},
		{"Filename", `pool\..\x.deb`, "character"}, {"Filename", "pool/x y.deb", "character"}, {"Filename", "pool/x\x1b.deb", "character"}, {"Filename", "x.deb?y", "character"}, {"Filename", "x.deb#y", "character"},
		{"Filename", "http://elsewhere/x.deb", "Filename"}, {"Filename", strings.Repeat("a/", 600) + "x", "Filename"}, {"Filename", strings.Repeat("a", 256), "Filename"},
	} {
		var b strings.Builder
		for k, v := range base {
			if k != c.field {
				fmt.Fprintf(&b, "%s: %s\n", k, v)
			}
		}
		fmt.Fprintf(&b, "%s: %s\n", c.field, c.value)
		_, err := stanzaOf(b.String())
		require.ErrorContains(t, err, c.err, "%s: %q", c.field, c.value)
		require.NotContains(t, err.Error(), "\x1b")
		require.Less(t, len(err.Error()), 300)
	}
	for _, f := range []string{"./x.deb", "pool/x_1%3a2+b~1.deb", "pool/x_1:2.deb", "a..b/c...d"} {
		_, err := stanzaOf("Package: good\nVersion: 1\nArchitecture: all\nFilename: " + f + "\n")
		require.NoError(t, err, f)
	}
	_, err := stanzaOf("Package: good\nVersion: 1\nArchitecture: all\nSize: 9223372036854775807\n")
	require.NoError(t, err)
}

// FuzzControl: no panic, and values that come back the same when they are
// written and read again.
func FuzzControl(f *testing.F) {
	f.Add([]byte(smallControl), false)
	f.Add([]byte("A: 1\n# c\nB:\n x\n# y\n z\n\nC: 1"), true)
	f.Add([]byte("A:\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, comments bool) {
		lim := Limits{Comments: comments, Line: 200, Paragraph: 1000, Fields: 10}
		first, err := paragraphs(bytes.NewReader(in), lim)
		slow, err2 := paragraphs(iotest.OneByteReader(bytes.NewReader(in)), lim)
		require.Equal(t, err == nil, err2 == nil)
		require.Equal(t, first, slow)
		_ = ReadParagraphs(bytes.NewReader(in), lim, func(p Paragraph) error {
			s, err := ParseStanza(p)
			if err == nil {
				require.Equal(t, s.Package, p.Get("Package"))
				require.Equal(t, s.Depends, p.Get("depends"))
			}
			return nil
		})
		if err != nil {
			return
		}
		var b bytes.Buffer
		require.NoError(t, ReadParagraphs(bytes.NewReader(in), lim, func(p Paragraph) error {
			for _, name := range p.Fields() {
				fmt.Fprintf(&b, "%s:%s\n", name, p.Get(name))
			}
			b.WriteString("\n")
			return nil
		}))
		again, err := paragraphs(&b, Limits{})
		require.NoError(t, err)
		require.Equal(t, first, again)
	})
}
