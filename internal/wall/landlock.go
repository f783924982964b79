package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// minABI is the first version of Landlock that can allow a rename from one
// directory to another: below it every exchange would fail with EXDEV.
const minABI = 2

// ABI is the kernel's version of Landlock; 0 where it has none or it is off.
func ABI() int {
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(v)
}

// writes are the rights by which something is changed. Reading is free.
func writes(abi int) uint64 {
	const first = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM
	rights := uint64(first)
	if abi >= 2 {
		rights |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return rights
}

// Rules is a set of folders beneath which names may be made, changed and removed.
type Rules struct{ fd int }

// NewRules makes the set. Folders are open, O_PATH is enough.
func NewRules(folders []int) (*Rules, error) {
	abi := ABI()
	if abi < minABI {
		return nil, errors.New("this kernel has no Landlock of ABI 2")
	}
	attr := struct{ fs uint64 }{writes(abi)}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, fmt.Errorf("cannot make a Landlock ruleset: %w", errno)
	}
	r := &Rules{int(fd)} // the kernel makes it close-on-exec
	for _, f := range folders {
		// struct landlock_path_beneath_attr is packed: 8 bytes, then 4.
		var rule [12]byte
		binary.NativeEndian.PutUint64(rule[:], attr.fs)
		binary.NativeEndian.PutUint32(rule[8:], uint32(f))
		_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, fd, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule[0])), 0, 0, 0)
		if errno != 0 {
			r.Close()
			return nil, fmt.Errorf("cannot add a Landlock rule: %w", errno)
		}
	}
	return r, nil
}

// Close releases the set. Threads that are under it stay so.
func (r *Rules) Close() { unix.Close(r.fd) }

// Restrict puts the calling thread under the set, for ever: it must be one that
// ends with its goroutine, and must start no process.
func (r *Rules) Restrict() error {
	restrict := func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0); errno != 0 {
			return errno
		}
		return nil
	}
	err := restrict()
	if errors.Is(err, unix.EPERM) { // without CAP_SYS_ADMIN
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		err = restrict()
	}
	if err != nil {
		return fmt.Errorf("cannot restrict a thread: %w", err)
	}
	return nil
}

func prctlName(name []byte) error {
	return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
}

// Clone returns the set once more, to be closed by itself.
func (r *Rules) Clone() (*Rules, error) {
	fd, err := unix.FcntlInt(uintptr(r.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Rules{fd}, nil
}
