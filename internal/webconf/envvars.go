package webconf

import (
	"fmt"
	"path"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// Bounds of ReadEnvVars: bytes of the file, and about those of one value.
const (
	maxEnvVars  = 256 << 10
	maxEnvValue = 16 << 10
)

// ReadEnvVars reads the file that Debian's start scripts take the environment
// of httpd from, /etc/apache2/envvars, and returns the variables that it
// exports. It is a shell script, and no shell is run: assignments, export and
// unset are understood, with quotes, $A, ${A}, ${A:-B} and ${A##B}; and if,
// where it compares two words. Whatever else there is counts as not written,
// and a variable that may get a value there is left out.
//
// APACHE_CONFDIR is known in it, as the folder of the file. A file that is
// missing gives an error that is fs.ErrNotExist.
func ReadEnvVars(files FS, name string) (map[string]string, error) {
	data, err := files.ReadFile(name, maxEnvVars)
	if err != nil {
		return nil, fmt.Errorf("cannot read the environment of apache: %w", &conferr.ReadError{File: name, Cause: err})
	}
	sh := &shell{
		vars:     map[string]string{"APACHE_CONFDIR": path.Dir(path.Clean(name))},
		exported: map[string]bool{},
	}
	for _, command := range splitCommands(string(data)) {
		if len(sh.blocks) > maxDepth {
			break // no environment is written like this
		}
		sh.run(command.words, command.chained)
	}
	env := map[string]string{}
	for name := range sh.exported {
		if value, ok := sh.vars[name]; ok {
			env[name] = value
		}
	}
	return env, nil
}

// shell is what a script has set so far.
type shell struct {
	vars     map[string]string
	exported map[string]bool
	// blocks are the compound commands that are open.
	blocks []shellBlock
}

// shellBlock is an open "if", or another compound command, which is passed over.
type shellBlock struct {
	end   string // the word that closes it
	skip  bool   // what is inside does not count now
	taken bool   // a branch of the "if" counted already
	known bool   // its condition was understood
}

// run looks at one simple command. Unsure tells that whether it runs, or
// whether it decides, depends on a command beside it.
func (sh *shell) run(command []string, unsure bool) {
	if len(command) == 0 {
		return
	}
	skipped := false
	for _, b := range sh.blocks {
		skipped = skipped || b.skip
		unsure = unsure || !b.known
	}
	switch first := command[0]; first {
	case "if":
		holds, known := sh.test(command[1:])
		known = known && !unsure
		sh.blocks = append(sh.blocks, shellBlock{end: "fi", skip: !known || !holds, taken: known && holds, known: known})
		return
	case "case":
		sh.open("esac")
		return
	case "for", "while", "until", "select":
		sh.open("done")
		return
	case "{":
		sh.open("}")
		return
	case "then", "do":
		sh.run(command[1:], unsure)
		return
	}
	if strings.HasSuffix(command[len(command)-1], "{") && strings.Contains(strings.Join(command, ""), "()") {
		sh.open("}") // a function
		return
	}
	if n := len(sh.blocks); n > 0 {
		b := &sh.blocks[n-1]
		switch {
		case command[0] == b.end:
			sh.blocks = sh.blocks[:n-1]
			return
		case b.end == "fi" && command[0] == "else":
			b.skip = !b.known || b.taken
			sh.run(command[1:], unsure)
			return
		case b.end == "fi" && command[0] == "elif":
			holds, known := sh.test(command[1:])
			b.known = b.known && known && !unsure
			b.skip = !b.known || b.taken || !holds
			b.taken = b.taken || holds
			return
		}
	}
	if unsure {
		sh.forget(command)
	} else if !skipped {
		sh.simple(command)
	}
}

// forget drops the variables that a command might set.
func (sh *shell) forget(command []string) {
	for _, word := range command {
		if name, _, ok := strings.Cut(word, "="); ok || command[0] == "unset" {
			delete(sh.vars, name)
		}
	}
}

func (sh *shell) open(end string) {
	sh.blocks = append(sh.blocks, shellBlock{end: end, skip: true})
}

// simple runs an assignment, export or unset.
func (sh *shell) simple(command []string) {
	switch command[0] {
	case "unset":
		for _, name := range command[1:] {
			delete(sh.vars, name)
			delete(sh.exported, name)
		}
		return
	case "export":
		for _, word := range command[1:] {
			name, _, assigns := strings.Cut(word, "=")
			if variableName(name) {
				sh.exported[name] = true
				if assigns {
					sh.assign(word)
				}
			}
		}
		return
	}
	// "A=1 B=2" sets both; "A=1 program" sets none here.
	for _, word := range command {
		if name, _, ok := strings.Cut(word, "="); !ok || !variableName(name) {
			return
		}
	}
	for _, word := range command {
		sh.assign(word)
	}
}

func (sh *shell) assign(word string) {
	name, raw, _ := strings.Cut(word, "=")
	if value, ok := sh.expand(raw); ok {
		sh.vars[name] = value
	} else {
		delete(sh.vars, name)
	}
}

// test decides "[ A = B ]" and its kin; known is false for anything else.
func (sh *shell) test(command []string) (holds, known bool) {
	n := len(command)
	switch {
	case n > 1 && command[0] == "[" && command[n-1] == "]":
		command = command[1 : n-1]
	case n > 0 && command[0] == "test":
		command = command[1:]
	default:
		return false, false
	}
	not := false
	if len(command) > 1 && command[0] == "!" {
		not, command = true, command[1:]
	}
	var list []string
	for _, word := range command {
		value, ok := sh.expand(word)
		if !ok {
			return false, false
		}
		list = append(list, value)
	}
	switch {
	case len(list) == 1:
		holds = list[0] != ""
	case len(list) == 2 && list[0] == "-n":
		holds = list[1] != ""
	case len(list) == 2 && list[0] == "-z":
		holds = list[1] == ""
	case len(list) == 3 && (list[1] == "=" || list[1] == "=="):
		holds = list[0] == list[2]
	case len(list) == 3 && list[1] == "!=":
		holds = list[0] != list[2]
	default:
		return false, false
	}
	return holds != not, true
}

func variableName(s string) bool { return s != "" && nameLength(s) == len(s) }

// nameLength is how much of a text's begin is the name of a variable.
func nameLength(s string) int {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
