package event

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in string
		max      int
		want     string
	}{
		{"plain", "cannot stop nginx: 3 processes still run", 100, "cannot stop nginx: 3 processes still run"},
		{"empty", "", 10, ""},
		{"letters of the world", "größer 日本語 здравствуйте 👍", 100, "größer 日本語 здравствуйте 👍"},
		{"lines and tabs", "a\nb\r\nc\td\re", 100, "a b c d e"},
		{"separators of Unicode", "a\u2028b\u2029c\u0085d", 100, "a b c d"},
		{"end of line", "done\r\n\n", 100, "done"},
		{"colour", "\x1b[1;31mred\x1b[0m", 100, "red"},
		{"8-bit colour", "\u009b31mred\u009b0m", 100, "red"},
		{"title by BEL", "a\x1b]0;owned\ab", 100, "ab"},
		{"title by ST", "a\x1b]0;owned\x1b\\b", 100, "ab"},
		{"8-bit title", "a\u009d0;owned\u009cb", 100, "ab"},
		{"link", "\x1b]8;;http://evil/\x1b\\safe\x1b]8;;\x1b\\", 100, "safe"},
		{"a string that never ends hides nothing", "a\x1b]0;the cause", 100, "a0;the cause"},
		{"a string broken off by a line hides nothing", "a\x1b]0;x\nthe cause\a", 100, "a0;x the cause"},
		{"device control", "a\x1bP1$r0m\x1b\\b", 100, "ab"},
		{"character set", "a\x1b(0b", 100, "ab"},
		{"reset", "a\x1bcb", 100, "ab"},
		{"index", "a\x1bDb", 100, "ab"},
		{"lone escape", "a\x1b", 100, "a"},
		{"two escapes", "a\x1b\x1b[2Jb", 100, "ab"},
		{"a sequence in a sequence", "\x1b[\x1b[31m31mx", 100, "31mx"},
		{"a sequence over a letter", "\x1b[é", 100, "é"},
		{"bell, backspace, null, delete", "a\ab\bc\x00d\x7fe", 100, "abcde"},
		{"direction", "exe.\u202egpj\u202c \u2066x\u2069\u200f\u061c", 100, "exe.gpj x"},
		{"no width", "a\u200bb\u200dc\ufeffd\u00ade\u2060f\u3164g\U000e0041h\ufe0fi", 100, "abcdefghi"},
		{"not UTF-8", "a\xff\xfeb\xc3", 100, "a\ufffd\ufffdb\ufffd"},
		{"raw 8-bit control", "a\x9b31mb", 100, "a\ufffd31mb"},
		{"at the cap", "12345", 5, "12345"},
		{"over the cap", "123456", 5, "1234…"},
		{"over the cap, in runes", "äöüßéè", 5, "äöüß…"},
		{"cap of one", "ab", 1, "…"},
		{"what is dropped does not count", "\x1b[31m12345\x1b[0m", 5, "12345"},
		{"no cap named", strings.Repeat("x", DefaultMax+1), 0, strings.Repeat("x", DefaultMax-1) + "…"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, Clean(c.in, c.max))
		})
	}
}

func TestCleanLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, in string
		n        int
		want     []string
	}{
		{"none", "", 3, nil},
		{"no room", "a\nb", 0, nil},
		{"one", "a", 3, []string{"a"}},
		{"ends", "a\r\nb\rc\n", 5, []string{"a", "b", "c"}},
		{"the last ones", "a\nb\nc\nd\n", 2, []string{"c", "d"}},
		{"empty in between and at the end", "a\n\nb\n\n\n", 5, []string{"a", "", "b"}},
		{"indented", "  a\n\tb", 5, []string{"  a", " b"}},
		{"cleaned and cut", "\x1b[31m1234567\n", 5, []string{"12345…"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, CleanLines(c.in, c.n, 6))
		})
	}
}

// A flood of openings that never end must cost what its length costs.
func TestCleanFlood(t *testing.T) {
	t.Parallel()
	for _, flood := range []string{"\x1b]", "\u009d", "\x1b[", "\x1bP0", "\u200b", "\r"} {
		got := Clean(strings.Repeat(flood, 1<<19)+"\nend", 1<<21)
		require.True(t, strings.HasSuffix(got, "end"), "%q", flood)
	}
	require.Len(t, CleanLines(strings.Repeat("x\r\n", 1<<19), 1<<19, 10), 1<<19)
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b[31mx\x1b]0;t\a", "\u202ex\xff", "\x1b\x1b[é", "\r\r\n\n", "a \u200b"} {
		f.Add(s, 7)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		max = max&0x3ff + 1
		got := Clean(s, max)
		check := func(got string) {
			require.True(t, utf8.ValidString(got))
			require.LessOrEqual(t, utf8.RuneCountInString(got), max)
			for _, r := range got {
				require.False(t, unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs), "%U", r)
				require.False(t, unicode.In(r, unicode.Zl, unicode.Zp), "%U", r)
			}
			require.Equal(t, got, Clean(got, max), "cleaning twice")
		}
		check(got)
		lines := CleanLines(s, 5, max)
		require.LessOrEqual(t, len(lines), 5)
		for _, line := range lines {
			check(line)
		}
	})
}
