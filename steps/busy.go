package steps

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/journal"
)

// Busy tells who holds the lock of the jail with that id, nil for nobody. It asks
// the kernel's list of locks (proc_locks(5)) and never tries the lock itself: even
// for an instant that could turn away a run that begins just then.
func Busy(lockDir, id string) *journal.Holder {
	f, err := os.OpenFile(filepath.Join(lockDir, id+".lock"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return nil
	}
	var who journal.Holder
	if data, err := io.ReadAll(io.LimitReader(f, 4096)); err == nil {
		_ = json.Unmarshal(data, &who) // for the message alone
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return nil
	}
	defer locks.Close()
	pid, ok := holds(locks, &st, who.PID)
	if !ok {
		return nil
	}
	if who.PID != pid {
		who = journal.Holder{PID: pid} // it has not written its name yet
	}
	return &who
}

// holds looks for a lock of flock(2) on the file. On btrfs the device in the list
// is not that of stat(2): the process that is known to hold it tells as well.
//
//	1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
func holds(r io.Reader, st *unix.Stat_t, known int) (pid int, ok bool) {
	dev := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) < 6 || w[1] != "FLOCK" || w[3] != "WRITE" {
			continue
		}
		i := strings.LastIndexByte(w[5], ':')
		p, err := strconv.Atoi(w[4])
		if err != nil || i < 0 || w[5][i+1:] != strconv.FormatUint(st.Ino, 10) {
			continue
		}
		if w[5][:i] == dev || p == known {
			return p, true
		}
	}
	return 0, false
}
