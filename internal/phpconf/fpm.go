package phpconf

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/conferr"
	"github.com/jailup/jailup/internal/jail"
)

// FPM is a configuration of PHP-FPM, read with all that it includes.
type FPM struct {
	ErrorLog string // an absolute path, or "syslog"
	PIDFile  string // "" for none
	// ControlTimeout is process_control_timeout: how long children may go on
	// with their requests when the master is told to stop or to start anew.
	// 0, the default, is no time at all.
	ControlTimeout time.Duration
	Pools          []Pool // in the order of their first mention
	Files          []string
	Warnings       []Warning // what FPM warns of: an include that matches nothing

	env []string // see EnvNames
}

// Pool is a pool of PHP-FPM's workers. Paths are absolute where FPM makes them
// so; Chdir is one within Chroot, where there is one.
type Pool struct {
	Name string
	// Listen is the value as FPM takes it; Network ("unix", "tcp") and Address
	// (the socket's path, or "127.0.0.1:9000") are for a dialer: where FPM
	// listens on all addresses, the loopback one stands there and Wildcard is
	// true. Network is "" where there is no listen, or one that FPM refuses to
	// start with ("unix:/run/x.sock", which is nginx's word).
	Listen, Network, Address string
	Wildcard                 bool
	// StatusListen is pm.status_listen, a second socket just for the status.
	StatusListen, StatusNetwork, StatusAddress string

	User, Group, Chroot, Chdir string
	PingPath, PingResponse     string // the response is "pong" by default, "" without a path
	StatusPath                 string
	AccessLog, SlowLog         string
	// ListenMode is "0660" by default. Owner and group are "" where they are
	// not set: those of the master.
	ListenOwner, ListenGroup, ListenMode string
	// KeepsEnv tells that the workers get all of the master's environment
	// (clear_env = no).
	KeepsEnv bool
	// PHP holds php_value, php_admin_value, php_flag and php_admin_flag, in
	// the order of the files, under the directive's name ("memory_limit").
	PHP  []Directive
	File string // of the first mention
	Line int
}

// What Debian builds FPM with. Paths of pools are relative to the prefix, those
// of the master to the folder of state.
const (
	fpmPrefix   = "/usr"
	fpmStateDir = "/var"
	fpmNesting  = 5 // files in one another, FPM's own bound
)

// ReadFPM reads a configuration of PHP-FPM from its main file
// ("/etc/php/8.2/fpm/php-fpm.conf"). Relative paths are those of an FPM that was
// built as Debian does it and runs without -p.
//
// A fault of the language is a *SyntaxError, and a file that cannot be read
// wraps the error of files; FPM would not start either. A directive that is not
// known here is passed over: FPM's own test knows them better.
//
// ${NAME} is a variable of the environment, which nobody knows here: it stays as
// written. See ReadFPMEnv.
func ReadFPM(files Files, main string) (*FPM, error) { return ReadFPMEnv(files, main, nil) }

// ReadFPMEnv is ReadFPM for an FPM whose environment is known: a variable that
// is not in it is empty. A nil env is one that is not known.
func ReadFPMEnv(files Files, main string, env map[string]string) (*FPM, error) {
	r := &fpmReader{reader: reader{fsys: files, env: env}, fpm: &FPM{ErrorLog: "log/php-fpm.log"}, pool: -1}
	err := r.file(path.Clean(main))
	if err == nil && len(r.fpm.Pools) == 0 {
		err = errNoPools
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of PHP-FPM: %w", err)
	}
	r.finish()
	return r.fpm, nil
}

type fpmReader struct {
	reader
	fpm     *FPM
	raw     []rawPool // one for each pool
	pool    int       // the one being read, -1 for [global]
	nesting int
}

// rawPool is what of a pool matters only until all is read.
type rawPool struct {
	prefix               string
	hasPrefix, hasChroot bool // set, be it to nothing
}

// file reads line by line, as FPM does: nothing goes over a line's end. The
// section goes on into an included file, and out of it again.
func (r *fpmReader) file(name string) error {
	if r.nesting++; r.nesting > fpmNesting {
		return fmt.Errorf("more than %d files include one another", fpmNesting)
	}
	defer func() { r.nesting-- }()
	data, err := r.read(name)
	if err != nil {
		return err
	}
	if !slices.Contains(r.fpm.Files, name) {
		r.fpm.Files = append(r.fpm.Files, name)
	}
	line := 0
	for text := range strings.Lines(string(data)) {
		line++
		include, err := r.line(name, line, text)
		if err != nil {
			return err
		}
		if include == "" {
			continue
		}
		if err := r.include(name, line, include); err != nil {
			return err
		}
	}
	return nil
}

