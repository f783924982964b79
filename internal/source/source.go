// Package source knows where software comes from: apt repositories, by the
// host's own sources files and keyrings, and folders of .deb files. It resolves
// what a server needs to one consistent set of packages, and fetches them into
// a content-addressed cache.
//
// Nothing that a mirror, a proxy or a network says is believed before it was
// verified: the index by an OpenPGP signature of a key that the sources line
// names, every other file by the size and the SHA-256 that a verified file
// tells. Whatever does not fit is an error of type *Error whose kind a caller
// finds with errors.Is.
package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// Kinds of an *Error, for errors.Is.
var (
	// ErrStale: the mirror's index is older than the one seen last, and that one
	// is no longer in the cache. The *Error carries both dates.
	ErrStale = errors.New("the mirror is behind")
	// ErrExpired: the index is past its Valid-Until, or from the future.
	ErrExpired = errors.New("the index is not valid at this time")
	// ErrSignature: the index is not signed, or not by a key that may sign it.
	ErrSignature = errors.New("no valid signature")
	// ErrKeyring: a file of keys is missing, or holds none that can be read.
	ErrKeyring = errors.New("cannot read the keyring")
	// ErrRelease: the signed index is not what the sources line asks for, or
	// cannot be read.
	ErrRelease = errors.New("wrong index")
	// ErrHash: a file has another size or digest than a verified file tells.
	ErrHash = errors.New("content is not what was signed")
	// ErrUnreachable: a source, or each of them, gave no answer or no file.
	ErrUnreachable = errors.New("unreachable")
	// ErrSources: the sources files or keyrings cannot be used as they are.
	ErrSources = errors.New("wrong sources")
	// ErrUnresolved: no consistent set of packages answers the request.
	ErrUnresolved = errors.New("cannot be resolved")
)

// Error says what is wrong with one source, index or file.
type Error struct {
	Kind   error  // one of the Err… values of this package
	Source string // "URI SUITE" of the source or the name of the file, clean for printing
	Err    error  // the cause in words

	MirrorDate, SeenDate time.Time // ErrStale: the index offered, and the one seen last
}

// Error is the cause with what it was about.
func (e *Error) Error() string {
	if e.Source == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("cannot use %s: %s", e.Source, e.Err)
}

// Unwrap gives the kind and the cause, for errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

func fail(kind error, about, format string, args ...any) error {
	return &Error{Kind: kind, Source: event.Clean(about, 300), Err: fmt.Errorf(format, args...)}
}

// Package is one version of one package, as an index or a file tells.
type Package struct {
	pkgs.Stanza
	Origin   string // the source, for messages: "http://host/debian bookworm/main", or the folder
	Suite    string // of the Release file, "" from a folder
	Codename string // of the Release file, "" from a folder
	Priority int    // 500; 100 for ButAutomaticUpgrades, 1 for NotAutomatic (apt_preferences(5))
	URL      string // where its file lies: http:, https:, file: URL, or a path from a folder
}

// String is "name version", for messages.
func (p Package) String() string { return p.Package + " " + p.Version }

// Source offers packages. Both methods may be called again, and give the same
// while nothing changed outside.
type Source interface {
	// Index brings the verified list of packages up to date and returns it.
	Index(ctx context.Context) (*Index, error)
	// Fetch brings the files of the packages into the cache, several at once,
	// and returns them by SHA-256. Each was verified by size, SHA-256 and the
	// control file inside. progress may be nil; it is never called twice at once.
	Fetch(ctx context.Context, want []Package, progress func(Progress)) (map[string]Blob, error)
}

// Progress tells how far a download is.
type Progress struct {
	Item              string // what was worked on last, clean for printing
	Bytes, TotalBytes int64
	Items, TotalItems int // files
}

// Notice is something that the user should know and that stops nothing.
type Notice struct {
	Source  string // "URI SUITE"
	Message string
}

// Blob is a file of known content.
type Blob struct {
	Path   string // for messages; open it by Open only
	SHA256 string
	Size   int64

	hashed *hashed // of its cache
}

// Open opens the file and, unless this process has done so and nobody has changed it
// since, hashes it through the descriptor that it returns, at offset 0: what is read is
// what was hashed. Content that changed is an
// ErrHash.
func (b Blob) Open() (*os.File, error) {
	return openVerified(b.Path, b.SHA256, b.Size, b.hashed)
}
