// Package recipes says what a server is, as data: packages, paths,
// configuration, service. A new server is one YAML file.
package recipes

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"text/template"
	"unicode"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

//go:embed *.yaml
var embedded embed.FS

// Recipe is one server.
type Recipe struct {
	Name    string   `yaml:"name"`
	Aliases []string `yaml:"aliases,omitempty"`
	Title   string   `yaml:"title"`
	// Packages are asked of the source; the first is the server itself.
	Packages []string `yaml:"packages"`
	// Owns are globs over package names whose files the jail holds whole.
	Owns []string `yaml:"owns"`
	// Without are packages that a file jail needs nothing of.
	Without     []string `yaml:"without,omitempty"`
	Executables []string `yaml:"executables"`
	// Runtime are globs over package paths (usr-merged) that are looked for by
	// name at run time. "**" stands for any number of directories.
	Runtime       []string      `yaml:"runtime,omitempty"`
	Exclude       []string      `yaml:"exclude,omitempty"`
	Configuration Configuration `yaml:"configuration"`
	// Version is the command that tells how the server was built.
	Version []string `yaml:"version,omitempty"`
	Service Service  `yaml:"service"`
	// State are globs over paths that the running server writes.
	State  []string `yaml:"state,omitempty"`
	Create Create   `yaml:"create,omitempty"`

	file string
	text []byte
}

// Configuration tells where the server's configuration is and how it is tested.
type Configuration struct {
	Reader string   `yaml:"reader"`
	Main   string   `yaml:"main"`
	Test   []string `yaml:"test"`
	// Option of the command line names another file than Main.
	Option string `yaml:"option,omitempty"`
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
}

// Option is one of the command line. Two servers that differ in an Instance
// option are two servers.
type Option struct {
	Name     string `yaml:"name"`
	Instance bool   `yaml:"instance,omitempty"`
	Default  string `yaml:"default,omitempty"`
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

// Render fills in the template.
func (f File) Render(listen string) (string, error) {
	t, err := template.New(f.Path).Option("missingkey=error").Parse(f.Content)
	if err != nil {
		return "", fmt.Errorf("cannot make %s: %w", f.Path, err)
	}
	var b strings.Builder
	if err := t.Execute(&b, struct{ Listen string }{listen}); err != nil {
		return "", fmt.Errorf("cannot make %s: %w", f.Path, err)
	}
	return b.String(), nil
}

// Set is a list of recipes.
type Set struct{ list []*Recipe }

// Load reads the embedded recipes and those of dir (*.yaml), which may be empty
// or missing; a recipe of dir takes the place of an embedded one of its name.
func Load(dir string) (*Set, error) {
	s := &Set{}
	names, err := fs.Glob(embedded, "*.yaml")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		data, err := embedded.ReadFile(n)
		if err != nil {
			return nil, err
		}
		r, err := Parse(n, data)
		if err != nil {
			return nil, err
		}
		s.put(r)
	}
	if dir == "" {
		return s, nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		r, err := ReadFile(f)
		if err != nil {
			return nil, err
		}
		s.put(r)
	}
	return s, nil
}

func (s *Set) put(r *Recipe) {
	for i, old := range s.list {
		if old.Name == r.Name {
			s.list[i] = r
			return
		}
	}
	s.list = append(s.list, r)
	sort.Slice(s.list, func(i, k int) bool { return s.list[i].Name < s.list[k].Name })
}

// All returns the recipes, sorted by name.
func (s *Set) All() []*Recipe { return s.list }

