// Package recipes says what a server is, as data: packages, paths,
// configuration, service. A new server is one YAML file.
package recipes

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/jailup/jailup/internal/lazyregexp"
)

//go:embed *.yaml
var embedded embed.FS

// Recipe is one server, or a part of one. In the texts of a recipe with Series
// the word {series} stands for the series and {api} for the number of its binary
// interface; see At.
type Recipe struct {
	Name    string   `yaml:"name"`
	Aliases []string `yaml:"aliases,omitempty"`
	Title   string   `yaml:"title"`
	// Base names a recipe whose entries come before this one's. A recipe that is
	// Abstract is only a base.
	Base     string `yaml:"base,omitempty"`
	Abstract bool   `yaml:"abstract,omitempty"`
	// Within names the server that this is a part of: it is loaded by that one and
	// has no processes of its own.
	Within string `yaml:"within,omitempty"`
	// Companions are recipes that are upgraded together with this server where the
	// jail has them, in one transaction. They start before it and stop after it.
	Companions []string `yaml:"companions,omitempty"`
	Series     Series   `yaml:"series,omitempty"`
	// Packages are asked of the source; the first is the server itself.
	Packages []string `yaml:"packages"`
	// Owns are globs over package names whose files the jail holds whole.
	Owns []string `yaml:"owns"`
	// Without are packages that a file jail needs nothing of.
	Without     []string `yaml:"without,omitempty"`
	Executables []string `yaml:"executables"`
	// Runtime are globs over package paths (usr-merged) that are looked for by
	// name at run time. "**" stands for any number of directories.
	Runtime []string `yaml:"runtime,omitempty"`
	Exclude []string `yaml:"exclude,omitempty"`
	// Carry are path prefixes under which another series has the same things.
	Carry         []string      `yaml:"carry,omitempty"`
	Modules       Modules       `yaml:"modules,omitempty"`
	PHP           PHP           `yaml:"php,omitempty"`
	Effects       Effects       `yaml:"effects,omitempty"`
	Configuration Configuration `yaml:"configuration,omitempty"`
	// Version is the command that tells how the server was built.
	Version []string `yaml:"version,omitempty"`
	Service Service  `yaml:"service,omitempty"`
	// State are globs over paths that the running server writes.
	State  []string `yaml:"state,omitempty"`
	Create Create   `yaml:"create,omitempty"`
	// Outside is for jails whose server runs outside of them.
	Outside Outside `yaml:"outside,omitempty"`

	file    string
	parts   []*Recipe // see Join
	edition Edition   // see At
}

// Series tells how a program is packaged whose versions have names of their own
// (php8.2-fpm, php8.4-fpm), of which several may be installed side by side.
type Series struct {
	// Package is the name of the package that there is one of in each series.
	Package string `yaml:"package"`
	// Default is the package that depends on the series that a source means.
	Default string `yaml:"default,omitempty"`
	// API is the virtual package that tells the binary interface: phpapi-{api}.
	API string `yaml:"api,omitempty"`
}

// Modules are what --with can name.
type Modules struct {
	// Packages are names that the package of {module} may have, the best one first.
	Packages []string `yaml:"packages,omitempty"`
	// Within tells which modules lie in one package: its {module} and what it brings.
	Within map[string][]string `yaml:"within,omitempty"`
	// Files is where a module lies: a path with {module} and perhaps {api}.
	Files string `yaml:"files,omitempty"`
	// ABI is how modules are compared with the program: nginx, apache, php.
	ABI string `yaml:"abi,omitempty"`
}

// PHP tells where the PHP of this part has its settings, and how it is asked
// about itself.
type PHP struct {
	INI        string   `yaml:"ini,omitempty"`        // php.ini
	Scan       string   `yaml:"scan,omitempty"`       // folder of more
	Extensions string   `yaml:"extensions,omitempty"` // folder of shared objects
	Modules    []string `yaml:"modules,omitempty"`    // command that lists what is loaded
	Info       []string `yaml:"info,omitempty"`       // command that lists all directives
	Version    []string `yaml:"version,omitempty"`    // command that tells the version
	Env        []string `yaml:"env,omitempty"`        // of these commands
}

