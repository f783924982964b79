package ui

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// screen is a terminal of so many columns: it knows a line end, a carriage
// return, "erase to the end of the line" and colours, and takes note of all else
// that controls it, and of text that would not fit on a line.
type screen struct {
	columns  int
	lines    [][]string // cells, each with its colours
	row, col int
	color    string
	wrong    []string
	drawn    int // how often a line was begun anew
}

func newScreen(columns int) *screen { return &screen{columns: columns, lines: [][]string{nil}} }

func (s *screen) Write(p []byte) (int, error) {
	for text := string(p); text != ""; {
		r := []rune(text)[0]
		text = text[len(string(r)):]
		switch {
		case r == '\n':
			s.row, s.col = s.row+1, 0
			if s.row == len(s.lines) {
				s.lines = append(s.lines, nil)
			}
		case r == '\r':
			s.col = 0
			s.drawn++
		case r == 0x1b:
			end := strings.IndexFunc(text, func(r rune) bool { return r >= '@' && r != '[' })
			if end < 0 {
				s.wrong = append(s.wrong, "a sequence without end")
				return len(p), nil
			}
			seq := text[:end+1]
			text = text[end+1:]
			switch {
			case seq == "[K":
				s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
			case strings.HasPrefix(seq, "[") && strings.HasSuffix(seq, "m"):
				s.color = strings.Trim(seq, "[m")
				if s.color == "0" {
					s.color = ""
				}
			default:
				s.wrong = append(s.wrong, strconv.Quote(seq))
			}
		case r < ' ' || r >= 0x7f && r < 0xa0:
			s.wrong = append(s.wrong, strconv.QuoteRune(r))
		default:
			for range runeWidth(r) {
				for len(s.lines[s.row]) <= s.col {
					s.lines[s.row] = append(s.lines[s.row], " ")
				}
				s.lines[s.row][s.col] = string(r)
				s.col++
			}
		}
	}
	return len(p), nil
}

// String returns what stands on the screen.
func (s *screen) String() string {
	var b bytes.Buffer
	for i, line := range s.lines {
		text := strings.TrimRight(strings.Join(line, ""), " ")
		if i < len(s.lines)-1 || text != "" {
			fmt.Fprintln(&b, text)
		}
	}
	return b.String()
}

// last returns the line that the cursor is in.
func (s *screen) last() string { return strings.Join(s.lines[s.row], "") }
