package phpconf

import (
	"bytes"
	"html"
	"slices"
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// Bounds of what is taken out of the output of a program from a jail.
const (
	maxWarnings = 200
	maxText     = 2000 // bytes of one warning
	maxJoined   = 8    // lines of one warning
)

// Warning is one thing that PHP or PHP-FPM complains about when it starts, or
// that a reader here has found.
type Warning struct {
	// Level is the program's own word: "Warning", "Deprecated", "Fatal error"
	// of PHP, "WARNING", "ERROR", "ALERT" of FPM; "" where it gives none.
	Level string
	Text  string // without date, level and place; lines are joined by spaces
	File  string // "" where none is named
	Line  int
	// Fatal says that something is missing: an extension that could not be
	// loaded or initialised (php-fpm -t ends with 0 all the same), a program
	// that could not start. Else it is a remark.
	Fatal bool
}

// Loud are options of php and php-fpm by which they say on their error output
// what they have to say, once and plain. Without them a configuration decides:
// it may send an extension that could not be loaded to a log file, and a PHP
// without a php.ini says nothing of it at all.
func Loud() []string {
	return []string{"-d", "log_errors=1", "-d", "error_log=", "-d", "display_errors=0", "-d", "error_reporting=-1"}
}

// ParseInfo lists the directives that a PHP knows, from the text of php -i or
// php-fpm -i: those of the extensions that it has loaded.
func ParseInfo(text []byte) map[string]bool {
	known := map[string]bool{}
	inTable := false
	for line := range bytes.Lines(text) {
		s := strings.TrimRight(string(line), "\r\n")
		switch fields := strings.Split(s, " => "); {
		case s == "Directive => Local Value => Master Value":
			inTable = true
		case s == "":
			inTable = false
		case inTable && len(fields) >= 3 && isDirectiveName(fields[0]):
			known[fields[0]] = true
		}
	}
	return known
}

func isDirectiveName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-:") == ""
}

// ParseModules lists what php -m or php-fpm -m tells, as it is written there
// ("Core", "mysqli", "Zend OPcache"), once each, in the order of the output.
// What is printed before the list, warnings above all, is passed over.
func ParseModules(text []byte) []string {
	var modules []string
	inList := false
	for line := range bytes.Lines(text) {
		switch s := strings.TrimSpace(string(line)); {
		case s == "[PHP Modules]" || s == "[Zend Modules]":
			inList = true
		case inList && s != "" && !slices.Contains(modules, s):
			modules = append(modules, s)
		}
		if len(modules) >= 1000 {
			break
		}
	}
	return modules
}

var (
	logDate    = lazyregexp.New(`^\[[0-9]{2}-[A-Z][a-z]{2}-[0-9]{4} [0-9:.]+(?: [A-Za-z0-9_/+:-]+)?\] `)
	fpmMessage = lazyregexp.New(`^(DEBUG|NOTICE|WARNING|ERROR|ALERT): (?:pid [0-9]+, [^,]*, line [0-9]+: )?(.*)$`)
	fpmPlace   = lazyregexp.New(`^\[(/[^\]]*):([0-9]+)\] (.*)$`)
	fpmFrom    = lazyregexp.New(`^(.*) from (/.*) at line ([0-9]+)\.?$`)
	phpMessage = lazyregexp.New(`^(?:PHP )?(Fatal error|Parse error|Recoverable fatal error|Core error|Core warning|Compile error|Warning|Notice|Deprecated|Strict Standards):\s+(.*)$`)
	phpPlain   = lazyregexp.New(`^PHP:\s+(.*)$`)
	phpPlace   = lazyregexp.New(`^(.*) in (.+) on line ([0-9]+)$`)

	// zendMessage is what the engine says of its own extensions, before it has
	// any other way to say it; the dynamic loader's last words are alike.
	zendMessage = lazyregexp.New(`^(Failed loading .*|Cannot load .*|.* requires Zend Engine API version .*|` +
		`.*: error while loading shared libraries: .*|.*: symbol lookup error: .*|.*: version .* not found \(required by .*)$`)
	zendGoesOn = lazyregexp.New(`^(The Zend Engine API version |Contact .* for a later version of )`)

	missing = lazyregexp.New(`Unable to load dynamic library|Failed loading |Invalid library|Unable to initialize module|Cannot load |` +
		`Unable to start |requires Zend Engine API version|error while loading shared libraries|symbol lookup error|not found \(required by`)
)

