package journal

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// Identity is what tells one jail from another. st_dev is not in it: btrfs gives
// another one after a remount.
type Identity struct {
	FSID  string `json:"fsid"`  // of statfs(2), in hexadecimal
	Inode uint64 `json:"inode"` // of the root directory
	Birth int64  `json:"birth"` // its birth time in ns, 0 where the file system has none: an inode number may be used again
	Path  string `json:"path"`  // its last real path
}

func (i Identity) sameInode(o Identity) bool {
	return i.FSID == o.FSID && i.Inode == o.Inode && (i.Birth == 0 || o.Birth == 0 || i.Birth == o.Birth)
}

// LockName is what the lock of the jail is called that all names of it share,
// and all states: two runs with a state of their own each do not know each
// other's ids.
func (i Identity) LockName() string { return fmt.Sprintf("at-%s-%d", i.FSID, i.Inode) }

// Jail is one entry of the registry.
type Jail struct {
	ID string `json:"id"`
	Identity
	Server string `json:"server,omitempty"`
}

// ErrContradiction says that a directory is one known jail by its inode and
// another by its path. A person must tell which; jailup never invents a new id.
var ErrContradiction = errors.New("the registry of jails contradicts the disk")

// Identify reads the identity of the open directory fd, whose real path is path.
func Identify(fd int, path string) (Identity, error) {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return Identity{}, fmt.Errorf("cannot identify jail %s: %w", path, err)
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return Identity{}, fmt.Errorf("cannot identify jail %s: %w", path, err)
	}
	id := Identity{FSID: fmt.Sprintf("%08x%08x", uint32(sfs.Fsid.Val[0]), uint32(sfs.Fsid.Val[1])), Inode: st.Ino, Path: path}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.Birth = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return id, nil
}

// Registry is the list of all jails that jailup has worked on, kept outside of
// them.
type Registry struct {
	file    string
	lockDir string
}

// OpenRegistry returns the registry in stateDir; its lock lies in lockDir.
// Nothing is made before the first Resolve with create.
func OpenRegistry(stateDir, lockDir string) *Registry {
	return &Registry{file: filepath.Join(stateDir, "jails.json"), lockDir: lockDir}
}

// List returns all jails, sorted by path.
func (r *Registry) List() ([]Jail, error) {
	data, err := os.ReadFile(r.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the registry of jails: %w", err)
	}
	var doc struct {
		Version int    `json:"version"`
		Jails   []Jail `json:"jails"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("cannot read the registry of jails %s: %w", r.file, err)
	}
	if doc.Version > Version {
		return nil, fmt.Errorf("cannot read the registry of jails: %w", ErrNewer)
	}
	sort.Slice(doc.Jails, func(i, k int) bool { return doc.Jails[i].Path < doc.Jails[k].Path })
	return doc.Jails, nil
}

// find looks by file system and inode first, then by path.
func find(jails []Jail, want Identity) (int, error) {
	byInode, byPath := -1, -1
	for i, j := range jails {
		if j.sameInode(want) {
			byInode = i
		}
		if j.Path == want.Path {
			byPath = i
		}
	}
	if byInode >= 0 && byPath >= 0 && byInode != byPath {
		return -1, fmt.Errorf("%w: %s has the inode of jail %s and the path of jail %s",
			ErrContradiction, want.Path, jails[byInode].ID, jails[byPath].ID)
	}
	if byInode >= 0 {
		return byInode, nil
	}
	return byPath, nil
}

// Lookup returns the known jail with that identity; ok is false where there is
// none. Nothing is written.
func (r *Registry) Lookup(want Identity) (jail Jail, ok bool, err error) {
	jails, err := r.List()
	if err != nil {
		return Jail{}, false, err
	}
	i, err := find(jails, want)
	if err != nil || i < 0 {
		return Jail{}, false, err
	}
	return jails[i], true, nil
}

// Resolve returns the jail with that identity, and enters it with a new random
// id where it is not known. A jail that moved, or that came back to its path
// from a backup, is brought up to date. server may be empty.
func (r *Registry) Resolve(ctx context.Context, want Identity, server string) (Jail, error) {
	var out Jail
	err := r.update(ctx, func(jails []Jail) ([]Jail, bool, error) {
		i, err := find(jails, want)
		if err != nil {
			return nil, false, err
		}
		if i < 0 {
			out = Jail{ID: newID(), Identity: want, Server: server}
			return append(jails, out), true, nil
		}
		out = jails[i]
		out.Identity = want
		if server != "" {
			out.Server = server
		}
		changed := out != jails[i]
		jails[i] = out
		return jails, changed, nil
	})
	return out, err
}

// Forget takes a jail out of the registry. An unknown id is no error.
func (r *Registry) Forget(ctx context.Context, id string) error {
	return r.update(ctx, func(jails []Jail) ([]Jail, bool, error) {
		kept := jails[:0]
		for _, j := range jails {
			if j.ID != id {
				kept = append(kept, j)
			}
		}
		return kept, true, nil
	})
}

func (r *Registry) update(ctx context.Context, change func([]Jail) ([]Jail, bool, error)) error {
	lock, err := Acquire(ctx, r.lockDir, "registry", Holder{Verb: "registry"}, 10*time.Second)
	if err != nil {
		return err
	}
	defer lock.Release()
	// What a killed run left: under the lock nobody else writes it.
	if err := sys.SweepFiles(filepath.Dir(r.file)); err != nil {
		return err
	}
	jails, err := r.List()
	if err != nil {
		return err
	}
	jails, changed, err := change(jails)
	if err != nil || !changed {
		return err
	}
	data, err := json.MarshalIndent(map[string]any{"version": Version, "jails": jails}, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write the registry of jails: %w", err)
	}
	if err := sys.MkdirAll(filepath.Dir(r.file), 0o700); err != nil {
		return err
	}
	return sys.WriteFileAtomic(r.file, append(data, '\n'), 0o600)
}

// Sweep removes what a run left that was killed while it wrote the registry. Where
// there is no state folder nothing is made.
func (r *Registry) Sweep(ctx context.Context) error {
	if _, err := os.Stat(filepath.Dir(r.file)); err != nil {
		return nil
	}
	return r.update(ctx, func(jails []Jail) ([]Jail, bool, error) { return jails, false, nil })
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}
