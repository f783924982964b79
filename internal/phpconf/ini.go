package phpconf

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// Extension is a shared object that PHP loads when it starts.
type Extension struct {
	Name string // without folder and .so: "mysqli"
	Path string // absolute, as the jail sees it
	Zend bool   // zend_extension: part of the engine, loaded before all others
	File string
	Line int
}

// Ini is a configuration of PHP, in the order in which PHP reads it.
type Ini struct {
	// Files are the main file and those of the scan folder that are there.
	Files []string
	// Directives are those that hold everywhere. The last one of a name is in
	// force. What loads extensions is not among them, as it is none for PHP.
	Directives []Directive
	Extensions []Extension
	// Scoped are directives of [PATH=...] and [HOST=...] sections. After such
	// a section PHP puts all that follows in the file there, whatever plain
	// section it stands in; only extensions of a plain one are loaded again.
	Scoped []Directive
	// Warnings are faults of the language. As in PHP a fault ends its file,
	// what stands before it counts, and the next file is read.
	Warnings []Warning

	env []string // see EnvNames
}

// ReadIni reads a configuration of PHP: the file main ("/etc/php/8.2/fpm/php.ini"),
// then all NAME.ini of scanDir ("/etc/php/8.2/fpm/conf.d") in the order of their
// bytes. scanDir may be several folders with ":" between them, as PHP_INI_SCAN_DIR;
// an empty main or scanDir is none. What is not there is no error.
//
// extensionDir is the folder that PHP was built to load extensions from
// ("/usr/lib/php/20220829"); a directive extension_dir beats it. A name without
// .so is that of a file with it, as PHP tries it second: "extension=gd". A path
// with a slash that is not absolute begins at the root, where servers run.
//
// ${NAME} is the value of a directive set before, else of the environment, which
// nobody knows here: it stays as written. See ReadIniEnv. A constant whose value
// depends on PHP's version (E_ALL) leaves its expression as written.
//
// An error is a file that cannot be read, or a bound that is exceeded.
func ReadIni(files Files, main, scanDir, extensionDir string) (*Ini, error) {
	return ReadIniEnv(files, main, scanDir, extensionDir, nil)
}

// ReadIniEnv is ReadIni for a PHP whose environment is known: a variable that is
// not in it is empty, as it is for PHP. A nil env is one that is not known.
func ReadIniEnv(files Files, main, scanDir, extensionDir string, env map[string]string) (*Ini, error) {
	r := &iniReader{reader: reader{fsys: files, env: env}, ini: &Ini{}, set: map[string]string{}, extensionDir: extensionDir}
	if err := r.all(main, scanDir); err != nil {
		return nil, fmt.Errorf("cannot read the configuration of PHP: %w", err)
	}
	r.resolve()
	return r.ini, nil
}

type iniReader struct {
	reader
	ini          *Ini
	set          map[string]string // directives in force so far
	extensionDir string
}

