package ui

import (
	"strings"

	"github.com/jailup/jailup/internal/event"
)

// style is how text looks: words or marks, colours or none.
type style struct {
	live   bool // the line of the step under way can be drawn again
	color  bool
	ascii  bool // no letters but those of ASCII can be shown
	ok     string
	fail   string
	skip   string
	undo   string
	doing  string
	arrow  string
	full   string
	empty  string
	cutoff string
}

// plainStyle is for logs and mails: words that one can search for.
func plainStyle() style {
	return style{ok: "ok   ", fail: "FAIL ", skip: "skip ", undo: "undo ", doing: "...  ", arrow: "->", cutoff: "..."}
}

func terminalStyle(o Options) style {
	s := style{live: true, color: !o.NoColor && o.Getenv("NO_COLOR") == ""}
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		locale := strings.ToLower(o.Getenv(name))
		if locale == "" {
			continue
		}
		s.ascii = !strings.Contains(locale, "utf-8") && !strings.Contains(locale, "utf8")
		break
	}
	if o.Getenv("LC_ALL")+o.Getenv("LC_CTYPE")+o.Getenv("LANG") == "" {
		s.ascii = true
	}
	if s.ascii {
		s.ok, s.fail, s.skip, s.undo, s.doing = "+ ", "x ", "- ", "< ", "> "
		s.arrow, s.full, s.empty, s.cutoff = "->", "#", ".", "..."
		return s
	}
	s.ok, s.fail, s.skip, s.undo, s.doing = "✓ ", "✗ ", "– ", "↶ ", "▸ "
	s.arrow, s.full, s.empty, s.cutoff = "→", "█", "░", "…"
	return s
}

// The colours: numbers of ECMA-48's SGR that every theme shows readably.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
)

func (s style) paint(color, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// clean makes text fit for this terminal, on one line.
func (s style) clean(text string) string {
	text = event.Clean(text, maxCell)
	if !s.ascii {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, strings.ReplaceAll(text, "…", "..."))
}
