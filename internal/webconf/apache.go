package webconf

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// Apache is a configuration of httpd, read with all that it includes.
type Apache struct {
	// Directives is the tree that is left when all conditions are decided: an
	// Include is kept and followed by what it brought in, and what stood in a
	// condition that holds stands in its place.
	Directives []*Directive

	root     string
	files    []string
	modules  []Module
	warnings []string
	env      []string // see EnvNames

	// What many virtual hosts ask for, looked up once.
	main      map[string]*Directive // by lower name: the last outside all sections
	loaded    map[string]bool
	mpm       string
	balancers map[string][]FastCGI // members of <Proxy balancer://NAME>, by lower name
	handlers  []handler            // outside virtual hosts
	phpOff    bool                 // PHP as a module is switched off there
}

// ApacheOptions is what httpd knows before it reads its configuration.
type ApacheOptions struct {
	// Env is the environment: what ReadEnvVars returns, or that of a server
	// that runs. The environment of this process is never looked at.
	Env map[string]string
	// Defines are the names given with -D.
	Defines []string
	// Before and After are directives given with -C and -c: they count as lines
	// before and behind the files.
	Before, After []string
	// ServerRoot is the one built in, or given with -d; "" is the folder of
	// the main file, as it is on Debian. The directive of this name beats it.
	ServerRoot string
	// Version is the server's ("2.4.57") for <IfVersion>; "" knows only that
	// it is some 2.4.
	Version string
}

// ReadApache reads the configuration whose main file is main
// ("/etc/apache2/apache2.conf"), as httpd 2.4 does when it starts.
//
// A fault of the language or a bound that is exceeded is a *SyntaxError with
// file and line; a file that cannot be read wraps the FS's error and names
// the directive that asked for it. Whether a directive exists and its
// arguments are right is not judged. What cannot be known is in Warnings.
func ReadApache(files FS, main string, o ApacheOptions) (*Apache, error) {
	return readApache(files, main, o, func(*apacheReader) {})
}

// readApache shows the reader when it is done.
func readApache(files FS, main string, o ApacheOptions, done func(*apacheReader)) (*Apache, error) {
	root := o.ServerRoot
	if root == "" {
		root = path.Dir(main)
	}
	if !path.IsAbs(root) {
		return nil, fmt.Errorf("cannot read the configuration of apache: %s is not absolute", conferr.Show(root))
	}
	root = path.Clean(root)
	r := &apacheReader{
		fsys: files, root: root, version: o.Version, env: o.Env,
		defines: map[string]bool{}, vars: map[string]string{}, macros: map[string]*apacheMacro{},
		loaded: map[string]bool{}, seen: map[string]bool{},
	}
	for _, name := range o.Defines {
		r.defines[name] = true
	}
	for _, name := range static() {
		r.loaded[name] = true
	}
	tree, err := r.all(absoluteIn(root, main), o)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of apache: %w", err)
	}
	a := &Apache{Directives: tree, root: r.root, files: r.files, modules: r.modules, env: r.used}
	a.index()
	a.dubious(r)
	a.warnings = r.warnings
	done(r)
	return a, nil
}

// index looks up what is asked for again and again.
func (a *Apache) index() {
	a.main, a.loaded = map[string]*Directive{}, map[string]bool{}
	for _, d := range a.Directives {
		if !d.IsBlock {
			a.main[strings.ToLower(d.Name)] = d
		}
	}
	for _, m := range a.modules {
		a.loaded[m.Name] = a.loaded[m.Name] || !m.LoadFile
	}
	a.mpm = a.findMPM()
	a.balancers = a.findBalancers()
	a.handlers = a.handlersOf(a.Directives)
	a.phpOff = a.servers()[0].engineOff()
}

// dubious warns of addresses that httpd would not take.
func (a *Apache) dubious(r *apacheReader) {
	for _, d := range a.Directives {
		at := position{d.File, d.Line}
		switch {
		case d.named("Listen"):
			if _, ok := apacheListen(d); !ok {
				r.warn(at, "the address "+conferr.Show(d.Arg(0))+" is not one to listen on")
			}
		case d.section("VirtualHost"):
			for _, arg := range d.Args {
				if _, ok := parseVHostAddr(arg); !ok {
					r.warn(at, "the address "+conferr.Show(arg)+" is not one of a virtual host")
				}
			}
		}
	}
}

// named and section compare names as httpd does, which does not mind the case.
func (d *Directive) named(name string) bool   { return !d.IsBlock && strings.EqualFold(d.Name, name) }
func (d *Directive) section(name string) bool { return d.IsBlock && strings.EqualFold(d.Name, name) }

// last returns the last directive of this name directly in a list, which is
// the one that counts.
func last(list []*Directive, name string) *Directive {
	for _, d := range slices.Backward(list) {
		if d.named(name) {
			return d
		}
	}
	return nil
}

// setting is the first argument of a directive outside all sections.
func (a *Apache) setting(name string) string {
	if d := a.main[strings.ToLower(name)]; d != nil {
		return d.Arg(0)
	}
	return ""
}

// Files names every file that was read, once each, in the order of the first
// reading.
func (a *Apache) Files() []string { return slices.Clone(a.files) }

// Warnings tells what could not be known for certain, each with file and line:
// variables without a value, conditions that were taken to hold, addresses
// that make no sense. Safe to show.
func (a *Apache) Warnings() []string { return slices.Clone(a.warnings) }

// ServerRoot is the folder that relative paths start at.
func (a *Apache) ServerRoot() string { return a.root }

// ChrootDir returns the folder that the server puts its children into, cleaned
// and as the server sees it before; "" without one. A relative one starts
// where the server was started, which nobody knows here: it is as if it
// started at /.
func (a *Apache) ChrootDir() string {
	if dir := a.setting("ChrootDir"); dir != "" {
		return absoluteIn("/", dir)
	}
	return ""
}

// PIDFile returns the pid file, absolute: a relative one starts at ServerRoot.
// It is "" where the configuration leaves it to the server's own default.
func (a *Apache) PIDFile() string {
	if name := a.setting("PidFile"); name != "" {
		return absoluteIn(a.root, name)
	}
	return ""
}

// User returns the children's user as configured, "" for the server's own
// default. "#33" is a number.
func (a *Apache) User() string { return a.setting("User") }

// Group returns the children's group as configured, "" for the default.
func (a *Apache) Group() string { return a.setting("Group") }

// ErrorLogs returns the files that errors are written to, absolute and once
// each: that of the main server first, the built-in one if none is named, then
// those of the virtual hosts. Pipes, syslog and devices are left out.
func (a *Apache) ErrorLogs() []string {
	main := "logs/error_log"
	if d := a.main["errorlog"]; d != nil {
		main = d.Arg(0)
	}
	all := []string{main}
	for _, d := range a.Directives {
		if d.section("VirtualHost") {
			if log := last(d.Block, "ErrorLog"); log != nil {
				all = append(all, log.Arg(0))
			}
		}
	}
	var list []string
	for _, name := range all {
		if name == "" || name[0] == '|' || name == "syslog" || strings.HasPrefix(name, "syslog:") {
			continue
		}
		if name = absoluteIn(a.root, name); !strings.HasPrefix(name, "/dev/") && !strings.HasPrefix(name, "/proc/") {
			list = append(list, name)
		}
	}
	return unique(list)
}