// Find returns the recipe with that name or alias.
func (s *Set) Find(name string) (*Recipe, bool) {
	for _, r := range s.list {
		if r.Name == name {
			return r, true
		}
		for _, a := range r.Aliases {
			if a == name {
				return r, true
			}
		}
	}
	return nil, false
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

// Parse reads one recipe strictly: an unknown key is an error with its line.
func Parse(file string, data []byte) (*Recipe, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	r := &Recipe{file: file, text: data}
	if err := dec.Decode(r); err != nil {
		return nil, fmt.Errorf("cannot read recipe %s: %s", file, oneLine(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read recipe %s: more than one document", file)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("cannot read recipe %s: %w", file, err)
	}
	return r, nil
}

var goTypeRE = regexp.MustCompile(` (in|into) (type )?[a-z]+\.[A-Za-z]+`)

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

// Text is the YAML that the recipe was read from.
func (r *Recipe) Text() []byte { return r.text }

// Server is the package that gives the jail its version.
func (r *Recipe) Server() string { return r.Packages[0] }

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)

// readers are the configuration readers that there are.
var readers = map[string]bool{"nginx": true}

func (r *Recipe) validate() error {
	switch {
	case !nameRE.MatchString(r.Name):
		return fmt.Errorf("name: %q is no name (lower case letters, digits, + - .)", r.Name)
	case len(r.Packages) == 0:
		return errors.New("packages: at least one is needed")
	case len(r.Executables) == 0:
		return errors.New("executables: at least one is needed")
	case len(r.Service.Start) == 0:
		return errors.New("service.start: the command that starts the server is needed")
	case !readers[r.Configuration.Reader]:
		return fmt.Errorf("configuration.reader: %q is not known (nginx)", r.Configuration.Reader)
	}
	for _, p := range r.Packages {
		if !nameRE.MatchString(p) {
			return fmt.Errorf("packages: %q is no package name", p)
		}
	}
	for _, a := range r.Aliases {
		if !nameRE.MatchString(a) {
			return fmt.Errorf("aliases: %q is no name", a)
		}
	}
	for key, globs := range map[string][]string{"owns": r.Owns, "without": r.Without} {
		for _, g := range globs {
			if err := checkGlob(g); err != nil {
				return fmt.Errorf("%s: %q: %w", key, g, err)
			}
		}
	}
	for _, s := range []struct{ key, name string }{{"quit", r.Service.Quit}, {"term", r.Service.Term}, {"reload", r.Service.Reload}} {
		if unix.SignalNum(s.name) == 0 {
			return fmt.Errorf("service.%s: %q is no signal (SIGTERM, say)", s.key, s.name)
		}
	}
	for _, l := range []struct {
		key   string
		paths []string
	}{
		{"executables", r.Executables}, {"runtime", r.Runtime}, {"exclude", r.Exclude}, {"state", r.State},
		{"service.start", r.Service.Start[:1]}, {"service.pid_files", r.Service.PIDFiles},
		{"configuration.main", []string{r.Configuration.Main}}, {"configuration.test", first(r.Configuration.Test)}, {"version", first(r.Version)},
	} {
		for _, p := range l.paths {
			if !absolute(p) {
				return fmt.Errorf("%s: %q is no absolute path", l.key, p)
			}
			if err := checkGlob(p); err != nil {
				return fmt.Errorf("%s: %q: %w", l.key, p, err)
			}
		}
	}
	return r.Create.validate()
}

// absolute tells whether a path is absolute and clean, so that it says what it
// means, and can be shown.
func absolute(p string) bool {
	return path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsFunc(p, unicode.IsControl)
}

func first(argv []string) []string { return argv[:min(1, len(argv))] }

func (c *Create) validate() error {
	if c.Listen != "" {
		if err := CheckListen(c.Listen); err != nil {
			return fmt.Errorf("create.listen: %w", err)
		}
	}
	users, groups := map[string]bool{"": true}, map[string]bool{"": true}
	for _, u := range c.Users {
		if !nameRE.MatchString(u.Name) || u.UID < 0 || u.GID < 0 || strings.ContainsAny(u.Home+u.Shell, ":\n") {
			return fmt.Errorf("create.users: %q is no user", u.Name)
		}
		users[u.Name] = true
	}
	for _, g := range c.Groups {
		if !nameRE.MatchString(g.Name) || g.GID < 0 {
			return fmt.Errorf("create.groups: %q is no group", g.Name)
		}
		groups[g.Name] = true
	}
	for _, d := range c.Dirs {
		if _, err := strconv.ParseUint(d.Mode, 8, 12); err != nil || !absolute(d.Path) {
			return fmt.Errorf("create.dirs: %q needs an absolute path and an octal mode", d.Path)
		}
		if !users[d.Owner] || !groups[d.Group] {
			return fmt.Errorf("create.dirs: %s: no such user or group in create", d.Path)
		}
	}
	for _, l := range c.Links {
		if !absolute(l.Path) || l.To == "" {
			return fmt.Errorf("create.links: %q needs an absolute path and a target", l.Path)
		}
	}
	for _, f := range c.Files {
		if !absolute(f.Path) {
			return fmt.Errorf("create.files: %q is no absolute path", f.Path)
		}
		if _, err := f.Render("127.0.0.1:80"); err != nil {
			return err
		}
	}
	return nil
}

// CheckListen accepts ADDR:PORT with a literal address, and *:PORT.
func CheckListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not ADDR:PORT", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q is no port (1 to 65535)", port)
	}
	if host != "*" && net.ParseIP(host) == nil {
		return fmt.Errorf("%q is no IP address", host)
	}
	return nil
}