func (r *iniReader) all(main, scanDir string) error {
	if main != "" {
		if err := r.file(main); err != nil {
			return err
		}
	}
	for _, dir := range strings.Split(scanDir, ":") {
		if dir == "" {
			continue
		}
		names, err := r.fsys.ReadDir(dir)
		if notThere(err) {
			continue
		}
		if err != nil {
			return &conferr.ReadError{File: dir, Cause: err}
		}
		if len(names) > maxNames {
			return fmt.Errorf("%s has more than %d entries", conferr.Show(dir), maxNames)
		}
		names = slices.Clone(names)
		slices.Sort(names)
		for _, name := range names {
			if !strings.HasSuffix(name, ".ini") {
				continue
			}
			if err := r.file(path.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *iniReader) file(name string) error {
	data, err := r.read(name)
	if err != nil {
		if notThere(err) {
			return nil
		}
		return err
	}
	r.ini.Files = append(r.ini.Files, name)
	special, scoped := false, false
	fault, err := parseIni(data, r.variable, r.constant, func(st statement) error {
		if err := r.count(st); err != nil {
			return fmt.Errorf("%s: %w", conferr.Show(name), err)
		}
		d := Directive{Name: st.name, Value: st.value, File: name, Line: st.line}
		switch st.kind {
		case stSection:
			special = isSpecial(st.name)
			scoped = scoped || special
		case stEntry:
			zend := strings.EqualFold(st.name, "zend_extension")
			switch {
			case !special && (zend || strings.EqualFold(st.name, "extension")):
				r.extension(d, zend)
			case scoped:
				r.ini.Scoped = append(r.ini.Scoped, d)
			default:
				r.ini.Directives = append(r.ini.Directives, d)
				r.set[st.name] = st.value
			}
		case stElement:
			d.Name += "[" + st.index + "]"
			if scoped {
				r.ini.Scoped = append(r.ini.Scoped, d)
			} else {
				r.ini.Directives = append(r.ini.Directives, d)
			}
		}
		return nil
	})
	if fault != nil {
		r.ini.Warnings = append(r.ini.Warnings, Warning{Text: fault.Msg, File: name, Line: fault.Line})
	}
	return err
}

// isSpecial knows the sections that hold for one folder or one host. PHP looks
// at the first letters only, and at whether anything follows.
func isSpecial(section string) bool {
	return len(section) >= 4 && (strings.EqualFold(section[:4], "PATH") || strings.EqualFold(section[:4], "HOST"))
}

func (r *iniReader) extension(d Directive, zend bool) {
	if d.Value != "" {
		r.ini.Extensions = append(r.ini.Extensions, Extension{Path: d.Value, Zend: zend, File: d.File, Line: d.Line})
	}
}

// resolve finds the files of extensions. PHP loads them when it has read all,
// so the last extension_dir holds for those before it, too.
func (r *iniReader) resolve() {
	if d, ok := r.ini.Get("extension_dir"); ok && d.Value != "" {
		r.extensionDir = d.Value
	}
	for i := range r.ini.Extensions {
		e := &r.ini.Extensions[i]
		e.Name, e.Path = ExtensionPath(e.Path, r.extensionDir)
	}
}

// ExtensionPath is where PHP looks for an extension that a configuration names
// so ("mysqli", "mysqli.so", "/opt/x.so"), and its name without folder and .so.
func ExtensionPath(value, dir string) (name, file string) {
	name = strings.TrimSuffix(path.Base(value), ".so")
	switch {
	case strings.Contains(value, "/"):
		return name, path.Join("/", value)
	case strings.HasSuffix(value, ".so"):
		return name, path.Join("/", dir, value)
	}
	return name, path.Join("/", dir, value+".so")
}

func (r *iniReader) variable(name string) (string, bool) {
	if v, ok := r.set[name]; ok {
		return v, true
	}
	refers(&r.ini.env, name)
	return r.reader.variable(name)
}

func (r *iniReader) constant(name string) (string, bool, bool) {
	if name == "PHP_EXTENSION_DIR" && r.extensionDir != "" {
		return r.extensionDir, true, false
	}
	return constantOf(name)
}

// Get returns the directive that is in force: the last one of that name, which
// is case sensitive, as it is for PHP.
func (i *Ini) Get(name string) (Directive, bool) {
	for _, d := range slices.Backward(i.Directives) {
		if d.Name == name {
			return d, true
		}
	}
	return Directive{}, false
}

// Names lists the directives that are set, once each, sorted, as they are
// written: PHP takes "Memory_Limit" for another one than "memory_limit", and
// knows no such. An array's elements are one name.
func (i *Ini) Names() []string {
	var names []string
	for _, d := range slices.Concat(i.Directives, i.Scoped) {
		names = append(names, baseName(d.Name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func baseName(name string) string {
	base, _, _ := strings.Cut(name, "[")
	return base
}

// Removed lists the directives that are set, that the old PHP knows and the new
// one does not, each place of it, in the order of the files. What neither knows
// is somebody's own and no news. The sets are ParseInfo's.
func Removed(i *Ini, knownOld, knownNew map[string]bool) []Directive {
	return removed(slices.Concat(i.Directives, i.Scoped), knownOld, knownNew)
}

// RemovedFPM is Removed for what pools set by php_value and its kin.
func RemovedFPM(f *FPM, knownOld, knownNew map[string]bool) []Directive {
	var all []Directive
	for _, p := range f.Pools {
		all = append(all, p.PHP...)
	}
	return removed(all, knownOld, knownNew)
}

func removed(all []Directive, knownOld, knownNew map[string]bool) []Directive {
	var gone []Directive
	for _, d := range all {
		if name := baseName(d.Name); knownOld[name] && !knownNew[name] {
			gone = append(gone, d)
		}
	}
	return gone
}

var errNoPools = errors.New("no pool is defined")
