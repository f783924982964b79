package event

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// DefaultMax is the cap, in runes, that Clean applies where its caller names
// none: no text from outside is ever shown at whatever length it came in.
const DefaultMax = 4096

// cut marks the place where text was left out.
const cut = '…'

// Clean makes text that came from a jail, a mirror, a package or a program fit
// to be shown on one line of a terminal, of a log or of a mail.
//
//   - Terminal control sequences (ECMA-48: CSI, OSC, DCS, SOS, PM, APC and plain
//     escapes, in their 7-bit and their 8-bit form) are taken out whole; of one
//     that never ends only its introducer is, so that it cannot swallow the
//     rest of the message.
//   - Line ends, tabs and the Unicode line and paragraph separators become one
//     space, a CR LF pair included. Every other control character is dropped.
//   - Marks that turn the direction of the text, and characters that take no
//     room at all, are dropped: they let a name look like another one.
//   - Each byte that is no valid UTF-8 becomes U+FFFD.
//   - Spaces at the end are dropped, and what is longer than max runes is cut so
//     that, with the "…" that stands for the rest, it has at most max.
//
// A max below 1 means DefaultMax. The work is bounded by the length of s, and
// cleaning what is clean already changes nothing.
func Clean(s string, max int) string {
	if max < 1 {
		max = DefaultMax
	}
	if isPlain(s) && len(s) <= max {
		return strings.TrimRight(s, " ")
	}
	out := make([]rune, 0, min(len(s), max)+1)
	for i := 0; i < len(s) && len(out) <= max; {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\r' && strings.HasPrefix(s[i+1:], "\n"):
			// The LF that follows makes the space.
		case r == '\n', r == '\r', r == '\t', r == '\v', r == '\f', r == 0x85, r == 0x2028, r == 0x2029:
			out = append(out, ' ')
		case r == 0x1b, r >= 0x80 && r <= 0x9f:
			size = sequence(s[i:], r, size)
		case invisible(r):
		default:
			out = append(out, r) // an invalid byte is U+FFFD, as DecodeRune says
		}
		i += size
	}
	if len(out) <= max {
		return strings.TrimRight(string(out), " ")
	}
	return strings.TrimRight(string(out[:max-1]), " ") + string(cut)
}

// CleanLines is Clean for text of several lines, such as the output of a program
// that failed: the last maxLines lines (the end of an output tells why it
// ended), each at most maxLen runes. LF, CR LF and a lone CR end a line; empty
// lines at the end are dropped. maxLines below 1 gives nil.
func CleanLines(s string, maxLines, maxLen int) []string {
	var lines []string
	for s != "" && len(lines) < maxLines {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "\n"), "\r") // LF, CR LF or CR
		at := strings.LastIndexAny(s, "\r\n")
		line := Clean(s[at+1:], maxLen)
		if line != "" || len(lines) > 0 {
			lines = append(lines, line)
		}
		s = s[:at+1]
	}
	for i, j := 0, len(lines)-1; i < j; i, j = i+1, j-1 {
		lines[i], lines[j] = lines[j], lines[i]
	}
	return lines
}

