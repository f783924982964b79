package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// Pending is a copy without a name. End it with Seal or Drop. It is not for
// concurrent use.
type Pending struct {
	store   *Copy
	id      string
	fd      *os.File
	tree    int // -1 until it is there
	opts    CopyOptions
	ex      *excluder
	root    *dir
	skipped map[string]string
	cloned  bool
	settled bool
	done    bool
}

// tick is longer than any kernel's clock tick (10 ms at 100 Hz).
const tick = 50 * time.Millisecond

// ID returns the name that Seal will give.
func (p *Pending) ID() string { return p.id }

func (p *Pending) at() int { return int(p.fd.Fd()) }

func (p *Pending) begin(ctx context.Context, src *jail.Root) error {
	// What is written through a mapping changes a file's times only when a clean
	// page becomes dirty. Cleaned now, a page written from here on shows itself,
	// or has a ctime from which Settle distrusts the file.
	since := time.Now()
	if err := sys.Syncfs(src.Fd()); err != nil {
		return fmt.Errorf("cannot sync the jail's file system: %w", err)
	}
	e, err := p.engine(ctx, src, since)
	if err != nil {
		return err
	}
	root := newDir(nil, &item{mode: unix.S_IFDIR})
	stop := report(e, p.opts.Progress)
	err = e.run(root, p.opts.Workers)
	stop()
	if err != nil {
		return err
	}
	p.take(e, root)
	// The notes for Resume are made while the copy goes to the disk.
	noted := make(chan error, 1)
	go func() {
		root.number()
		noted <- p.note()
	}()
	err = sys.Syncfs(p.tree)
	if nerr := <-noted; err == nil {
		err = nerr
	}
	if err != nil {
		return fmt.Errorf("cannot write the copy to the disk: %w", err)
	}
	return nil
}

func (p *Pending) engine(ctx context.Context, src *jail.Root, since time.Time) (*engine, error) {
	e, err := newEngine(ctx, src.Fd(), p.tree)
	if err != nil {
		return nil, fmt.Errorf("cannot look at the jail: %w", err)
	}
	e.ex, e.stage = p.ex, true
	e.racy = since.Add(-tick).UnixNano()
	e.cloning.Store(!p.opts.NoReflink)
	return e, nil
}

func (p *Pending) take(e *engine, root *dir) {
	p.root = root
	p.cloned = p.cloned || e.cloned.Load()
	if p.skipped == nil {
		p.skipped = map[string]string{}
	}
	for path, why := range e.skipped {
		p.skipped[path] = why
	}
}

// report calls f ten times a second until the returned function is called.
func report(e *engine, f func(int, int64)) (stop func()) {
	if f == nil {
		return func() {}
	}
	quit, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		t := time.NewTicker(100 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f(int(e.files.Load()), e.bytes.Load())
			case <-quit:
				f(int(e.files.Load()), e.bytes.Load())
				return
			}
		}
	}()
	return func() { close(quit); <-gone }
}

// Settle brings the copy up to what src is now, normally with the server
// stopped. It costs an lstat of every file and a copy of each that changed since
// it was copied; only what it writes is synced. A second call is fine. After an
// error the copy is to be dropped, or settled again, which then copies all.
func (p *Pending) Settle(ctx context.Context, src *jail.Root) (Changed, error) {
	fail := func(err error) (Changed, error) {
		return Changed{}, fmt.Errorf("cannot settle snapshot %s in %s: %w", p.id, p.store.dir, err)
	}
	if p.done {
		return fail(errors.New("it is sealed or dropped"))
	}
	if !p.settled {
		// From here on the notes do not describe the copy.
		if err := p.forget(); err != nil {
			return fail(err)
		}
		p.settled = true
	}
	e, err := p.engine(ctx, src, time.Now())
	if err != nil {
		return fail(err)
	}
	e.flush = true
	root := p.root
	if root == nil {
		root = newDir(nil, &item{mode: unix.S_IFDIR})
		err = sys.RemoveTree(p.at(), treeName)
		if err == nil {
			err = p.makeTree()
		}
		if err != nil {
			return fail(err)
		}
		e.dst = p.tree
	}
	stop := report(e, p.opts.Progress)
	err = e.run(root, p.opts.Workers)
	stop()
	if err != nil {
		p.root = nil // nobody knows which names of the copy were made
		return fail(err)
	}
	p.take(e, root)
	return Changed{
		Copied: int(e.copied.Load()), Removed: int(e.taken.Load()),
		Dirs: int(e.redone.Load()), Bytes: e.bytes.Load(),
	}, nil
}

