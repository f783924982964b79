package storetest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Photo describes every entry below dir by plain lstat, read and getxattr, so
// that it shares no code with what it judges. Inode numbers, ctime and atime are
// left out; hard links are named by their first path. Two trees are one and the
// same when their photos are equal. Not for trees deeper than PATH_MAX.
func Photo(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	first := map[[2]uint64]string{}
	var walk func(rel string)
	walk = func(rel string) {
		p := filepath.Join(dir, rel)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(p, &st))
		s := fmt.Sprintf("%o %d:%d %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			s += fmt.Sprintf(" %d %x", len(b), sha256.Sum256(b))
		case unix.S_IFLNK:
			l, err := os.Readlink(p)
			require.NoError(t, err)
			s += fmt.Sprintf(" -> %q", l)
		case unix.S_IFCHR, unix.S_IFBLK:
			s += fmt.Sprintf(" dev %d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			key := [2]uint64{uint64(st.Dev), st.Ino}
			if first[key] == "" {
				first[key] = rel
			}
			s += fmt.Sprintf(" linked %q", first[key])
		}
		s += attrs(t, p)
		all[rel] = s
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			list, err := os.ReadDir(p)
			require.NoError(t, err)
			for _, e := range list {
				walk(filepath.Join(rel, e.Name()))
			}
		}
	}
	walk(".")
	return all
}

func attrs(t testing.TB, p string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return ""
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var s string
	for _, name := range names {
		if strings.HasPrefix(name, "btrfs.") || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue // how a file system keeps things, not what the file has
		}
		v := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, v)
		require.NoError(t, err)
		s += fmt.Sprintf(" %s=%x", name, v[:n])
	}
	return s
}

// Same fails the test unless both photos are equal, and names what differs.
func Same(t testing.TB, want, have map[string]string) {
	t.Helper()
	var diff []string
	for p, w := range want {
		if h, ok := have[p]; !ok {
			diff = append(diff, fmt.Sprintf("%q is missing", p))
		} else if h != w {
			diff = append(diff, fmt.Sprintf("%q\n  is     %s\n  not    %s", p, h, w))
		}
	}
	for p := range have {
		if _, ok := want[p]; !ok {
			diff = append(diff, fmt.Sprintf("%q is too much", p))
		}
	}
	sort.Strings(diff)
	if len(diff) > 20 {
		diff = append(diff[:20], "…")
	}
	require.Empty(t, diff, strings.Join(diff, "\n"))
}