// isPlain reports whether s is printable ASCII, which most text is.
func isPlain(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// invisible reports whether r is a control character, a mark that turns the
// direction of the text, or takes no room: the categories Cc and Cf, the
// variation selectors and the fillers that Unicode counts as letters.
func invisible(r rune) bool {
	switch {
	case r < 0x80:
		return r < ' ' || r == 0x7f
	case r == 0x034f, r == 0x115f, r == 0x1160, r == 0x17b4, r == 0x17b5, r == 0x2800, r == 0x3164, r == 0xffa0:
		return true
	case r >= 0x180b && r <= 0x180f, r >= 0xfe00 && r <= 0xfe0f, r >= 0xe0000 && r <= 0xe0fff:
		return true
	case r >= 0x2060 && r <= 0x206f, r >= 0xfff0 && r <= 0xfffb:
		return true
	}
	return unicode.In(r, unicode.Cc, unicode.Cf)
}

// sequence returns the length of the control sequence that s begins with. The
// introducer r is ESC or a C1 character of size bytes. The grammar is that of
// ECMA-48, section 5: a sequence with a byte that has no place in it ends in
// front of that byte.
func sequence(s string, r rune, size int) int {
	n := size
	if r == 0x1b {
		if n == len(s) {
			return n
		}
		c := s[n]
		if c < 0x40 || c > 0x5f { // nF escape: intermediates, then one final byte
			for n < len(s) && s[n] >= 0x20 && s[n] <= 0x2f {
				n++
			}
			if n < len(s) && s[n] >= 0x30 && s[n] <= 0x7e {
				n++
			}
			return n
		}
		r = rune(c) + 0x40
		n++
	}
	switch r {
	case 0x9b: // CSI: parameters, intermediates, one final byte
		m := n
		for m < len(s) && s[m] >= 0x30 && s[m] <= 0x3f {
			m++
		}
		for m < len(s) && s[m] >= 0x20 && s[m] <= 0x2f {
			m++
		}
		if m < len(s) && s[m] >= 0x40 && s[m] <= 0x7e {
			m++
		}
		return m
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f: // DCS, SOS, OSC, PM, APC: a string up to BEL or ST
		return n + controlString(s[n:])
	}
	return n
}

// controlString returns the length of the string that s begins with, up to and
// with its BEL or ST, or 0 where another control character or the end of the
// text comes first.
func controlString(s string) int {
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == 0x07, r == 0x9c:
			return i + size
		case r == 0x1b && strings.HasPrefix(s[i+1:], `\`):
			return i + 2
		case unicode.Is(unicode.Cc, r):
			return 0
		}
		i += size
	}
	return 0
}

// Bounds of what a stream lets through.
const (
	maxLines = 60  // of one message
	maxLine  = 500 // runes of one line
	maxName  = 200 // runes of a name or a version
	maxPath  = DefaultMax
)

// cleaned returns e with all its text cleaned. What e points to is copied, for
// it may be the caller's; a run.done has a Done afterwards.
func cleaned(e Event) Event {
	e.Kind, e.Run = Kind(Clean(string(e.Kind), maxName)), Clean(e.Run, maxName)
	e.Step, e.Level = Clean(e.Step, maxName), Clean(e.Level, maxName)
	e.Message, e.Hint = cleanText(e.Message), cleanText(e.Hint)
	if e.Check != nil {
		e.Check = &Check{Clean(e.Check.Name, maxName), Clean(e.Check.Status, maxName), cleanText(e.Check.Detail)}
	}
	if p := e.Progress; p != nil {
		e.Progress = &Progress{Clean(p.What, maxName), Clean(p.Unit, maxName), max(p.Done, 0), max(p.Total, 0)}
	}
	if s := e.Start; s != nil {
		e.Start = &RunStart{Clean(s.Verb, maxName), Clean(s.Server, maxName), Clean(s.Jail, maxPath), Clean(s.Version, maxName)}
	}
	if e.Kind != KindRunDone {
		return e
	}
	var d RunDone
	if e.Done != nil {
		d = *e.Done
	}
	d.Result, d.Server, d.Snapshot = Clean(d.Result, maxName), Clean(d.Server, maxName), Clean(d.Snapshot, maxName)
	d.Jail, d.Evidence = Clean(d.Jail, maxPath), Clean(d.Evidence, maxPath)
	d.Error, d.Hint = cleanText(d.Error), cleanText(d.Hint)
	d.From, d.To = cleanMap(d.From), cleanMap(d.To)
	e.Done = &d
	return e
}

// cleanText cleans text that may have several lines.
func cleanText(s string) string {
	return strings.Join(CleanLines(s, maxLines, maxLine), "\n")
}

func cleanMap(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[Clean(k, maxName)] = Clean(v, maxName)
	}
	return out
}