func (r *fpmReader) line(file string, line int, text string) (include string, err error) {
	text = strings.TrimSuffix(text, "\n")
	if text, _, _ = strings.Cut(text, "\x00"); text == "" {
		return "", nil
	}
	refuse := func(msg string) error { return &SyntaxError{File: file, Line: line, Msg: msg} }
	fault, err := parseIni([]byte(text+"\n"), r.envVariable, constantOf, func(st statement) error {
		err := r.count(st)
		if err != nil {
			return refuse(err.Error())
		}
		switch st.kind {
		case stSection:
			r.section(file, line, st.name)
		case stBare:
			hint := ""
			if strings.HasPrefix(st.name, "#") {
				hint = "; a comment begins with ;"
			}
			return refuse(conferr.Show(st.name) + " has no value" + hint)
		case stEntry:
			if st.name == "include" {
				include = st.value
				return nil
			}
			err = r.entry(st.name, st.value)
		case stElement:
			err = r.element(file, line, st)
		}
		if err != nil {
			return refuse(err.Error())
		}
		return nil
	})
	if fault != nil {
		fault.File, fault.Line = file, line
		return "", fault
	}
	return include, err
}

func (r *fpmReader) include(file string, line int, pattern string) error {
	pattern = under(fpmPrefix, pattern)
	at := fmt.Sprintf("%s:%d: include %s", conferr.Show(file), line, conferr.Show(pattern))
	names, err := glob(r.fsys, pattern)
	if err != nil {
		return fmt.Errorf("%s: %s", at, conferr.Reason(err))
	}
	read := 0
	for _, name := range names {
		switch err := r.file(name); {
		case err == nil:
			read++
		case errors.Is(err, jail.ErrNotRegular): // a folder
		case name == pattern && notThere(err):
		case isSyntax(err):
			return err
		default:
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	if read == 0 {
		r.fpm.Warnings = append(r.fpm.Warnings, Warning{Text: "nothing matches " + pattern, File: file, Line: line})
	}
	return nil
}

func isSyntax(err error) bool {
	var s *SyntaxError
	return errors.As(err, &s)
}

// section makes a pool, or goes on with one: names do not differ by case.
func (r *fpmReader) section(file string, line int, name string) {
	if strings.EqualFold(name, "global") {
		r.pool = -1
		return
	}
	r.pool = slices.IndexFunc(r.fpm.Pools, func(p Pool) bool { return strings.EqualFold(p.Name, name) })
	if r.pool < 0 {
		r.pool = len(r.fpm.Pools)
		r.fpm.Pools = append(r.fpm.Pools, Pool{Name: name, File: file, Line: line})
		r.raw = append(r.raw, rawPool{})
	}
}

// entry takes a directive; what is set twice is as it was set last.
func (r *fpmReader) entry(name, value string) error {
	name = strings.ToLower(name)
	if r.pool < 0 {
		switch name {
		case "pid":
			r.fpm.PIDFile = under(fpmStateDir, value)
		case "error_log":
			r.fpm.ErrorLog = value
		case "process_control_timeout":
			d, err := seconds(value)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.fpm.ControlTimeout = d
		}
		return nil
	}
	p, raw := &r.fpm.Pools[r.pool], &r.raw[r.pool]
	value = expandPool(value, p.Name)
	switch name {
	case "prefix":
		raw.prefix, raw.hasPrefix = value, true
	case "listen":
		p.Listen = value
	case "listen.owner":
		p.ListenOwner = value
	case "listen.group":
		p.ListenGroup = value
	case "listen.mode":
		p.ListenMode = value
	case "user":
		p.User = value
	case "group":
		p.Group = value
	case "chroot":
		p.Chroot, raw.hasChroot = value, true
	case "chdir":
		p.Chdir = value
	case "ping.path":
		p.PingPath = value
	case "ping.response":
		p.PingResponse = value
	case "pm.status_path":
		p.StatusPath = value
	case "pm.status_listen":
		p.StatusListen = value
	case "access.log":
		p.AccessLog = value
	case "slowlog":
		p.SlowLog = value
	case "clear_env":
		p.KeepsEnv = value != "1"
	}
	return nil
}

func (r *fpmReader) element(file string, line int, st statement) error {
	if r.pool < 0 {
		return errors.New("arrays are for pools")
	}
	p := &r.fpm.Pools[r.pool]
	d := Directive{Name: st.index, Value: st.value, File: file, Line: line}
	switch st.name {
	case "php_value", "php_admin_value":
		d.Value = expandPool(d.Value, p.Name)
	case "php_flag", "php_admin_flag":
		switch d.Value {
		case "1":
		case "":
			d.Value = "0"
		default:
			return fmt.Errorf("%s is neither on nor off", conferr.Show(st.value))
		}
	case "env":
		r.passes(st.value)
		return nil
	default:
		return nil // access.suppress_path
	}
	p.PHP = append(p.PHP, d)
	return nil
}
