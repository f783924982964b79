package jail

import (
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

// naive takes this wall away, in a build with fault points only, so that a test
// can see whether the other one (package wall) holds by itself: paths are joined
// and opened as text, and every link leads where it says.
func naive() bool { return sys.FaultPoints && isNaive() }

var isNaive = sync.OnceValue(func() bool { return os.Getenv("JAILUP_FAULT_DESCRIPTORS") == "off" })

func (r *Root) openNaively(p string, flags uint64) (int, error) {
	return unix.Open(filepath.Join(r.path, p), int(flags)|unix.O_CLOEXEC, 0)
}
