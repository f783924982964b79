// Package journal is jailup's memory across a crash: the durable record of one
// run, the lock on a jail, and the registry that gives each jail its id.
package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// Version is the newest record version that this program reads. A record of a
// newer one is refused, never guessed.
const Version = 1

// Phase says which way a run is going.
type Phase string

// The life of a record:
//
//	            commit
//	forward ───────────▶ committed ──▶ ended
//	   │ failure, crash                  ▲
//	   └──────────▶ back ────────────────┘
//
// Before the commit record recovery goes back, after it forward.
const (
	Forward   Phase = "forward"
	Back      Phase = "back"
	Committed Phase = "committed"
	Ended     Phase = "ended"
)

// Record is the whole state of a run that recovery needs.
type Record struct {
	Version  int             `json:"version"`
	Run      string          `json:"run"`
	Plan     string          `json:"plan"`
	Phase    Phase           `json:"phase"`
	Next     int             `json:"next"` // the step that is being done, or undone
	Step     string          `json:"step"`
	Facts    json.RawMessage `json:"facts,omitempty"`
	Cause    string          `json:"cause,omitempty"` // why the run goes back
	Attempts int             `json:"attempts,omitempty"`
	Time     time.Time       `json:"time"`
	// Doubt says that the other slot cannot be read: the record after this one may
	// have been in it, be it that its writing was cut off, or that it was whole and
	// is spoilt. Set by Load.
	Doubt bool `json:"-"`
}

// Open tells whether somebody has to end what the record began.
func (r Record) Open() bool { return r.Phase != "" && r.Phase != Ended }

// Errors of Load. Each means that the state of the jail cannot be told from the
// journal: a person, or the next record, must.
var (
	ErrDamaged = errors.New("the journal is damaged")
	ErrNewer   = errors.New("the journal was written by a newer jailup")
)

const (
	slotSize = 64 << 10
	slots    = 2
	magic    = "JAILUPJ\x01"
	header   = len(magic) + 8 + 4
)

// Journal is the record file of one jail: two slots of fixed size, written in
// turn, each with a sequence number and a digest. A write that is cut off spoils
// only the older record. The space of both is allocated when the file is made,
// so that going back needs no free block.
//
// It is not safe for concurrent use; the lock of the jail keeps others away.
type Journal struct {
	f      *os.File
	seq    uint64 // of the newest whole record
	loaded bool   // seq is known
}

// Open opens the journal in dir, which must exist, and makes it if need be.
func Open(dir string) (*Journal, error) {
	p := filepath.Join(dir, "journal")
	f, err := os.OpenFile(p, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := sys.WriteFileAtomic(p, make([]byte, slots*slotSize), 0o600); err != nil {
			return nil, fmt.Errorf("cannot make the journal: %w", err)
		}
		f, err = os.OpenFile(p, os.O_RDWR|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the journal: %w", err)
	}
	return &Journal{f: f}, nil
}

// OpenReadOnly opens the journal for Load alone. Where none was ever made the
// error is fs.ErrNotExist.
func OpenReadOnly(dir string) (*Journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &Journal{f: f}, nil
}

// Close releases the file.
func (j *Journal) Close() error { return j.f.Close() }

// Load returns the newest whole record; the zero Record where there is none yet.
// A file that was cut off or emptied is ErrDamaged: it may have held one.
func (j *Journal) Load() (Record, error) {
	buf := make([]byte, slots*slotSize)
	n, err := j.f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Record{}, fmt.Errorf("cannot read the journal: %w", err)
	}
	var best Record
	var bestSeq uint64
	found, spoilt := false, [slots]bool{}
	for s := range slots {
		slot := buf[s*slotSize : (s+1)*slotSize]
		seq, payload, ok := decode(slot)
		if spoilt[s] = !ok; !ok || found && seq <= bestSeq {
			continue
		}
		rec, err := parse(payload)
		if err != nil {
			return Record{}, err
		}
		best, bestSeq, found = rec, seq, true
	}
	blank := func(slot int) bool { return len(bytes.Trim(buf[slot*slotSize:(slot+1)*slotSize], "\x00")) == 0 }
	switch {
	case !found && (n < len(buf) || !blank(0)):
		return Record{}, ErrDamaged
	case found:
		// Before the second record the other slot was never written. Where there is
		// none at all, and only the place of the first one was, that was cut off while
		// it was written, and nothing had begun.
		other := 1 - int(bestSeq%slots)
		best.Doubt = spoilt[other] && !(bestSeq == 1 && n == len(buf) && blank(other))
	}
	j.loaded = true
	j.seq = bestSeq
	return best, nil
}

// parse reads a record whose digest is right. The version comes first: a newer
// one may have another form.
func parse(payload []byte) (Record, error) {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(payload, &v); err == nil && v.Version > Version {
		return Record{}, ErrNewer
	}
	var rec Record
	if err := json.Unmarshal(payload, &rec); err != nil {
		return Record{}, ErrDamaged
	}
	return rec, nil
}

func decode(slot []byte) (seq uint64, payload []byte, ok bool) {
	if string(slot[:len(magic)]) != magic {
		return 0, nil, false
	}
	seq = binary.LittleEndian.Uint64(slot[len(magic):])
	size := int(binary.LittleEndian.Uint32(slot[len(magic)+8:]))
	if size < 0 || size > slotSize-header-sha256.Size {
		return 0, nil, false
	}
	end := header + size
	sum := sha256.Sum256(slot[:end])
	if !bytes.Equal(sum[:], slot[end:end+sha256.Size]) {
		return 0, nil, false
	}
	return seq, slot[header:end], true
}

// Save makes rec durable. When it returns an error the record may or may not be
// on disk; the one before it is, because the next Save goes to the same slot.
func (j *Journal) Save(rec Record) error {
	if !j.loaded { // else the sequence would begin anew, below what is there
		if _, err := j.Load(); err != nil {
			return fmt.Errorf("cannot save the journal: %w", err)
		}
	}
	rec.Version = Version
	payload, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cannot save the journal: %w", err)
	}
	if len(payload) > slotSize-header-sha256.Size {
		return fmt.Errorf("cannot save the journal: the record has %d bytes", len(payload))
	}
	seq := j.seq + 1
	buf := make([]byte, 0, slotSize)
	buf = append(buf, magic...)
	buf = binary.LittleEndian.AppendUint64(buf, seq)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	buf = append(buf, payload...)
	sum := sha256.Sum256(buf)
	buf = append(buf, sum[:]...)
	off := int64(seq%slots) * slotSize
	if err := sys.Pwrite(j.f, buf, off); err != nil {
		return fmt.Errorf("cannot save the journal: %w", err)
	}
	if err := sys.Fdatasync(j.f); err != nil {
		return fmt.Errorf("cannot save the journal: %w", err)
	}
	j.seq = seq
	return nil
}
