package webconf

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// The language of httpd's configuration, as observed from the server: a
// directive is a line; a backslash right before the line's end joins the next
// one, within comments as well; "#" is special only where a line begins. Words
// are parted by blanks and may be quoted as a whole with ' or "; a backslash
// protects a backslash, and within quotes the quote; whatever follows a
// closing quote begins the next word. The value of ${NAME} is put in before the
// words are parted, within any quotes, and what it brings is looked at like the
// rest of the line, but for further variables; an unknown one stays as it is.

// apacheLine is one logical line, without blanks around it.
type apacheLine struct {
	text string
	line int // of its first physical line
}

// apacheSource gives the lines of one file, or of a macro's body.
type apacheSource struct {
	file  string
	data  []byte
	line  int          // lines read so far
	lines []apacheLine // a macro's, in place of data
}

func newApacheSource(file string, data []byte) *apacheSource {
	return &apacheSource{file: file, data: data}
}

// next returns the next line that is neither empty nor a comment; ok is false
// at the end.
func (s *apacheSource) next() (l apacheLine, ok bool) {
	if len(s.lines) > 0 {
		l, s.lines = s.lines[0], s.lines[1:]
		return l, true
	}
	for len(s.data) > 0 {
		text, first := s.join()
		text = strings.TrimFunc(text, isApacheSpace)
		if text != "" && text[0] != '#' {
			return apacheLine{text, first}, true
		}
	}
	return apacheLine{}, false
}

// join reads physical lines up to one that does not end with a backslash.
func (s *apacheSource) join() (text string, first int) {
	first = s.line + 1
	var b strings.Builder
	for len(s.data) > 0 {
		end := bytes.IndexByte(s.data, '\n')
		part := s.data
		if end < 0 {
			s.data = nil
		} else {
			part, s.data = s.data[:end], s.data[end+1:]
		}
		s.line++
		if end >= 0 {
			part = bytes.TrimSuffix(part, []byte("\r"))
			if bytes.HasSuffix(part, []byte(`\`)) {
				b.Write(part[:len(part)-1])
				continue
			}
		}
		b.Write(part)
		break
	}
	return b.String(), first
}

// isApacheSpace is isspace(3) of the C locale.
func isApacheSpace(r rune) bool {
	return r == ' ' || r >= '\t' && r <= '\r'
}

// cutWord parts the first word from a line.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeftFunc(line, isApacheSpace)
	if line == "" {
		return "", ""
	}
	quote := line[0]
	if quote != '"' && quote != '\'' {
		end := strings.IndexFunc(line, isApacheSpace)
		if end < 0 {
			end = len(line)
		}
		return unquote(line[:end], 0), strings.TrimLeftFunc(line[end:], isApacheSpace)
	}
	end := 1
	for end < len(line) && line[end] != quote {
		if line[end] == '\\' && end+1 < len(line) && (line[end+1] == quote || line[end+1] == '\\') {
			end++
		}
		end++
	}
	word = unquote(line[1:end], quote)
	return word, strings.TrimLeftFunc(line[min(end+1, len(line)):], isApacheSpace)
}

func unquote(s string, quote byte) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '\\' || quote != 0 && s[i+1] == quote) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// words parts the arguments of a directive.
func words(line string, at position) (list []string, err error) {
	for line = strings.TrimLeftFunc(line, isApacheSpace); line != ""; {
		var word string
		word, line = cutWord(line)
		if len(list) == maxArgs {
			return nil, at.fault("more than %d arguments", maxArgs)
		}
		list = append(list, word)
	}
	return list, nil
}

// maxValue bounds a line after variables are put in: a few Defines that name
// one another could fill any memory.
const maxValue = 1 << 20

// resolve puts the values of variables into a line. What is defined in the
// configuration goes before the environment.
func (r *apacheReader) resolve(line string, at position) (string, error) {
	if !strings.Contains(line, "${") {
		return line, nil
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(line, "${")
		b.WriteString(before)
		if !found {
			break
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed {
			b.WriteString("${" + after)
			break
		}
		value, known := r.vars[name]
		if !known {
			r.refers(name)
			value, known = r.env[name]
		}
		if !known {
			value = "${" + name + "}"
			// With a colon it is a map of mod_rewrite.
			if !strings.Contains(name, ":") {
				r.warn(at, fmt.Sprintf("the variable %s is not defined", conferr.Show(name)))
			}
		}
		b.WriteString(value)
		r.expanded += int64(len(value))
		if b.Len() > maxValue || r.expanded > maxTotal {
			return "", at.fault("the values of variables are too large here")
		}
		line = rest
	}
	return b.String(), nil
}