// Effects are what the packages' maintainer scripts would do, which never run in
// a file jail.
type Effects struct {
	// Copy are configuration files that lie elsewhere in the packages, as with ucf(1).
	Copy []Copy `yaml:"copy,omitempty"`
	// Enable are links by which what is there is switched on.
	Enable []Enable `yaml:"enable,omitempty"`
}

// Copy makes a file of the packages a configuration file. From is a glob; To is a
// path, or a folder where it ends with a slash.
type Copy struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

// Enable makes links in the folder To to the files that From fits.
type Enable struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
	// Priority is the number before the link's name where the file names none (a
	// line "; priority=NN"); 0 puts no number there.
	Priority int `yaml:"priority,omitempty"`
	// Names are those that are switched on; all where it is empty. Not are those
	// that this part switches off again.
	Names []string `yaml:"names,omitempty"`
	Not   []string `yaml:"not,omitempty"`
	// Relative links begin with "..", as a2enmod makes them.
	Relative bool `yaml:"relative,omitempty"`
}

// Configuration tells where the server's configuration is and how it is tested.
type Configuration struct {
	Reader string   `yaml:"reader"`
	Main   string   `yaml:"main"`
	Test   []string `yaml:"test"`
	// Option of the command line names another file than Main.
	Option string `yaml:"option,omitempty"`
	// TestWithout are options of the server's command line that its test does not
	// take over: those that make it a daemon, or that hide what it says.
	TestWithout []string `yaml:"test_without,omitempty"`
	// Environment is a file of shell variables that the configuration uses.
	Environment string `yaml:"environment,omitempty"`
	// Fails are regular expressions over the lines of Test's output: one that fits
	// is a failure, whatever the exit status says.
	Fails []string `yaml:"fails,omitempty"`
}

// Service tells how the server is started and which signals it knows.
type Service struct {
	Start    []string `yaml:"start"`
	PIDFiles []string `yaml:"pid_files,omitempty"`
	Quit     string   `yaml:"quit"`
	Term     string   `yaml:"term"`
	Reload   string   `yaml:"reload"`
	// Options are those of the command line that take a value.
	Options []Option `yaml:"options,omitempty"`
	// OneShot are options with which the program is no server.
	OneShot []string `yaml:"one_shot,omitempty"`
	// QuitOnce: a second quit signal would end connections at once.
	QuitOnce bool `yaml:"quit_once,omitempty"`
	// QuitChildren: the quit signal ends requests only if the children get it, and
	// the master after them.
	QuitChildren bool `yaml:"quit_children,omitempty"`
	// Environment are globs over names of variables that the server is started
	// with, beside those that its configuration refers to: those of the running
	// server, else of Configuration.Environment.
	Environment []string `yaml:"environment,omitempty"`
}

// Outside tells what a jail holds whose server runs on the host and puts only its
// children into the jail, as Apache's ChrootDir does. See Recipe.OnHost.
type Outside struct {
	// Packages are those whose files such a jail may hold; the first is asked for
	// in any case.
	Packages []string `yaml:"packages,omitempty"`
	// Owns are globs over package names whose files are the jail's.
	Owns []string `yaml:"owns,omitempty"`
	// Runtime are globs over package paths (usr-merged) of what the children load
	// after their root has changed.
	Runtime []string `yaml:"runtime,omitempty"`
	// Program is the server's path on the host. OnHost sets it.
	Program string `yaml:"program,omitempty"`
}

// Option is one of the command line. Two servers that differ in an Instance
// option are two servers.
type Option struct {
	Name     string `yaml:"name"`
	Instance bool   `yaml:"instance,omitempty"`
	Default  string `yaml:"default,omitempty"`
	// Aliases are other names of it. One that Repeats has several values, of which
	// those in Free make no other server.
	Aliases []string `yaml:"aliases,omitempty"`
	Repeats bool     `yaml:"repeats,omitempty"`
	Free    []string `yaml:"free,omitempty"`
}

// Create is what a new jail holds besides the files of packages.
type Create struct {
	Listen string  `yaml:"listen,omitempty"` // ADDR:PORT
	Users  []User  `yaml:"users,omitempty"`
	Groups []Group `yaml:"groups,omitempty"`
	Dirs   []Dir   `yaml:"dirs,omitempty"`
	Links  []Link  `yaml:"links,omitempty"`
	Files  []File  `yaml:"files,omitempty"`
}

