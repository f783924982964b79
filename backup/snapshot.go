package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
)

// Snapshot is a sealed copy. It is safe for concurrent use. Close it.
type Snapshot struct {
	fd   *os.File
	path string
	meta Meta
}

// Meta returns what is known about the snapshot.
func (s *Snapshot) Meta() Meta { return s.meta }

// Path returns the snapshot's folder, for messages.
func (s *Snapshot) Path() string { return s.path }

// Close releases the snapshot's descriptor.
func (s *Snapshot) Close() error { return s.fd.Close() }

// Tree opens the copy itself as a jail, to be read only: whatever changes it
// makes Verify fail. Close it.
func (s *Snapshot) Tree() (*jail.Root, error) {
	return jail.Open(filepath.Join(s.path, treeName))
}

func (s *Snapshot) open(name string, flags uint64) (*os.File, error) {
	fd, err := openat2(int(s.fd.Fd()), name, flags)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s of snapshot %s: %w", name, s.meta.ID, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s *Snapshot) checkManifest() error {
	f, err := s.open(manifestName, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != s.meta.Manifest {
		return errors.New("its manifest is damaged")
	}
	return nil
}

// Manifest iterates over the entries, parents before children, names in byte
// order. An error ends it.
func (s *Snapshot) Manifest() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		f, err := s.open(manifestName, unix.O_RDONLY)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer f.Close()
		stop := errors.New("stop")
		var path []byte
		var ends []int // where the path of each depth ends
		err = lines(bufio.NewReader(f), func(it *item, depth int) error {
			if depth > len(ends) {
				return errors.New("entry without its directory")
			}
			full := "/"
			if depth > 0 {
				path = append(append(path[:ends[depth-1]], '/'), it.name...)
				full = string(path)
			}
			ends = append(ends[:depth], len(path))
			if !yield(it.entry(full), nil) {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(Entry{}, fmt.Errorf("cannot read the manifest of snapshot %s: %w", s.meta.ID, err))
		}
	}
}

// load reads the manifest as a tree.
func (s *Snapshot) load() (*dir, error) {
	f, err := s.open(manifestName, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	root, err := readManifest(f, s.meta.Manifest)
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifest of snapshot %s: %w", s.meta.ID, err)
	}
	return root, nil
}
