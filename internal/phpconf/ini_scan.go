package phpconf

import "bytes"

// The words of PHP's ini language. The language is not line by line: a quoted
// value may hold line ends, a "$" takes the character after it whatever that
// is, and what a character means depends on what is being read (a name, a
// value, the inside of quotes, of brackets, of "${"). The rules here are those
// of the server as observed: the tests put the same text to a real PHP.
type tokenKind int

const (
	tokEnd      tokenKind = iota // end of the file, or a character that ends it
	tokNewline                   // end of a statement: line end, comment
	tokSection                   // [
	tokClose                     // ] of a section or an index
	tokLabel                     // name of a directive
	tokOffset                    // name[
	tokEquals                    // =
	tokTrue                      // true, on, yes
	tokFalse                     // false, off, no, none
	tokNull                      // null
	tokName                      // a bare word that may be a constant
	tokText                      // a piece of a value
	tokQuote                     // "
	tokQuoted                    // what stands within double quotes
	tokVar                       // ${
	tokVarName                   // the name within ${}
	tokElse                      // :- within ${}
	tokVarEnd                    // }
	tokOperator                  // | & ^ ~ ! ( ) in a value
	tokOther                     // a character that has no place there
)

type token struct {
	kind tokenKind
	text string
	pos  int // offset of its first byte
}

// mode is what the scanner is within.
type mode int

const (
	inName mode = iota
	inValue
	inSection
	inOffset
	inQuotes
	inVar
	inElse
)

type scanner struct {
	data  []byte
	pos   int
	mode  mode
	outer []mode // what inQuotes, inVar and inElse return to
}

func newScanner(data []byte) *scanner {
	return &scanner{data: bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))}
}

func (s *scanner) enter(m mode) {
	s.outer = append(s.outer, s.mode)
	s.mode = m
}

func (s *scanner) leave() {
	s.mode = inName
	if n := len(s.outer); n > 0 {
		s.mode = s.outer[n-1]
		s.outer = s.outer[:n-1]
	}
}

// at is the byte i places further on, and 0 behind the end.
func (s *scanner) at(i int) byte {
	if s.pos+i < len(s.data) {
		return s.data[s.pos+i]
	}
	return 0
}

// run is the number of bytes from place i on for which ok says yes.
func (s *scanner) run(i int, ok func(byte) bool) int {
	n := 0
	for s.pos+i+n < len(s.data) && ok(s.data[s.pos+i+n]) {
		n++
	}
	return n
}

// newline is the length of the line end at place i, or 0.
func (s *scanner) newline(i int) int {
	switch {
	case s.at(i) == '\n':
		return 1
	case s.at(i) == '\r' && s.at(i+1) == '\n':
		return 2
	case s.at(i) == '\r':
		return 1
	}
	return 0
}

func (s *scanner) take(kind tokenKind, n int) token {
	t := token{kind: kind, text: string(s.data[s.pos : s.pos+n]), pos: s.pos}
	s.pos += n
	return t
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func isLabel(c byte) bool {
	switch c {
	case '=', '\n', '\r', '\t', ';', '&', '|', '^', '$', '~', '(', ')', '{', '}', '!', '"', '[':
		return false
	}
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c)
}

// next returns the next word. After the end it returns the end again.
func (s *scanner) next() token {
	for {
		if s.pos >= len(s.data) {
			if s.mode == inValue {
				s.mode = inName
				return token{kind: tokNewline, pos: s.pos}
			}
			return token{kind: tokEnd, pos: s.pos}
		}
		var t token
		var ok bool
		switch s.mode {
		case inName:
			t, ok = s.nextName()
		case inValue:
			t, ok = s.nextValue()
		case inSection, inOffset:
			t, ok = s.nextBracket()
		case inQuotes:
			t, ok = s.nextQuoted(), true
		case inVar:
			t, ok = s.nextVar(), true
		case inElse:
			t, ok = s.nextElse(), true
		}
		if ok {
			return t
		}
	}
}

// statementEnd reads a line end with the blanks and the comment before it. A
// comment on a last line that has no end ends the text.
func (s *scanner) statementEnd() (token, bool) {
	n := s.run(0, isBlank)
	comment := s.at(n) == ';'
	if comment {
		n += s.run(n, func(c byte) bool { return c != '\n' && c != '\r' })
	}
	if s.newline(n) == 0 {
		if comment {
			return s.stop(), true
		}
		return token{}, false
	}
	s.mode = inName
	return s.take(tokNewline, n+s.newline(n)), true
}

// boolean reads true, off, null and their kin with the blanks behind them,
// unless a longer word begins like that.
func (s *scanner) boolean(word int) (token, bool) {
	rest := s.data[s.pos:]
	for _, b := range []struct {
		text string
		kind tokenKind
	}{
		{"true", tokTrue}, {"on", tokTrue}, {"yes", tokTrue},
		{"false", tokFalse}, {"off", tokFalse}, {"no", tokFalse}, {"none", tokFalse}, {"null", tokNull},
	} {
		n := len(b.text)
		if len(rest) < n || !bytes.EqualFold(rest[:n], []byte(b.text)) {
			continue
		}
		n += s.run(n, isBlank)
		if n >= word {
			return s.take(b.kind, n), true
		}
	}
	return token{}, false
}

func (s *scanner) nextName() (token, bool) {
	if t, ok := s.statementEnd(); ok {
		return t, true
	}
	n := s.run(0, isLabel)
	if s.at(n) == '[' && n > 0 {
		t := s.take(tokOffset, n)
		t.text = trimBlanks(t.text)
		s.pos += 1 + s.run(1, isBlank)
		s.mode = inOffset
		return t, true
	}
	word := n
	if s.pos+n == len(s.data) {
		word++ // for PHP the end of the text is one more character of a name
	}
	if t, ok := s.boolean(word); ok {
		return t, true
	}
	blanks := s.run(0, isBlank)
	if s.at(blanks) == '=' {
		t := s.take(tokEquals, blanks+1)
		s.pos += s.run(0, isBlank)
		s.mode = inValue
		return t, true
	}
	switch {
	case n > blanks:
		t := s.take(tokLabel, n)
		t.text = trimBlanks(t.text)
		return t, true
	case blanks > 0:
		s.pos += blanks
		return token{}, false
	case s.at(0) == '[':
		t := s.take(tokSection, 1)
		s.mode = inSection
		return t, true
	}
	return s.take(tokOther, 1), true
}

func trimBlanks(s string) string {
	for s != "" && isBlank(s[0]) {
		s = s[1:]
	}
	for s != "" && isBlank(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}
