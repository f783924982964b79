// Package webconf reads the configuration of web servers as the servers
// themselves read it, without running them: what they listen on, whom they
// serve, where they log, which names they resolve when they start.
//
// It reads what lies in a jail, so it trusts nothing: sizes, depth and the
// number of files are bounded, and every path goes through a small FS that
// the caller has rooted in the jail. It does not judge: a directive that it
// does not know is kept and passed over, for modules bring their own.
//
// Strings come out as they stand in the files. Whoever shows them cleans them.
package webconf

import "github.com/jailup/jailup/internal/conferr"

// FS is what a reader needs of a jail. Paths are absolute slash paths as the
// jail sees them; links are followed as the jail would follow them.
type FS interface {
	// ReadFile returns the whole of a regular file, and an error if it is
	// longer than limit bytes. A missing file gives an error that is
	// fs.ErrNotExist.
	ReadFile(path string, limit int64) ([]byte, error)
	// ReadDir returns the names in a directory, without "." and "..".
	ReadDir(path string) ([]string, error)
}

// Bounds of one reading. A configuration beyond them is refused by name: the
// largest that are met in the field (thousands of sites, country tables of
// some hundred thousand lines) stay well below.
const (
	maxFile       = 16 << 20 // bytes of one file
	maxTotal      = 64 << 20 // bytes of all files, each inclusion counted
	maxFiles      = 20_000   // inclusions
	maxIncludes   = 40       // inclusions in one another
	maxDepth      = 100      // blocks in one another
	maxDirectives = 400_000  // directives that are kept
	maxArgs       = 10_000   // arguments of one directive
	maxNames      = 100_000  // directory entries looked at for one pattern
	maxListens    = 20_000   // addresses that port ranges unfold to
)

// Directive is one directive of a configuration and where it stands.
type Directive struct {
	Name string
	Args []string
	// Block holds what stands between the braces, with included files in
	// the place where they are included. It is nil for a simple directive,
	// for a block whose language is another (lua), and for pure data tables
	// (geo, types, charset_map), which are read and not kept.
	Block []*Directive
	// IsBlock tells "name {}" from "name;".
	IsBlock bool
	File    string // as the jail sees it
	Line    int    // from 1, of the directive's name
}

// Arg returns the argument with index i, or "" where there are fewer.
func (d *Directive) Arg(i int) string {
	if i < 0 || i >= len(d.Args) {
		return ""
	}
	return d.Args[i]
}

// is reports whether the directive is a simple one of this name.
func (d *Directive) is(name string) bool { return !d.IsBlock && d.Name == name }

// SyntaxError is a fault in a configuration file. Its text is safe to show.
type SyntaxError = conferr.SyntaxError
