package backup

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestManifestLine(t *testing.T) {
	t.Parallel()
	it := &item{name: "sh", mode: unix.S_IFREG | 0o4755, uid: 1, gid: 2, size: 3, mtime: -5}
	for i := range it.sum {
		it.sum[i] = byte(i)
	}
	require.Equal(t, `{"path":"/bin/sh","type":"file","mode":"4755","uid":1,"gid":2,"size":3,"mtime_ns":-5,`+
		`"sha256":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}`+"\n",
		string(it.appendLine(nil, 2, []byte("/bin/sh"), false)))
}

func TestManifestLineComesBack(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("/d", longPath)
	for _, c := range []struct {
		path string
		it   item
	}{
		{"/", item{mode: unix.S_IFDIR | 0o755}},
		{"/a", item{mode: unix.S_IFREG | 0o7777, size: PieceFrom, mtime: 1<<62 + 1, uid: 1<<32 - 1, group: 7, again: true}},
		{"/a\nb", item{mode: unix.S_IFIFO}},
		{"/\xff\xfe\"", item{mode: unix.S_IFSOCK | 0o1}},
		{"/é\u2028<&>", item{mode: unix.S_IFREG}},
		{"/\x00\x1b", item{mode: unix.S_IFREG}},
		{"/l", item{mode: unix.S_IFLNK | 0o777, more: &more{link: "\xff/..\n"}}},
		{"/d", item{mode: unix.S_IFCHR, more: &more{rdev: unix.Mkdev(4095, 1048575)}}},
		{"/zero", item{mode: unix.S_IFBLK, more: &more{}}},
		{"/empty", item{mode: unix.S_IFLNK | 0o777, more: &more{link: "x"}}},
		{"/x", item{mode: unix.S_IFREG, more: &more{xattrs: []xattr{{"user.\xff", ""}, {"user.b", "\x00\xff"}}}}},
		{"/m", item{mode: unix.S_IFDIR | 0o755, mount: true}},
		{"/s", item{mode: unix.S_IFREG, seen: seen{1, -2, 3, 1<<64 - 1, 5, 6, 7}}},
		{long, item{mode: unix.S_IFREG}},
		{long + "\xff", item{mode: unix.S_IFREG}},
	} {
		it := c.it
		it.name = c.path[strings.LastIndexByte(c.path, '/')+1:]
		depth := strings.Count(c.path, "/")
		if c.path == "/" {
			depth = 0
		}
		line := it.appendLine(nil, depth, []byte(c.path), true)
		require.Equal(t, 1, bytes.Count(line, []byte("\n")), "one line")
		require.Less(t, len(line), 3*longPath)
		back, d, err := parseLine(line)
		require.NoError(t, err, "%s", line)
		require.Equal(t, depth, d)
		require.Equal(t, &it, back, "%s", line)
	}
}

func TestBadManifests(t *testing.T) {
	t.Parallel()
	root := `{"path":"/","type":"dir","mode":"755"}` + "\n"
	_, err := readTree(strings.NewReader(root))
	require.NoError(t, err)
	for _, c := range []struct{ text, want string }{
		{"", "empty"},
		{"{", "line 1"},
		{root + root, "without its directory"},
		{`{"path":"/f","type":"fifo","mode":"1"}`, "without its directory"},
		{root + `{"path":"/a/b","type":"fifo","mode":"1"}`, "without its directory"},
		{root + `{"path":"/a","type":"fifo","mode":"1"}` + "\n" + `{"path":"/a/b","type":"fifo","mode":"1"}`, "without its directory"},
		{root + `{"path":"/..","type":"dir","mode":"755"}`, "bad name"},
		{root + `{"path":"/","type":"dir","mode":"755"}`, "without its directory"},
		{root + `{"path":"//","type":"dir","mode":"755"}`, ""},
		{root + `{"depth":1,"name":"a/b","type":"dir","mode":"755"}`, "bad name"},
		{root + `{"depth":1,"name":"","type":"dir","mode":"755"}`, "bad name"},
		{root + `{"depth":-1,"name":"a","type":"dir","mode":"755"}`, ""},
		{root + `{"path":"/b","type":"fifo","mode":"1"}` + "\n" + `{"path":"/a","type":"fifo","mode":"1"}`, "out of order"},
		{root + `{"path":"/a","type":"fifo","mode":"1"}` + "\n" + `{"path":"/a","type":"fifo","mode":"1"}`, "out of order"},
		{root + `{"path":"/a","type":"file","mode":"1","sha256":"zz"}`, "bad digest"},
		{root + `{"path":"/a","type":"what","mode":"1"}`, "bad type"},
		{root + `{"path":"/a","type":"dir","mode":"99"}`, "bad type or mode"},
		{root + `{"path":"/a","type":"char","mode":"1","rdev":"x"}`, "bad device"},
	} {
		_, err := readTree(strings.NewReader(c.text))
		require.Error(t, err, c.text)
		require.Contains(t, err.Error(), c.want, c.text)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"path":"/","type":"dir","mode":"755"}` + "\n" + `{"path":"/a","type":"link","mode":"777","link_b64":"/w=="}`))
	f.Add([]byte(`{"path":"/","type":"dir","mode":"755"}` + "\n" + `{"depth":1,"name":"x","type":"fifo","mode":"0","xattrs":[{"name":"a","value":"AA=="}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, err := readTree(bytes.NewReader(b))
		if err != nil {
			return
		}
		// What was read can be written, and reads the same.
		write := func(d *dir) (out []byte) {
			_ = d.each(func(depth int, path []byte, it *item) error {
				out = it.appendLine(out, depth, path, false)
				return nil
			})
			return out
		}
		first := write(root)
		again, err := readTree(bytes.NewReader(first))
		require.NoError(t, err, "%s", first)
		require.Equal(t, string(first), string(write(again)))
		require.Empty(t, compare(root, again))
	})
}
