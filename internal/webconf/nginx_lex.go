package webconf

import (
	"bytes"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// The tokens of nginx's configuration language. Its rules, as observed from
// the server: words are parted by blanks; ";" "{" "}" and "#" are special only
// where a word could begin (";" and "{" also end one); a word may be quoted as
// a whole with ' or "; a backslash takes the next character's meaning away;
// "${" within a word does not open a block; after a closing quote a blank,
// ";", "{" or ")" must follow.
type lexer struct {
	data []byte
	pos  int
	line int
}

type tokenKind int

const (
	tokEOF tokenKind = iota
	tokWord
	tokEnd   // ;
	tokOpen  // {
	tokClose // }
)

type token struct {
	kind tokenKind
	text string // of a word, escapes resolved
	line int
}

func newLexer(data []byte) *lexer {
	// Editors of another world leave a byte order mark; nginx skips it since 1.13.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	return &lexer{data: data, line: 1}
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// next returns the next token; the string is a fault's message, "" if none.
func (l *lexer) next() (token, string) {
	l.skip()
	if l.pos >= len(l.data) {
		return token{kind: tokEOF, line: l.line}, ""
	}
	t := token{line: l.line}
	switch c := l.data[l.pos]; c {
	case ';':
		l.pos++
		t.kind = tokEnd
		return t, ""
	case '{':
		l.pos++
		t.kind = tokOpen
		return t, ""
	case '}':
		l.pos++
		t.kind = tokClose
		return t, ""
	case '"', '\'':
		t.kind = tokWord
		var fault string
		t.text, fault = l.quoted(c)
		return t, fault
	}
	t.kind = tokWord
	t.text = l.word()
	return t, ""
}

// skip passes over blanks and comments.
func (l *lexer) skip() {
	for l.pos < len(l.data) {
		switch c := l.data[l.pos]; {
		case c == '\n':
			l.line++
			l.pos++
		case blank(c):
			l.pos++
		case c == '#':
			end := bytes.IndexByte(l.data[l.pos:], '\n')
			if end < 0 {
				l.pos = len(l.data)
				return
			}
			l.pos += end
		default:
			return
		}
	}
}

func (l *lexer) quoted(quote byte) (string, string) {
	start := l.pos + 1
	for i := start; i < len(l.data); i++ {
		switch c := l.data[i]; {
		case c == '\n':
			l.line++
		case c == '\\':
			i++
			if i < len(l.data) && l.data[i] == '\n' {
				l.line++
			}
		case c == quote:
			l.pos = i + 1
			if l.pos < len(l.data) {
				if n := l.data[l.pos]; !blank(n) && n != ';' && n != '{' && n != ')' {
					return "", "unexpected " + conferr.Show(string(n)) + " after a closing quote"
				}
			}
			return unescape(l.data[start:i]), ""
		}
	}
	l.pos = len(l.data)
	return "", "unexpected end of file within quotes"
}

func (l *lexer) word() string {
	start := l.pos
	variable := false
	i := start
	for ; i < len(l.data); i++ {
		c := l.data[i]
		if variable && c == '{' {
			variable = false
			continue
		}
		variable = c == '$'
		if c == '\\' {
			i++
			if i < len(l.data) && l.data[i] == '\n' {
				l.line++
			}
			continue
		}
		if blank(c) || c == ';' || c == '{' {
			break
		}
	}
	i = min(i, len(l.data))
	l.pos = i
	return unescape(l.data[start:i])
}

// unescape resolves what nginx resolves: \" \' \\ \t \r \n. Any other
// backslash stays, for regular expressions.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var s strings.Builder
	s.Grow(len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+1 < len(b) {
			switch b[i+1] {
			case '"', '\'', '\\':
				i++
			case 't':
				i++
				s.WriteByte('\t')
				continue
			case 'r':
				i++
				s.WriteByte('\r')
				continue
			case 'n':
				i++
				s.WriteByte('\n')
				continue
			}
		}
		s.WriteByte(b[i])
	}
	return s.String()
}

// skipLua passes over the body of a "..._by_lua_block {", whose braces,
// quotes and comments are Lua's own. It ends behind the closing brace and
// reports whether there was one.
func (l *lexer) skipLua() bool {
	depth := 1
	for l.pos < len(l.data) {
		c := l.data[l.pos]
		rest := l.data[l.pos:]
		switch {
		case bytes.HasPrefix(rest, []byte("--")):
			l.pos += 2
			if !l.skipLongBracket() {
				end := bytes.IndexByte(l.data[l.pos:], '\n')
				if end < 0 {
					l.pos = len(l.data)
					return false
				}
				l.pos += end
			}
			continue
		case c == '[' && l.skipLongBracket():
			continue
		case c == '"' || c == '\'':
			l.pos++
			for l.pos < len(l.data) && l.data[l.pos] != c && l.data[l.pos] != '\n' {
				if l.data[l.pos] == '\\' {
					l.pos++
					if l.pos < len(l.data) && l.data[l.pos] == '\n' {
						l.line++
					}
				}
				l.pos++
			}
			if l.pos < len(l.data) && l.data[l.pos] == '\n' {
				continue // an unfinished string: Lua's error, not ours
			}
		case c == '\n':
			l.line++
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
		l.pos++
		if depth == 0 {
			return true
		}
	}
	l.pos = len(l.data)
	return false
}

// skipLongBracket passes over [[...]] or [==[...]==] if one stands here.
func (l *lexer) skipLongBracket() bool {
	rest := l.data[l.pos:]
	if len(rest) == 0 || rest[0] != '[' {
		return false
	}
	level := 0
	for 1+level < len(rest) && rest[1+level] == '=' {
		level++
	}
	if 1+level >= len(rest) || rest[1+level] != '[' {
		return false
	}
	closing := []byte("]" + strings.Repeat("=", level) + "]")
	body := rest[level+2:]
	end := bytes.Index(body, closing)
	n := len(rest)
	if end >= 0 {
		n = level + 2 + end + len(closing)
	}
	l.line += bytes.Count(rest[:n], []byte("\n"))
	l.pos += n
	return true
}
