package webconf

import "strings"

// shellCommand is a simple command as raw words. Chained tells that "&&", "||"
// or "|" stands on one of its sides.
type shellCommand struct {
	words   []string
	chained bool
}

// splitCommands parts a shell script into simple commands and these into raw
// words, quotes and all. What ends a command (a line, ";", "&", "|") goes, and
// so do comments.
func splitCommands(script string) []shellCommand {
	var all []shellCommand
	var command []string
	after := false // the command follows "&&" and the like
	var word strings.Builder
	inWord := false
	endWord := func() {
		if inWord {
			command = append(command, word.String())
			word.Reset()
			inWord = false
		}
	}
	endCommand := func(chained bool) {
		endWord()
		if len(command) > 0 {
			all = append(all, shellCommand{command, after || chained})
			after = chained
		}
		command = nil
	}
	for i := 0; i < len(script); {
		switch c := script[i]; {
		case c == '\\' && strings.HasPrefix(script[i+1:], "\n"):
			i += 2
			continue
		case c == '\\':
			word.WriteString(script[i:min(i+2, len(script))])
			inWord = true
			i += 2
			continue
		case c == '\'' || c == '"' || c == '`' || c == '$' && i+1 < len(script) && (script[i+1] == '{' || script[i+1] == '('):
			end := quotedEnd(script, i)
			word.WriteString(script[i:end])
			inWord = true
			i = end
			continue
		case c == '#' && !inWord:
			end := strings.IndexByte(script[i:], '\n')
			if end < 0 {
				i = len(script)
			} else {
				i += end
			}
			continue
		case c == '|' || c == '&' && strings.HasPrefix(script[i+1:], "&"):
			endCommand(true)
			if strings.HasPrefix(script[i+1:], script[i:i+1]) {
				i++
			}
		case c == '\n' || c == ';' || c == '&':
			endCommand(false)
		case c == ' ' || c == '\t' || c == '\r':
			endWord()
		default:
			word.WriteByte(c)
			inWord = true
		}
		i++
	}
	endCommand(false)
	return all
}

// quotedEnd is where the quotation, or the substitution, that begins at i ends.
func quotedEnd(script string, i int) int {
	closing := script[i]
	begin := i + 1
	if closing == '$' {
		closing = map[byte]byte{'{': '}', '(': ')'}[script[i+1]]
		begin++
	}
	for j := begin; j < len(script); j++ {
		switch {
		case script[j] == '\\' && closing != '\'':
			j++
		case script[j] == closing:
			return j + 1
		}
	}
	return len(script)
}

// expand resolves the quotes and variables of a raw word; ok is false where
// that takes a shell.
func (sh *shell) expand(raw string) (value string, ok bool) {
	var b strings.Builder
	quoted := false
	for i := 0; i < len(raw); i++ {
		if b.Len() > maxEnvValue {
			return "", false
		}
		switch c := raw[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\'' && !quoted:
			end := strings.IndexByte(raw[i+1:], '\'')
			if end < 0 {
				return "", false
			}
			b.WriteString(raw[i+1 : i+1+end])
			i += end + 1
		case c == '\\':
			if i++; i >= len(raw) {
				return "", false
			}
			if quoted && !strings.ContainsRune("\"\\$`", rune(raw[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(raw[i])
		case c == '$':
			text, size, ok := sh.variable(raw[i+1:])
			if !ok {
				return "", false
			}
			b.WriteString(text)
			i += size
		case !quoted && strings.IndexByte("*?[~<>()", c) >= 0, c == '`':
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), !quoted
}

// variable resolves what follows a dollar, and tells how long that is.
func (sh *shell) variable(s string) (value string, size int, ok bool) {
	if !strings.HasPrefix(s, "{") {
		size = nameLength(s)
		return sh.vars[s[:size]], size, size > 0
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return "", 0, false
	}
	inner := s[1:end]
	n := nameLength(inner)
	value = sh.vars[inner[:n]]
	_, set := sh.vars[inner[:n]]
	op := inner[n:]
	size = end + 1
	if n == 0 || strings.ContainsAny(op, "$`\\\"'*?[") {
		return "", 0, false
	}
	switch {
	case op == "":
		return value, size, true
	case strings.HasPrefix(op, ":-"):
		if value == "" {
			value = op[2:]
		}
	case strings.HasPrefix(op, "-"):
		if !set {
			value = op[1:]
		}
	case strings.HasPrefix(op, "#"):
		value = strings.TrimPrefix(value, strings.TrimPrefix(op[1:], "#"))
	case strings.HasPrefix(op, "%"):
		value = strings.TrimSuffix(value, strings.TrimPrefix(op[1:], "%"))
	default:
		return "", 0, false
	}
	return value, size, true
}