// makeTree makes the empty copy, and rids it of what the store's folder hands
// down: an ACL, a set-gid bit.
func (p *Pending) makeTree() error {
	if err := sys.Mkdirat(p.at(), treeName, 0o700); err != nil {
		return err
	}
	fd, err := openat2(p.at(), treeName, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	if p.tree >= 0 {
		unix.Close(p.tree)
	}
	p.tree = fd
	if err := setXattrs(sys.ProcPath(fd), nil, true); err != nil {
		return err
	}
	if err := sys.Fchown(fd, os.Geteuid(), os.Getegid()); err != nil {
		return err
	}
	return sys.Fchmod(fd, 0o700)
}

// Seal gives the copy its name. What m says about sums and kinds is filled in;
// its JailID, Jail, Consistency, Packages, Reason and Run are kept. After an
// error the copy is still pending; where only the last fsync failed, the
// snapshot has its name already, and Sweep or Remove by its id end it.
func (p *Pending) Seal(ctx context.Context, m Meta) (*Snapshot, error) {
	fail := func(err error) (*Snapshot, error) {
		return nil, fmt.Errorf("cannot seal snapshot %s in %s: %w", p.id, p.store.dir, err)
	}
	if p.done {
		return fail(errors.New("it is sealed or dropped"))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if p.root == nil {
		return fail(errors.New("it was not settled"))
	}
	// Left by an earlier Seal that failed.
	for _, name := range []string{manifestName, metaName} {
		if err := sys.RemoveTree(p.at(), name); err != nil {
			return fail(err)
		}
	}
	t := p.root.number()
	digest, err := p.root.write(p.at(), manifestName, false, true)
	if err != nil {
		return fail(fmt.Errorf("cannot write the manifest: %w", err))
	}
	m.Version, m.ID, m.Created = 1, p.id, now()
	m.Kind = p.store.Kind()
	if p.cloned {
		m.Kind = "reflink"
	}
	m.Entries, m.Files, m.Bytes, m.Manifest = t.entries, t.files, t.bytes, digest
	m.Exclude = p.opts.Exclude
	m.Skipped = t.skipped
	for path, why := range p.skipped {
		m.Skipped = append(m.Skipped, Skipped{path, why})
	}
	slices.SortFunc(m.Skipped, func(a, b Skipped) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	if m.Consistency == "" {
		m.Consistency = Live
	}
	if err := p.forget(); err != nil {
		return fail(err)
	}
	// Last: what makes it durable makes all names of the folder durable.
	if err := writeMeta(p.at(), m); err != nil {
		return fail(fmt.Errorf("cannot write %s: %w", metaName, err))
	}
	err = sys.Renameat2(p.store.at(), "."+p.id+partial, p.store.at(), p.id, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = ErrExist
	}
	if err != nil {
		return fail(err)
	}
	if err := sys.FsyncDir(p.store.at()); err != nil {
		return fail(err)
	}
	p.close()
	return p.store.Open(ctx, p.id)
}

// Drop removes the copy. A second call, and one after Seal, does nothing.
func (p *Pending) Drop(ctx context.Context) error {
	if p.done {
		return nil
	}
	// The lock is held until the files are gone. Where they cannot be removed it is
	// given back all the same: else no Sweep of this process could try again.
	err := sys.RemoveTree(p.store.at(), "."+p.id+partial)
	if err != nil {
		p.close()
		return fmt.Errorf("cannot drop snapshot %s in %s: %w", p.id, p.store.dir, err)
	}
	p.close()
	return nil
}

// Release closes a pending copy and leaves it as it is, for Resume or Sweep.
func (p *Pending) Release() { p.close() }

func (p *Pending) close() {
	if p.done {
		return
	}
	p.done = true
	if p.tree >= 0 {
		unix.Close(p.tree)
	}
	p.fd.Close()
}

func writeMeta(at int, m Meta) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	b, err := json.Marshal(metaFile{raw, hex.EncodeToString(sum[:])})
	if err != nil {
		return err
	}
	return sys.WriteFileAt(at, metaName, append(b, '\n'), 0o600)
}

// readMeta reads the meta data of the snapshot whose folder is open as at.
func readMeta(at int, id string) (Meta, error) {
	fd, err := openat2(at, metaName, unix.O_RDONLY)
	if err != nil {
		return Meta{}, fmt.Errorf("cannot read %s: %w", metaName, err)
	}
	f := os.NewFile(uintptr(fd), metaName)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<20))
	if err != nil {
		return Meta{}, fmt.Errorf("cannot read %s: %w", metaName, err)
	}
	var mf metaFile
	var m Meta
	if err := json.Unmarshal(b, &mf); err != nil {
		return Meta{}, fmt.Errorf("%s is damaged", metaName)
	}
	if sum := sha256.Sum256(mf.Meta); hex.EncodeToString(sum[:]) != mf.SHA256 || json.Unmarshal(mf.Meta, &m) != nil {
		return Meta{}, fmt.Errorf("%s is damaged", metaName)
	}
	if m.Version != 1 {
		return Meta{}, fmt.Errorf("its format is version %d, which this jailup does not know", m.Version)
	}
	if m.ID != id {
		return Meta{}, fmt.Errorf("it was sealed under the name %s", show(m.ID))
	}
	return m, nil
}
