package phpconf

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// priorityLine is what Debian's phpenmod looks for.
var priorityLine = lazyregexp.New(`(?m)^;[ \t\v\f\r]*priority[ \t\v\f\r]*=[ \t\v\f\r]*([0-9]+)[ \t\v\f\r]*$`)

// Priority is the number in the name of the link that Debian's phpenmod makes
// in conf.d for a file of mods-available ("20-gd.ini"): that of its comment
// "; priority=NN", else 20. Of several the first one counts.
func Priority(ini []byte) int {
	if m := priorityLine.FindSubmatch(ini); m != nil {
		if n, err := strconv.Atoi(string(m[1])); err == nil {
			return n
		}
	}
	return 20
}

// listen is a listen directive in the text of a file.
type listen struct {
	pool, value string
	line        int
	from, to    int // offsets of the value's text in the file
}

// listens finds the listen directives of a file of pools that FPM could read,
// up to the first fault.
func listens(file []byte) []listen {
	var all []listen
	pool, offset, line := "", 0, 0
	for text := range bytes.Lines(file) {
		line++
		fault, err := parseIni(text, func(name string) (string, bool) { return "${" + name + "}", false }, constantOf, func(st statement) error {
			switch {
			case st.kind == stSection:
				pool = st.name
			case st.kind == stEntry && strings.EqualFold(st.name, "listen") && pool != "" && !strings.EqualFold(pool, "global"):
				all = append(all, listen{pool, st.value, line, offset + st.from, offset + st.to})
			}
			return nil
		})
		if fault != nil || err != nil {
			break
		}
		offset += len(text)
	}
	return all
}

// ListenLine finds the first listen directive of a file of pools: the pool it
// is of, its value as FPM takes it, relative paths as they are, and its line,
// from 1. Line 0 says that there is none.
func ListenLine(file []byte) (pool, value string, line int) {
	for _, l := range listens(file) {
		return l.pool, l.value, l.line
	}
	return "", "", 0
}

// SetListen returns the file of pools with another address for a pool to listen
// on: the value of its listen directive, of several of the one in force, is
// replaced; blanks, comments, line ends and all other lines stay byte for byte.
// It is false, and conf is returned, where the pool has no such line there, or
// where the value cannot be written on a line. Names of pools do not differ by
// case. conf itself is not changed.
func SetListen(conf []byte, pool, value string) ([]byte, bool) {
	all := listens(conf)
	at := -1
	for i, l := range all {
		if strings.EqualFold(l.pool, pool) {
			at = i
		}
	}
	text, ok := quote(value)
	if at < 0 || !ok {
		return conf, false
	}
	out := slices.Concat(conf[:all[at].from], []byte(text), conf[all[at].to:])
	// Whoever reads it must read what was meant.
	again := listens(out)
	if len(again) != len(all) || again[at].value != value {
		return conf, false
	}
	return out, true
}

// plainValue needs no quotes: paths, ports, addresses.
var plainValue = lazyregexp.New(`^[A-Za-z0-9./][A-Za-z0-9_./:*@%+,\[\]-]*$`)

func quote(value string) (string, bool) {
	if plainValue.MatchString(value) || strings.HasPrefix(value, "[") && plainValue.MatchString("/"+value) {
		return value, true
	}
	if strings.ContainsAny(value, "\n\r\x00") {
		return "", false
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`, true
}

// Rewrite returns conf with paths moved: each pair names what they begin with
// and what they shall begin with ("/etc/php/8.2/", "/etc/php/8.4/"). Only where
// a path begins is it looked for, not in the middle of a longer one. Where the
// first of a pair ends in a slash the folder itself is meant as well, which is
// written without it where the path ends: extension_dir = "/usr/lib/php/20220829".
// Where it does not, the name must end there or go on with "." or the like:
// "/run/php/php8.2-fpm" is found in ".../php8.2-fpm.sock", not in
// ".../php8.2-fpm2.sock". Of several that fit the longest is taken; what was put
// in is not looked at again. conf itself is not changed.
//
// Comments are changed, too. What is a comment differs between the languages
// that name PHP's paths (ini, nginx, Apache), and a mistake in telling them
// apart would leave a path in force that leads to a series that is gone. And a
// directive that stands in a comment gets switched on one day.
func Rewrite(conf []byte, pairs [][2]string) []byte {
	var out []byte
	for i := 0; i < len(conf); {
		from, to := fits(conf, i, pairs)
		if from == "" {
			out = append(out, conf[i])
			i++
			continue
		}
		out = append(out, to...)
		i += len(from)
	}
	return out
}

func fits(conf []byte, i int, pairs [][2]string) (from, to string) {
	if i > 0 && inPath(conf[i-1]) {
		return "", ""
	}
	for _, p := range pairs {
		if folder, ok := strings.CutSuffix(p[0], "/"); ok && len(folder) > len(from) &&
			bytes.HasPrefix(conf[i:], []byte(folder)) && endsPath(conf[i+len(folder):]) {
			from, to = folder, strings.TrimSuffix(p[1], "/")
			continue
		}
		if len(p[0]) <= len(from) || !bytes.HasPrefix(conf[i:], []byte(p[0])) {
			continue
		}
		end := i + len(p[0])
		if !strings.HasSuffix(p[0], "/") && end < len(conf) && (isWord(conf[end]) || conf[end] == '-') {
			continue
		}
		from, to = p[0], p[1]
	}
	return from, to
}

// inPath tells bytes after which a path goes on and does not begin: those of
// names, and what ends a variable that a path is put behind.
func inPath(c byte) bool {
	return isWord(c) || c >= 0x80 || strings.IndexByte(`/.-~}\%$`, c) >= 0
}

// endsPath tells whether a path that goes up to here ends here: at the end of the
// text, or before what sets words and paths of a list apart in the languages that
// name PHP's paths.
func endsPath(rest []byte) bool {
	return len(rest) == 0 || strings.IndexByte(" \t\r\n\v\f\"'`;:,|()<>{}[]&=#", rest[0]) >= 0
}
