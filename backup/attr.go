package backup

import (
	"errors"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

const defaultACL = "system.posix_acl_default"

// kept tells the attributes that belong to the file. Others are a file system's
// own switches (btrfs.compression) and mean nothing elsewhere, or its way of
// keeping the ACL, which is listed beside it (XFS).
func kept(name string) bool {
	if strings.HasPrefix(name, "trusted.SGI_ACL_") {
		return false
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "security.") ||
		strings.HasPrefix(name, "trusted.") || name == "system.posix_acl_access" || name == defaultACL
}

// fileXattrs reads the attributes of an open file, by name. Most have none: one
// call.
func fileXattrs(fd int) ([]xattr, error) {
	return readXattrs(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(n string, b []byte) (int, error) { return unix.Fgetxattr(fd, n, b) })
}

// pathXattrs is fileXattrs for what is not opened, by the path in /proc of an
// O_PATH descriptor, which leads to the thing itself, be it a link.
func pathXattrs(fd int) ([]xattr, error) {
	path := sys.ProcPath(fd)
	return readXattrs(
		func(b []byte) (int, error) { return unix.Listxattr(path, b) },
		func(n string, b []byte) (int, error) { return unix.Getxattr(path, n, b) })
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]xattr, error) {
	var small [512]byte
	buf := small[:]
	n, err := list(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10) // XATTR_LIST_MAX, xattr(7)
		n, err = list(buf)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil || n == 0 {
		return nil, err
	}
	var all []xattr
	var value []byte
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		if value == nil {
			value = make([]byte, 64<<10) // XATTR_SIZE_MAX
		}
		n, err := get(name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, xattr{name, string(value[:n])})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].name < all[j].name })
	return all, nil
}

// setXattrs gives the file behind path (in /proc, last link followed) exactly
// these attributes; stale ones are looked for only where there may be some.
func setXattrs(path string, want []xattr, mayHaveOthers bool) error {
	if mayHaveOthers {
		have, err := readXattrs(
			func(b []byte) (int, error) { return unix.Listxattr(path, b) },
			func(n string, b []byte) (int, error) { return unix.Getxattr(path, n, b) })
		if err != nil {
			return err
		}
		for _, h := range have {
			i := sort.Search(len(want), func(i int) bool { return want[i].name >= h.name })
			if i < len(want) && want[i].name == h.name {
				continue
			}
			if err := sys.Removexattr(path, h.name); err != nil && !errors.Is(err, unix.ENODATA) {
				return err
			}
		}
	}
	for _, x := range want {
		if err := sys.Setxattr(path, x.name, []byte(x.value)); err != nil {
			return err
		}
	}
	return nil
}

func (it *item) attrs() []xattr {
	if it.more == nil {
		return nil
	}
	return it.more.xattrs
}

func (it *item) setAttrs(x []xattr) {
	if len(x) == 0 && it.more == nil {
		return
	}
	if it.more == nil {
		it.more = &more{}
	}
	it.more.xattrs = x
}
