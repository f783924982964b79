package phpconf

import "bytes"

// valueRun is the length of the piece of an unquoted value that begins at the
// cursor. A dollar takes the next character with it.
func (s *scanner) valueRun(stop func(byte) bool, escapes bool) int {
	n := 0
	for {
		c := s.at(n)
		switch {
		case s.pos+n >= len(s.data):
			return n
		case c == '$':
			if next := s.at(n + 1); next == '{' || next == 0 {
				return n
			}
			if s.at(n+1) == '\\' && s.at(n+2) != 0 {
				n++
			}
			n += 2
		case c == '\\' && escapes:
			if s.at(n+1) == 0 {
				return n
			}
			n += 2
		case stop(c):
			return n
		default:
			n++
		}
	}
}

func endsValue(c byte) bool {
	switch c {
	case '=', ' ', '\t', '\n', '\r', ';', '&', '|', '^', '~', '(', ')', '!', '"', '\'', 0:
		return true
	}
	return false
}

func (s *scanner) nextValue() (token, bool) {
	if t, ok := s.statementEnd(); ok {
		return t, true
	}
	n := s.valueRun(endsValue, false)
	if t, ok := s.boolean(n); ok {
		return t, true
	}
	if n > 0 {
		kind := tokText
		if c := s.at(0); !isDigit(c) && s.run(0, isWord) == n {
			kind = tokName
		}
		return s.take(kind, n), true
	}
	if t, ok := s.common(); ok {
		return t, true
	}
	switch s.at(0) {
	case '=':
		// Not allowed, and not eaten: the statement ends here.
		s.mode = inName
		return token{kind: tokNewline, pos: s.pos}, true
	case '\'':
		// Two in a row are the empty value, and end the statement: what
		// follows on that line is another one, that begins with a quote.
		if s.at(1) == '\'' {
			s.mode = inName
			return s.take(tokNewline, 1), true
		}
	case '&', '|', '^', '~', '(', ')', '!':
		t := s.take(tokOperator, 1)
		s.pos += s.run(0, isBlank)
		return t, true
	}
	return s.stop(), true
}

// stop is what a character gives that no rule knows: the file ends there.
func (s *scanner) stop() token {
	t := token{kind: tokEnd, pos: s.pos}
	s.pos, s.mode = len(s.data), inName
	return t
}

// common reads what values, sections and indexes share.
func (s *scanner) common() (token, bool) {
	blanks := s.run(0, isBlank)
	switch {
	case s.at(blanks) == '"':
		t := s.take(tokQuote, blanks+1)
		s.enter(inQuotes)
		return t, true
	case blanks > 0:
		return s.take(tokText, blanks), true
	case s.at(0) == '$' && s.at(1) == '{':
		t := s.take(tokVar, 2)
		s.enter(inVar)
		return t, true
	case s.at(0) == '\'':
		end := bytes.IndexByte(s.data[s.pos+1:], '\'')
		if end <= 0 {
			return token{}, false
		}
		t := s.take(tokText, end+2)
		t.text = t.text[1 : len(t.text)-1]
		return t, true
	}
	return token{}, false
}

func endsBracket(c byte) bool {
	switch c {
	case '\n', '\r', ';', '"', '\'', ']', 0:
		return true
	}
	return false
}

func (s *scanner) nextBracket() (token, bool) {
	blanks := s.run(0, isBlank)
	if s.mode == inOffset && s.at(blanks) == ']' || s.at(0) == ']' {
		if s.mode == inSection {
			blanks = 0
		}
		t := s.take(tokClose, blanks+1)
		if s.mode == inSection {
			s.pos += s.run(0, isBlank)
			s.pos += s.newline(0)
		}
		s.mode = inName
		return t, true
	}
	if s.at(blanks) == '"' {
		return s.common()
	}
	n := s.valueRun(endsBracket, true)
	if n > 0 {
		kind := tokText
		if c := s.at(0); s.mode == inOffset && !isDigit(c) && s.run(0, isWord) == n {
			kind = tokName
		}
		return s.take(kind, n), true
	}
	if t, ok := s.common(); ok {
		return t, true
	}
	return s.stop(), true
}

func (s *scanner) nextQuoted() token {
	if s.at(0) == '"' {
		t := s.take(tokQuote, 1)
		s.pos += s.run(0, isBlank)
		s.leave()
		return t
	}
	if s.at(0) == '$' && s.at(1) == '{' {
		t := s.take(tokVar, 2)
		s.enter(inVar)
		return t
	}
	n := 0
	for s.pos+n < len(s.data) {
		c, next := s.at(n), s.at(n+1)
		if n > 0 && (c == '"' || c == '$' && next == '{') {
			break
		}
		n++
		switch {
		case c != '\\' || s.pos+n >= len(s.data):
		case next != '"':
			n++
		case s.newline(n+1) > 0 || s.pos+n+1 >= len(s.data):
			// The quote that ends the line ends the text: that backslash is
			// a folder's, on another system.
		default:
			n++
		}
	}
	t := s.take(tokQuoted, min(n, len(s.data)-s.pos))
	t.text = unquote(t.text)
	return t
}

// unquote resolves \" \\ and \$; any other backslash stays.
func unquote(text string) string {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			switch text[i+1] {
			case '"', '\\', '$':
				i++
			}
		}
		out = append(out, text[i])
	}
	return string(out)
}

func (s *scanner) nextVar() token {
	if n := s.run(0, isLabel); n > 0 {
		if i := bytes.Index(s.data[s.pos:s.pos+n], []byte(":-")); i == 0 {
			t := s.take(tokElse, 2)
			s.mode = inElse
			return t
		} else if i > 0 {
			n = i
		}
		return s.take(tokVarName, n)
	}
	if s.at(0) == '}' {
		t := s.take(tokVarEnd, 1)
		s.leave()
		return t
	}
	return s.stop()
}

func endsElse(c byte) bool {
	switch c {
	case '\n', '\r', ';', '"', '\'', '}', 0:
		return true
	}
	return false
}

func (s *scanner) nextElse() token {
	if s.at(0) == '}' {
		t := s.take(tokVarEnd, 1)
		s.leave()
		return t
	}
	n := s.valueRun(endsElse, true)
	if s.at(s.run(0, isBlank)) != '"' && n > 0 {
		kind := tokText
		if c := s.at(0); !isDigit(c) && s.run(0, isWord) == n {
			kind = tokName
		}
		return s.take(kind, n)
	}
	if s.at(0) != '\'' {
		if t, ok := s.common(); ok {
			return t
		}
	}
	return s.stop()
}
