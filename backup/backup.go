// Package backup keeps copies of a jail elsewhere: on another folder or another
// partition, complete, checkable, and sharing no inode with the jail.
//
// A snapshot is made in three strokes, so that what happens while the server is
// down costs what changed and not what the jail weighs:
//
//	Begin   server up     copy everything                .ID.partial/
//	Settle  server down   copy again what changed since  .ID.partial/
//	Seal    either        manifest and meta, one rename  ID/
//
// Whatever is cut off before the rename is found by Sweep, or taken up again by
// Resume. The jail is hostile and alive: it is walked by descriptors, no link is
// followed, no mount entered, and nothing but regular files and directories is
// ever opened.
package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
)

// Store keeps snapshots of any number of jails. All kinds pass storetest.Run.
// A Store is safe for concurrent use, also by several processes.
type Store interface {
	// Kind names how copies are made: "copy".
	Kind() string
	// Begin copies src, which may change meanwhile, and makes the copy durable.
	// The copy has no name yet. On an error nothing of it is left. id must be
	// new (ErrExist) and consist of letters, digits, '.', '_' and '-'.
	Begin(ctx context.Context, src *jail.Root, id string, opts CopyOptions) (*Pending, error)
	// Resume takes up a copy whose process died after Begin had returned.
	// ErrNotResumable: drop it with Sweep and begin anew.
	Resume(ctx context.Context, id string) (*Pending, error)
	// List returns the sealed snapshots, oldest first. One that cannot be read
	// is listed with Broken set.
	List(ctx context.Context) ([]Meta, error)
	// Open reads a sealed snapshot and checks that its manifest is the one that
	// was sealed. Close it. ErrNotFound if there is none of that id.
	Open(ctx context.Context, id string) (*Snapshot, error)
	// Remove takes the name away first, then the files. A missing snapshot is
	// no error.
	Remove(ctx context.Context, id string) error
	// Sweep removes what interrupted runs left, and returns the ids. A copy
	// that a living process works on is left alone.
	Sweep(ctx context.Context) ([]string, error)
}

// Errors that callers tell apart.
var (
	ErrExist        = errors.New("snapshot exists already")
	ErrNotFound     = errors.New("no such snapshot")
	ErrNotResumable = errors.New("copy cannot be taken up again")
	ErrBusy         = errors.New("another process works on it")
)

// StageName is the folder in a jail's root that belongs to jailup: never copied.
const StageName = ".jailup-stage"

// CopyOptions says how to copy. The zero value copies everything.
type CopyOptions struct {
	// Exclude leaves out what matches, directories with all below. A pattern
	// with a slash is matched against the whole path as the jail sees it, one
	// without against the last name; '*', '?' and '[…]' as in path.Match, "**"
	// matches any number of directories.
	Exclude []string
	// Workers is how many files are copied at once; 0 means four.
	Workers int
	// NoReflink copies bytes also where the file system could share blocks.
	NoReflink bool
	// Progress is called about ten times a second from one goroutine, and once
	// at the end, with what was copied so far.
	Progress func(files int, bytes int64)
}

// Changed counts what Settle did.
type Changed struct {
	Copied  int   // entries made or made again
	Removed int   // names taken out, a whole directory counting as one
	Dirs    int   // directories whose owner, mode, times or attributes were set again
	Bytes   int64 // file bytes copied again
}

// Consistency of a snapshot.
const (
	Stopped = "stopped" // settled while the server was down
	Live    = "live"    // the server ran until the end
)

// Meta describes a sealed snapshot. Seal takes JailID, Jail, Consistency,
// Packages, Reason and Run from its caller and fills in the rest.
type Meta struct {
	Version     int               `json:"version"` // of the snapshot's format: 1
	ID          string            `json:"id"`
	JailID      string            `json:"jail_id"`
	Jail        string            `json:"jail"` // real path when it was copied
	Created     time.Time         `json:"created"`
	Kind        string            `json:"kind"` // "copy", or "reflink" where blocks are shared with the jail's
	Consistency string            `json:"consistency"`
	Entries     int               `json:"entries"` // lines of the manifest
	Files       int               `json:"files"`   // regular files, hard links counted once each
	Bytes       int64             `json:"bytes"`   // their sizes added up, hard links once
	Packages    map[string]string `json:"packages,omitempty"`
	Reason      string            `json:"reason,omitempty"`
	Run         string            `json:"run,omitempty"`
	Exclude     []string          `json:"exclude,omitempty"`
	Skipped     []Skipped         `json:"skipped,omitempty"`
	Manifest    string            `json:"manifest_sha256"`

	// Broken says why a listed snapshot cannot be used; empty for a whole one.
	Broken string `json:"-"`
}

// Skipped is something of the jail that the snapshot does not hold.
type Skipped struct {
	Path   string `json:"path"` // fit to be shown, not to be opened
	Reason string `json:"reason"`
}

// Problem is one way in which a snapshot is not what its manifest says.
type Problem struct {
	Path string // as the jail saw it
	What string // "missing", "not in the manifest", "mode is 0644, not 0755", …
}

// String makes one line that is fit for a terminal.
func (p Problem) String() string { return show(p.Path) + ": " + p.What }

// Change is one difference between two trees.
type Change struct {
	Path string
	Kind ChangeKind
	// What names the differences of a changed entry: "content", "mode",
	// "owner", "mtime", "type", "target", "device", "xattrs", "hard links".
	What []string
}

// ChangeKind says on which side of a comparison a path is.
type ChangeKind string

// Kinds of a Change, seen from the snapshot that Diff was called on.
const (
	Added    ChangeKind = "added"   // the other side has it, the snapshot has not
	Removed  ChangeKind = "removed" // the snapshot has it, the other side has not
	Modified ChangeKind = "modified"
)

// String makes one line that is fit for a terminal.
func (c Change) String() string {
	if len(c.What) == 0 {
		return fmt.Sprintf("%s %s", c.Kind, show(c.Path))
	}
	return fmt.Sprintf("%s %s (%s)", c.Kind, show(c.Path), join(c.What))
}

// show makes a path from a jail fit for a message.
func show(path string) string { return event.Clean(path, 200) }

func validID(id string) error {
	bad := id == "" || len(id) > 128 || id[0] == '.' || id[0] == '-'
	for i := 0; i < len(id) && !bad; i++ {
		c := id[i]
		bad = !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if bad {
		return fmt.Errorf("cannot use %q as the name of a snapshot: only letters, digits, '.', '_' and '-', at most 128", show(id))
	}
	return nil
}