// ParseWarnings finds what PHP and PHP-FPM complain about in what they print:
// php -m, php-fpm -t, a log of theirs; once each, at most 200. It knows them
// plain, with a date, in HTML, and over several lines. See Loud.
func ParseWarnings(text []byte) []Warning {
	p := outputParser{lines: strings.Split(string(text), "\n")}
	for p.at < len(p.lines) && len(p.found) < maxWarnings {
		p.add(p.next())
	}
	return p.found
}

type outputParser struct {
	lines []string
	at    int
	found []Warning
}

func (p *outputParser) add(w Warning) {
	if w.Text = strings.Join(strings.Fields(w.Text), " "); w.Text == "" {
		return
	}
	if len(w.Text) > maxText {
		w.Text = strings.ToValidUTF8(w.Text[:maxText], "")
	}
	switch {
	case strings.Contains(w.Text, "already loaded"):
		// There is one, if not this one.
	case w.Level == "ERROR", w.Level == "ALERT", strings.HasSuffix(w.Level, " error"), missing.MatchString(w.Text):
		w.Fatal = true
	}
	// PHP says most things twice, on either output.
	for _, f := range p.found {
		if f.Text == w.Text && f.File == w.File && f.Line == w.Line {
			return
		}
	}
	p.found = append(p.found, w)
}

// line takes the next line, with the marks of HTML and the date gone.
func (p *outputParser) line() string {
	s := strings.TrimRight(p.lines[p.at], "\r")
	p.at++
	if strings.Contains(s, "<b>") {
		s = strings.NewReplacer("<b>", "", "</b>", "", "<br />", "").Replace(s)
		s = html.UnescapeString(s)
	}
	return s[len(logDate.FindString(s)):]
}

func (p *outputParser) next() Warning {
	s := p.line()
	if m := fpmMessage.FindStringSubmatch(s); m != nil {
		inner, ofPHP := strings.CutPrefix(m[2], "PHP message: ")
		if !ofPHP {
			return ofFPM(m[1], m[2])
		}
		s = inner
	}
	if m := phpMessage.FindStringSubmatch(s); m != nil {
		return p.ofPHP(m[1], m[2])
	}
	if m := phpPlain.FindStringSubmatch(s); m != nil {
		return p.ofPHP("", m[1])
	}
	if !zendMessage.MatchString(s) {
		return Warning{}
	}
	for p.at < len(p.lines) && zendGoesOn.MatchString(p.lines[p.at]) {
		s += " " + p.line()
	}
	return Warning{Text: s}
}

func ofFPM(level, text string) Warning {
	w := Warning{Level: level, Text: text}
	if level == "NOTICE" || level == "DEBUG" {
		return Warning{}
	}
	if m := fpmPlace.FindStringSubmatch(text); m != nil {
		w.File, w.Text = m[1], m[3]
		w.Line, _ = strconv.Atoi(m[2])
	} else if m := fpmFrom.FindStringSubmatch(text); m != nil {
		w.Text, w.File = m[1], m[2]
		w.Line, _ = strconv.Atoi(m[3])
	}
	return w
}

// ofPHP reads on to where PHP says the place, for a message may have several
// lines; where it does not come, the message is its first line.
func (p *outputParser) ofPHP(level, text string) Warning {
	whole, back := text, p.at
	for range maxJoined {
		if m := phpPlace.FindStringSubmatch(whole); m != nil {
			w := Warning{Level: level, Text: m[1], File: m[2]}
			w.Line, _ = strconv.Atoi(m[3])
			if w.File == "Unknown" {
				w.File = ""
			}
			return w
		}
		if p.at >= len(p.lines) || len(whole) > maxText {
			break
		}
		whole += " " + p.line()
	}
	p.at = back
	return Warning{Level: level, Text: text}
}
