package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jailup/jailup/internal/sys"
	"golang.org/x/sys/unix"
)

// Holder tells who has the lock on a jail.
type Holder struct {
	PID   int       `json:"pid"`
	Run   string    `json:"run"`
	Verb  string    `json:"verb"`
	Since time.Time `json:"since"`
}

// HeldError says that another run has the lock.
type HeldError struct {
	Holder Holder
}

func (e *HeldError) Error() string {
	if e.Holder.PID == 0 {
		return "cannot lock the jail: another run holds the lock"
	}
	return fmt.Sprintf("cannot lock the jail: %s (run %s, pid %d) holds the lock since %s",
		e.Holder.Verb, e.Holder.Run, e.Holder.PID, e.Holder.Since.UTC().Format(time.RFC3339))
}

// Lock is a kernel lock (flock(2)): it dies with its holder, kill -9 included.
// Its descriptor is close-on-exec, so that no started server inherits it.
type Lock struct{ f *os.File }

// Acquire takes the lock named id in dir, and waits for it at most wait. It
// returns a *HeldError when another run has it still.
func Acquire(ctx context.Context, dir, id string, who Holder, wait time.Duration) (*Lock, error) {
	// Durably: without /run it is a folder of the state, and perhaps its first.
	if err := sys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot lock the jail: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, id+".lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the jail: %w", err)
	}
	deadline := time.Now().Add(wait)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("cannot lock the jail: %w", err)
		}
		if !time.Now().Before(deadline) {
			held := &HeldError{Holder: waitHolder(f)}
			f.Close()
			return nil, held
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("cannot lock the jail: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	who.PID, who.Since = os.Getpid(), time.Now().UTC()
	data, err := json.Marshal(who)
	if err == nil {
		// Only for the message of others; the lock holds without it.
		_ = f.Truncate(0)
		_, _ = f.WriteAt(data, 0)
	}
	return &Lock{f: f}, nil
}

// waitHolder reads who holds the lock. One that has just got it may not have
// written its name yet, and what stands there is a dead holder's: it is read
// again, for less than the second within which the other is told.
func waitHolder(f *os.File) Holder {
	for range 25 {
		if h := readHolder(f); h.PID > 0 && !errors.Is(unix.Kill(h.PID, 0), unix.ESRCH) {
			return h
		}
		time.Sleep(20 * time.Millisecond)
	}
	return readHolder(f)
}

func readHolder(f *os.File) Holder {
	buf := make([]byte, 4096)
	n, _ := f.ReadAt(buf, 0)
	var h Holder
	_ = json.Unmarshal(buf[:n], &h)
	return h
}

// Release gives the lock back. A nil lock and a second call are fine.
func (l *Lock) Release() {
	if l != nil && l.f != nil {
		_ = l.f.Truncate(0) // so that nobody takes the next holder for this one
		l.f.Close()
		l.f = nil
	}
}