// User is a line of /etc/passwd, passwd(5).
type User struct {
	Name  string `yaml:"name"`
	UID   int    `yaml:"uid"`
	GID   int    `yaml:"gid"`
	Home  string `yaml:"home"`
	Shell string `yaml:"shell"`
}

// Group is a line of /etc/group, group(5).
type Group struct {
	Name string `yaml:"name"`
	GID  int    `yaml:"gid"`
}

// Dir is a directory; Mode is octal text, Owner and Group are names of Create.
type Dir struct {
	Path  string `yaml:"path"`
	Mode  string `yaml:"mode"`
	Owner string `yaml:"owner,omitempty"`
	Group string `yaml:"group,omitempty"`
}

// Perm returns the permission bits.
func (d Dir) Perm() uint32 {
	n, _ := strconv.ParseUint(d.Mode, 8, 12) // checked by validate
	return uint32(n)
}

// Link is a symbolic link.
type Link struct {
	Path string `yaml:"path"`
	To   string `yaml:"to"`
}

// File is a text file; Content is a template with .Listen.
type File struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
}

// Values are what the templates of Create.Files may use.
type Values struct {
	Listen string          // ADDR:PORT; "" where the server gets none
	With   map[string]bool // the parts of the jail
}

// Render fills in the template.
func (f File) Render(v Values) (string, error) {
	t, err := template.New(f.Path).Option("missingkey=error").Parse(f.Content)
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", f.Path, err)
	}
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("cannot make %s: %s", f.Path, goTypeRE.ReplaceAllString(err.Error(), ""))
	}
	return b.String(), nil
}

const maxSize = 1 << 20

// ReadFile reads one recipe. Files that others may write are refused.
func ReadFile(file string) (*Recipe, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read recipe: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxSize {
		return nil, fmt.Errorf("cannot read recipe %s: not a file of at most 1 MiB", file)
	}
	if os.Geteuid() == 0 && st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("cannot read recipe %s: others may write to it", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read recipe: %w", err)
	}
	return Parse(file, data)
}

// Parse reads one recipe strictly: an unknown key is an error with its line. A
// recipe with a base is returned with the base's entries in it.
func Parse(file string, data []byte) (*Recipe, error) {
	r, err := decode(file, data)
	if err != nil {
		return nil, err
	}
	if r.Base != "" {
		base, err := embeddedBase(r.Base)
		if err != nil {
			return nil, fmt.Errorf("cannot read recipe %s: base: %w", file, err)
		}
		r.inherit(base)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("cannot read recipe %s: %w", file, err)
	}
	return r, nil
}

func decode(file string, data []byte) (*Recipe, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	r := &Recipe{file: file}
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("cannot read recipe %s: %s", file, oneLine(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read recipe %s: more than one document", file)
	}
	return r, nil
}

func embeddedBase(name string) (*Recipe, error) {
	data, err := embedded.ReadFile(path.Base(name) + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("there is no recipe %s to build on", name)
	}
	b, err := decode(name+".yaml", data)
	switch {
	case err != nil:
		return nil, err
	case !b.Abstract:
		return nil, fmt.Errorf("recipe %s is no base", name)
	case b.Base == "" || b.Base == name:
		return b, nil
	}
	under, err := embeddedBase(b.Base)
	if err != nil {
		return nil, err
	}
	b.inherit(under)
	return b, nil
}

var goTypeRE = lazyregexp.New(` (in|into) (type )?\[?[a-z]+\.[A-Za-z]+`)

// oneLine makes the reader's error fit for people, who know no Go types.
func oneLine(err error) string {
	if errors.Is(err, io.EOF) {
		return "it is empty"
	}
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:")
	return goTypeRE.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")
}

// File says where the recipe was read from.
func (r *Recipe) File() string { return r.file }

// Text is the recipe as YAML, its base's entries included.
func (r *Recipe) Text() ([]byte, error) {
	text, err := yaml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("cannot write recipe %s: %w", r.Name, err)
	}
	return text, nil
}

// Server is the package that gives the jail its version.
func (r *Recipe) Server() string { return r.Packages[0] }

// HasProcesses tells whether this is a server, and not only a part within one.
func (r *Recipe) HasProcesses() bool { return r.Within == "" }
