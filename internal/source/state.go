package source

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

// seen is what is remembered of one source: the Date of the newest index that
// was verified and used whole, and where its signed file lies in the cache. It
// outlives the cache, so that an emptied cache does not open the door to an old
// index.
type seen struct {
	Version      int       `json:"version"`
	Source       string    `json:"source"` // "URI SUITE", for people
	Date         time.Time `json:"date"`
	InRelease    string    `json:"inrelease"` // SHA-256
	ETag         string    `json:"etag,omitempty"`
	LastModified string    `json:"last_modified,omitempty"`
}

const seenVersion = 1

// memory keeps seen values, one file for each source.
type memory struct{ dir string }

func (m memory) path(e entry) string {
	sum := sha256.Sum256([]byte(e.URI.String() + "\n" + e.Suite))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:16])+".json")
}

// load returns what is remembered, the zero value for a source never seen. A
// file that cannot be understood is an error: to go on without it would be to
// take any old index for new.
func (m memory) load(e entry) (seen, error) {
	path := m.path(e)
	data, err := readLimited(path, 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return seen{}, nil
	}
	if err != nil {
		return seen{}, fmt.Errorf("cannot read what was seen of %s: %w", e, err)
	}
	var s seen
	if err := json.Unmarshal(data, &s); err != nil || s.Version != seenVersion || s.InRelease != "" && !isSHA256(s.InRelease) {
		return seen{}, fmt.Errorf("cannot read what was seen of %s: %s is damaged or of a newer version", e, path)
	}
	return s, nil
}

// save makes the value durable before it returns, unless another run has seen a
// newer index meanwhile.
func (m memory) save(e entry, s seen) error {
	dir, err := os.Open(m.dir)
	if err != nil {
		return fmt.Errorf("cannot remember what was seen of %s: %w", e, err)
	}
	defer dir.Close() // ends the lock
	for {
		if err = unix.Flock(int(dir.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot remember what was seen of %s: %w", e, err)
	}
	if old, err := m.load(e); err != nil || old.Date.After(s.Date) {
		return err
	}
	s.Version, s.Source = seenVersion, e.String()
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := sys.WriteFileAtomic(m.path(e), append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot remember what was seen of %s: %w", e, err)
	}
	return nil
}
