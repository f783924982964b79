package checks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
)

const (
	maxLine     = 4096     // bytes of a line that are looked at
	maxPerLook  = 1 << 20  // bytes read in one look
	maxBacklog  = 16 << 20 // what is further back than that is passed over
	maxOldTail  = 256 << 10
	maxClasses  = 50
	fingerprint = 256 // bytes before the mark that tell the file again
)

// Mark is the end of a log at one moment. It is saved with the run. Device
// numbers are not part of it, since they change with a remount; the bytes
// before the end tell a reused inode.
type Mark struct {
	Part   string `json:"part,omitempty"` // of the target that the log is of
	Path   string `json:"path"`
	Exists bool   `json:"exists"`
	Inode  uint64 `json:"inode,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Tail   string `json:"tail,omitempty"` // digest of the bytes before Offset
}

// logCheck reads what an error log got since a mark. Without a mark it
// records what the log complains about anyway.
type logCheck struct {
	excused []string // see Target
	name    string
	part    string
	files   Files
	path    string
	format  LogFormat

	mu      sync.Mutex
	marked  bool
	from    Mark
	file    *os.File // what is being read, held over a rotation; nil before
	inode   uint64
	offset  int64
	partial []byte // a line without its end
	skipped int64
	counts  map[string]int
	classes []string // of what fails
	startup []string // classes of what it says at its start
	started bool     // it has started
	told    string   // the first line of startup
	worst   string   // the first line that fails: the others follow from it
	fatal   int      // how many fail
	lastErr string   // the last line of level error
}

func (c *logCheck) Name() string { return c.name }

// begin forgets what was read and starts at the mark again.
func (c *logCheck) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset()
}

// end closes the log; what was found stays.
func (c *logCheck) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

func (c *logCheck) reset() {
	if c.file != nil {
		c.file.Close()
	}
	c.file, c.inode, c.offset, c.partial, c.skipped = nil, 0, 0, nil, 0
	c.counts, c.classes, c.worst, c.lastErr, c.fatal = map[string]int{}, nil, "", "", 0
	c.startup, c.started, c.told = nil, false, ""
}

func (c *logCheck) since(m Mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marked, c.from = true, m
	c.reset()
}

// mark notes the end. A log that cannot be opened is marked as missing: what
// comes into it later is new.
func (c *logCheck) mark() Mark {
	m := Mark{Part: c.part, Path: c.path}
	f, ino, size, err := c.open(c.path)
	if err != nil {
		return m
	}
	defer f.Close()
	return Mark{Part: c.part, Path: c.path, Exists: true, Inode: ino, Offset: size, Tail: tailDigest(f, size)}
}

func tailDigest(f *os.File, end int64) string {
	b := make([]byte, min(end, fingerprint))
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

func (c *logCheck) open(path string) (f *os.File, ino uint64, size int64, err error) {
	if c.files == nil {
		return nil, 0, 0, errNoWay
	}
	f, err = c.files.OpenFile(path)
	if err != nil {
		return nil, 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, 0, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, 0, 0, errors.New("not a regular file")
	}
	return f, st.Ino, st.Size, nil
}

func (c *logCheck) Run(ctx context.Context) Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.reset()
	}
	o := Observation{Kind: KindLog, OK: true, Values: map[string]string{}}
	if !c.marked {
		return c.past(o)
	}
	if err := c.follow(ctx); err != nil && !(errors.Is(err, fs.ErrNotExist) && c.total() > 0) {
		o.Inconclusive = true
		o.Detail = "cannot read it: " + plain(err)
		return o
	}
	for level, n := range c.counts {
		o.Values[level] = strconv.Itoa(n)
	}
	o.Detail = "no new line above the level warn"
	if n := c.counts["error"]; n > 0 {
		o.Detail = fmt.Sprintf("%d new %s at the level error, the last: %s", n, plural(n, "line"), c.lastErr)
	}
	if len(c.startup) > 0 {
		// Whether it said so before is for the comparison; it stays said.
		o.Final = true
		o.Values["startup"] = strings.Join(c.startup, "\n")
		o.Detail = c.told
	}
	if len(c.classes) > 0 {
		o.OK, o.Final = false, true
		o.Values["classes"] = strings.Join(c.classes, "\n")
		o.Detail = c.worst
		if c.fatal > 1 {
			o.Detail += fmt.Sprintf(" (and %d more)", c.fatal-1)
		}
	}
	if c.skipped > 0 {
		o.Detail = joinDetail(o.Detail, fmt.Sprintf("%d bytes were passed over", c.skipped))
	}
	return o
}

func (c *logCheck) total() int {
	n := 0
	for _, k := range c.counts {
		n += k
	}
	return n
}

// plain is an error's text without its path.
func plain(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return event.Clean(err.Error(), 200)
}

// past records which complaints are old.
func (c *logCheck) past(o Observation) Observation {
	f, _, size, err := c.open(c.path)
	if err != nil {
		o.Inconclusive = true
		o.Detail = "cannot read it: " + plain(err)
		return o
	}
	defer f.Close()
	c.reset()
	begin := max(0, size-maxOldTail)
	b := make([]byte, size-begin)
	n, err := f.ReadAt(b, begin)
	if err != nil && !errors.Is(err, io.EOF) {
		o.Inconclusive = true
		o.Detail = "cannot read it: " + plain(err)
		return o
	}
	c.lines(b[:n])
	o.Values["known"] = strings.Join(c.classes, "\n")
	o.Values["startup"] = strings.Join(c.startup, "\n")
	if c.started {
		o.Values["started"] = "yes"
	}
	o.Detail = fmt.Sprintf("%d bytes", size)
	if len(c.classes) > 0 {
		o.Detail += ", with old complaints"
	}
	c.reset()
	return o
}

// follow reads what is new. The file is held open, so that the end of one that
// is rotated away is read as well.
func (c *logCheck) follow(ctx context.Context) error {
	f, ino, size, err := c.open(c.path)
	if err != nil {
		if c.file != nil {
			_ = c.drain(ctx) // moved away, and no new one yet
		}
		return err
	}
	if c.file == nil {
		c.file, c.inode = f, ino
		c.offset = c.startIn(f, ino, size)
		return c.drain(ctx)
	}
	if ino != c.inode {
		err := c.drain(ctx)
		c.file.Close()
		c.file, c.inode, c.offset, c.partial = f, ino, 0, nil
		if err != nil {
			return err
		}
		return c.drain(ctx)
	}
	f.Close()
	if size < c.offset { // truncated in place
		c.offset, c.partial = 0, nil
	}
	return c.drain(ctx)
}

// startIn is where new lines begin in the file that is there at the first look:
// at the mark if it is the marked file, else at 0, after what a rotated file
// still has.
func (c *logCheck) startIn(f *os.File, ino uint64, size int64) int64 {
	m := c.from
	if !m.Exists {
		return 0
	}
	if marked(m, f, ino, size) {
		return m.Offset
	}
	if old, oldIno, oldSize, err := c.open(c.path + ".1"); err == nil {
		if marked(m, old, oldIno, oldSize) {
			now, nowIno := c.file, c.inode
			c.file, c.inode, c.offset = old, oldIno, m.Offset
			_ = c.drain(context.Background())
			c.file, c.inode, c.partial = now, nowIno, nil
		}
		old.Close()
	}
	return 0
}

func marked(m Mark, f *os.File, ino uint64, size int64) bool {
	return ino == m.Inode && size >= m.Offset && tailDigest(f, m.Offset) == m.Tail
}

// drain reads the held file to its end, or to the bound of one look.
func (c *logCheck) drain(ctx context.Context) error {
	info, err := c.file.Stat()
	if err != nil {
		return err
	}
	if behind := info.Size() - c.offset; behind > maxBacklog {
		c.skipped += behind - maxPerLook
		c.offset, c.partial = info.Size()-maxPerLook, nil
	}
	buf := make([]byte, 64<<10)
	for done := 0; done < maxPerLook && ctx.Err() == nil; {
		n, err := c.file.ReadAt(buf, c.offset)
		c.offset += int64(n)
		done += n
		c.lines(buf[:n])
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lines takes in text, whole lines at a time. Of a line without an end only the
// begin is kept.
func (c *logCheck) lines(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		part := b
		if end >= 0 {
			part = b[:end]
		}
		room := maxLine - len(c.partial)
		c.partial = append(c.partial, part[:min(len(part), max(room, 0))]...)
		if end < 0 {
			return
		}
		c.line(string(c.partial))
		c.partial = c.partial[:0]
		b = b[end+1:]
	}
}
