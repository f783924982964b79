package pkgs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestDebRoundTrip(t *testing.T) {
	t.Parallel()
	deep := "./" + strings.Repeat("0123456789/", 12) + "file"
	members := []member{
		dir("./"), dir("./usr/"), {name: "./usr/bin", typ: '5', mode: "0002755"},
		{name: "./usr/bin/su", mode: "0104755", data: "set-user-ID", uid: "0000144"},
		{name: "./usr/bin/twin", typ: '1', link: "./usr/bin/su", mode: "0004755"},
		symlink("./usr/bin/out", "../../../../etc/shadow"),
		{name: "opt/plain", data: "no dot", magic: "v7"},
		{name: "name", prefix: "./usr/share", magic: "ustar\x0000", data: "prefix"},
		long('L', deep), {name: deep[:100], data: "deep"},
		long('K', "/"+strings.Repeat("t", 200)), long('L', deep+"2"),
		{name: deep[:100], typ: '2', link: "cut off"},
		{name: "./old", mtime: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6", size: "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03", data: "abc"},
		file("./ünïcode", ""),
	}
	for _, format := range []Format{None, Gzip, XZ, Zstd} {
		ext := map[Format]string{Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}[format]
		b := arOf(arPart{"debian-binary/", "2.0\n"}, arPart{"_sig", "x"},
			arPart{"control.tar" + ext + "/", string(pack(t, format, controlTar(file("./conffiles", "/opt/plain\nremove-on-upgrade /etc/gone\n"), file("./postinst", "#!/bin/sh\n"))))},
			arPart{"data.tar" + ext, string(pack(t, format, ended(members...)))}, arPart{"_gpgorigin", "sig"})
		d, err := readDeb(b, Limits{})
		require.NoError(t, err)
		require.Equal(t, Stanza{Package: "small", Version: "1:2.0-3", Architecture: "amd64", Depends: "libc6 (>= 2.34)", InstalledSize: 12}, d.Control())
		require.Equal(t, []string{"/opt/plain"}, d.Conffiles())
		require.Equal(t, []string{"/etc/gone"}, d.ObsoleteConffiles())
		require.Equal(t, "#!/bin/sh\n", string(d.ControlFiles()["postinst"]))
		require.Len(t, d.ControlFiles(), 3)

		for range 2 { // Files may be asked again
			entries, contents, err := entriesOf(b, Limits{})
			require.NoError(t, err)
			byPath := map[string]Entry{}
			for i, e := range entries {
				byPath[e.Path] = e
				require.Len(t, contents[i], int(e.Size))
			}
			require.Len(t, byPath, 12)
			const when = 0o14000000000 * int64(1e9)
			require.Equal(t, Entry{Path: "/", Type: TypeDir, Mode: 0o755, Uname: "root", Gname: "root", MtimeNS: when}, byPath["/"])
			require.Equal(t, Entry{Path: "/usr/bin/su", Type: TypeRegular, Mode: 0o4755, UID: 100, Uname: "root", Gname: "root", Size: 11, MtimeNS: when}, byPath["/usr/bin/su"])
			su, bin := byPath["/usr/bin/su"], byPath["/usr/bin"]
			require.True(t, su.Special())
			require.False(t, bin.Special())
			require.Equal(t, TypeHardlink, byPath["/usr/bin/twin"].Type)
			require.Equal(t, "/usr/bin/su", byPath["/usr/bin/twin"].Link)
			require.Equal(t, "../../../../etc/shadow", byPath["/usr/bin/out"].Link)
			require.Contains(t, byPath, "/usr/share/name")
			require.Contains(t, byPath, deep[1:])
			require.Equal(t, "/"+strings.Repeat("t", 200), byPath[deep[1:]+"2"].Link)
			require.Equal(t, int64(-10e9), byPath["/old"].MtimeNS)
			require.Empty(t, byPath["/opt/plain"].Uname)
		}
	}
}

func TestDevicesAreAnOption(t *testing.T) {
	t.Parallel()
	null := member{name: "./dev/null", typ: '3', major: "0000001", minor: "0000003"}
	for _, m := range []member{null, {name: "./b", typ: '4'}, {name: "./f", typ: '6'}} {
		_, _, err := entriesOf(debOf(m), Limits{})
		require.ErrorContains(t, err, "not allowed")
		_, _, err = entriesOf(debOf(m), Limits{Devices: true})
		require.NoError(t, err)
	}
	e, _, err := entriesOf(debOf(null), Limits{Devices: true})
	require.NoError(t, err)
	require.Equal(t, unix.Mkdev(1, 3), e[0].Rdev)
}

func TestHostileTrees(t *testing.T) {
	t.Parallel()
	sparse := func(h []byte) { copy(h[386:], "00000000001\x0000000000001\x00") }
	for name, c := range map[string]struct {
		members []member
		err     string
	}{
		"dot dot":                   {[]member{file("../etc/passwd", "")}, "no plain relative path"},
		"dot dot inside":            {[]member{file("./usr/../../etc/passwd", "")}, "no plain relative path"},
		"dot dot at the end":        {[]member{dir("./usr/..")}, "no plain relative path"},
		"absolute":                  {[]member{file("/etc/passwd", "")}, "no plain relative path"},
		"absolute behind dot":       {[]member{file(".//etc/passwd", "")}, "no plain relative path"},
		"two slashes":               {[]member{file("./usr//bin", "")}, "no plain relative path"},
		"dot inside":                {[]member{file("./usr/./bin", "")}, "no plain relative path"},
		"dot twice":                 {[]member{file("././bin", "")}, "no plain relative path"},
		"empty name":                {[]member{file("", "")}, "no plain relative path"},
		"root as a file":            {[]member{file("./", "")}, "root is no directory"},
		"root as a link":            {[]member{symlink(".", "/")}, "root is no directory"},
		"a file with a slash":       {[]member{file("./usr/", "")}, "no plain relative path"},
		"a directory, two slashes":  {[]member{dir("./usr//")}, "no plain relative path"},
		"twice":                     {[]member{file("./a", "1"), file("./a", "2")}, "second member"},
		"twice, in two spellings":   {[]member{file("./a", "1"), file("a", "2")}, "second member"},
		"directory twice":           {[]member{dir("./a/"), dir("./a")}, "second member"},
		"file, then directory":      {[]member{file("./a", ""), dir("./a/")}, "second member"},
		"through a link":            {[]member{symlink("./etc", "/etc"), file("./etc/passwd", "")}, "made a link"},
		"through a link, deeper":    {[]member{symlink("./a", "/"), file("./a/etc/x/passwd", "")}, "made a link"},
		"directory through a link":  {[]member{symlink("./a", "/"), dir("./a/etc/")}, "made a link"},
		"link through a link":       {[]member{symlink("./a", "/"), symlink("./a/etc", "b")}, "made a link"},
		"a link planted afterwards": {[]member{file("./etc/passwd", ""), symlink("./etc", "/etc")}, "other members lie below"},
		"below a file":              {[]member{file("./a", ""), file("./a/b", "")}, "no directory"},
		"hard link out":             {[]member{{name: "./a", typ: '1', link: "../../etc/shadow"}}, "no plain relative path"},
		"hard link, absolute":       {[]member{{name: "./a", typ: '1', link: "/etc/shadow"}}, "no plain relative path"},
		"hard link to nothing":      {[]member{{name: "./a", typ: '1', link: "./b"}}, "no file that came before"},
		"hard link to later":        {[]member{{name: "./a", typ: '1', link: "./b"}, file("./b", "")}, "no file that came before"},
		"hard link to itself":       {[]member{{name: "./a", typ: '1', link: "./a"}}, "no file that came before"},
		"hard link to a link":       {[]member{symlink("./b", "/etc/shadow"), {name: "./a", typ: '1', link: "./b"}}, "no file that came before"},
		"hard link to a directory":  {[]member{dir("./b/"), {name: "./a", typ: '1', link: "./b"}}, "no plain relative path|no file that came before"},
		"hard link through a link":  {[]member{symlink("./b", "/etc"), {name: "./a", typ: '1', link: "./b/shadow"}}, "no file that came before"},
		"link to nowhere":           {[]member{{name: "./a", typ: '2'}}, "link to nowhere"},
		"file with a link name":     {[]member{{name: "./a", link: "b"}}, "it is no link"},
		"link with content":         {[]member{{name: "./a", typ: '2', link: "b", data: "x"}}, "content behind"},
		"directory with content":    {[]member{{name: "./a/", typ: '5', data: "x"}}, "content behind"},
		"hard link with content":    {[]member{file("./b", ""), {name: "./a", typ: '1', link: "./b", data: "x"}}, "content behind"},
		"device with content":       {[]member{{name: "./a", typ: '3', data: "x"}}, "content behind"},
		"PAX":                       {[]member{{name: "./x", typ: 'x', data: "20 path=/etc/passwd\n"}, file("./a", "")}, "PAX"},
		"PAX size":                  {[]member{{name: "./x", typ: 'x', data: "11 size=99\n"}, file("./a", "abc")}, "PAX"},
		"PAX, global":               {[]member{{name: "./x", typ: 'g', data: "20 path=/etc/passwd\n"}, file("./a", "")}, "PAX"},
		"PAX, Sun":                  {[]member{{name: "./x", typ: 'X', data: "20 path=/etc/passwd\n"}, file("./a", "")}, "PAX"},
		"sparse":                    {[]member{{name: "./a", typ: 'S', data: "x", edit: sparse}}, "sparse"},
		"sparse map in a file":      {[]member{{name: "./a", data: "x", edit: sparse}}, "sparse"},
		"contiguous":                {[]member{{name: "./a", typ: '7'}}, "unknown type"},
		"multi-volume":              {[]member{{name: "./a", typ: 'M'}}, "unknown type"},
		"volume label":              {[]member{{name: "./a", typ: 'V'}}, "unknown type"},
		"incremental directory":     {[]member{{name: "./a/", typ: 'D'}}, "unknown type"},
		"old long name":             {[]member{{name: "./a", typ: 'N'}}, "unknown type"},
		"unknown magic":             {[]member{{name: "./a", magic: "uSTAR  \x00"}}, "unknown kind of tar"},
		"NUL in a name":             {[]member{file("./a\x00/../../etc/passwd", "")}, "NUL"},
		"NUL in a link":             {[]member{symlink("./a", "b\x00c")}, "NUL"},
		"NUL in an owner":           {[]member{{name: "./a", uname: "ro\x00ot"}}, "NUL"},
		"NUL in a long name":        {[]member{long('L', "./a\x00b"), file("x", "")}, "NUL"},
		"newline in a name":         {[]member{file("./a\nb", "")}, "control character"},
		"escape in a name":          {[]member{file("./a\x1b[2Jb", "")}, "control character"},
		"escape in a link":          {[]member{symlink("./a", "\x1b[2Jb")}, "control character"},
		"C1 control in a name":      {[]member{file("./a\u009bb", "")}, "control character"},
		"no UTF-8":                  {[]member{file("./a\xffb", "")}, "UTF-8"},
		"no UTF-8 in an owner":      {[]member{{name: "./a", uname: "\xff"}}, "UTF-8"},
		"name of 4 KB":              {[]member{long('L', "./"+strings.Repeat("a/", 2047)+"b"), file("x", "")}, "more than 1024"},
		"name of 1025 bytes":        {[]member{long('L', strings.Repeat("a/", 512)+"b"), file("x", "")}, "more than 1024"},
		"last name of 256 bytes":    {[]member{long('L', strings.Repeat("a", 256)), file("x", "")}, "more than 255"},
		"link of 4 KB":              {[]member{long('K', strings.Repeat("a/", 2048)), symlink("./a", "x")}, "more than 1024"},
		"long name twice":           {[]member{long('L', "./a"), long('L', "./b"), file("x", "")}, "two long names"},
		"long link twice":           {[]member{long('K', "./a"), long('K', "./b"), symlink("./x", "x")}, "two long names"},
		"long link of a file":       {[]member{long('K', "./a"), file("./x", "")}, "no link"},
		"long name of nothing":      {[]member{file("./x", ""), long('L', "./a")}, "without a member"},
		"long name, empty":          {[]member{{name: "././@LongLink", typ: 'L'}, file("x", "")}, "a name of 0 bytes"},
		"long name of NUL":          {[]member{long('L', ""), file("x", "")}, "NUL"},
		"long name, huge":           {[]member{{name: "././@LongLink", typ: 'L', size: "77777777777"}}, "a name of"},
		"long name, negative":       {[]member{{name: "././@LongLink", typ: 'L', size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6"}}, "a name of"},
		"size, negative":            {[]member{{name: "./a", size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6"}}, "impossible size"},
		"size, huge":                {[]member{{name: "./a", size: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}}, "impossible size"},
		"size over 63 bits":         {[]member{{name: "./a", size: "\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size in bit 63":            {[]member{{name: "./a", size: "\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size below 64 bits":        {[]member{{name: "./a", size: "\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size in base 256, odd":     {[]member{{name: "./a", size: "\x81\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size with a sign":          {[]member{{name: "./a", size: "-0000000001"}}, "damaged number"},
		"size, decimal":             {[]member{{name: "./a", size: "00000000009"}}, "damaged number"},
		"size, rubbish behind":      {[]member{{name: "./a", size: "1 \x00 1"}}, "damaged number"},
		"size past the end":         {[]member{{name: "./a", size: "00000002000"}}, "unexpected EOF"},
		"time out of range":         {[]member{{name: "./a", mtime: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}}, "impossible time"},
		"time, far back":            {[]member{{name: "./a", mtime: "\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00"}}, "impossible time"},
		"owner -1":                  {[]member{{name: "./a", uid: "\xff\xff\xff\xff\xff\xff\xff\xff"}}, "impossible owner"},
		"owner over 31 bits":        {[]member{{name: "./a", uid: "\x80\x00\x00\x00\x80\x00\x00\x00"}}, "impossible owner"},
		"mode, negative":            {[]member{{name: "./a", mode: "\xff\xff\xff\xff\xff\xff\xff\xff"}}, "impossible mode"},
		"device number":             {[]member{{name: "./a", typ: '3', major: "7777777"}}, "impossible device"},
	} {
		_, _, err := entriesOf(debOf(append([]member{dir("./")}, c.members...)...), Limits{})
		require.Error(t, err, name)
		require.Regexp(t, c.err, err.Error(), name)
		require.True(t, strings.HasPrefix(err.Error(), "cannot read package small: data.tar: "), err.Error())
		require.NotContains(t, err.Error(), "\x1b")
		require.NotContains(t, err.Error(), "\n")
		require.Less(t, len(err.Error()), 400)
	}
}

func TestDamagedTars(t *testing.T) {
	t.Parallel()
	ok := tarOf(dir("./"), file("./a", "data"))
	end := make([]byte, 2*tarBlock)
	flipped := bytes.Clone(ok)
	flipped[3] ^= 1
	for name, c := range map[string]struct {
		tar []byte
		err string
	}{
		"empty":               {nil, "unexpected EOF"},
		"no end":              {ok, "unexpected EOF"},
		"half an end":         {append(bytes.Clone(ok), end[:tarBlock]...), "unexpected EOF"},
		"a lone zero block":   {append(append(bytes.Clone(ok), end[:tarBlock]...), ended(file("./b", ""))...), "something follows"},
		"members after end":   {append(append(bytes.Clone(ok), end...), ended(file("./b", ""))...), "something follows"},
		"garbage after end":   {append(append(bytes.Clone(ok), end...), 'x'), "something follows|unexpected EOF"},
		"checksum":            {append(flipped, end...), "checksum"},
		"checksum, no number": {append(append(bytes.Clone(ok[:148]), "xxxxxxxx"...), ok[156:]...), "damaged header"},
		"not a tar":           {bytes.Repeat([]byte("hello wo"), 256), "damaged header"},
	} {
		_, _, err := entriesOf(debWith(c.tar), Limits{})
		require.Error(t, err, name)
		require.Regexp(t, c.err, err.Error(), name)
	}
	// What tar itself writes: an end that fills a record.
	_, _, err := entriesOf(debWith(append(bytes.Clone(ok), make([]byte, 20*tarBlock)...)), Limits{})
	require.NoError(t, err)
}

// A package that is cut off anywhere, or has one byte more, is refused: its
// members' sizes are in the ar headers and its tars have an end.
func TestTruncatedAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{None, Gzip, XZ, Zstd} {
		ext := map[Format]string{Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}[format]
		control := string(pack(t, format, controlTar()))
		data := pack(t, format, ended(dir("./"), file("./a", "some data")))
		deb := func(data []byte) []byte {
			return arOf(arPart{"debian-binary", "2.0\n"}, arPart{"control.tar" + ext, control}, arPart{"data.tar" + ext, string(data)})
		}
		whole := deb(data)
		_, _, err := entriesOf(whole, Limits{})
		require.NoError(t, err)
		for n := range len(whole) {
			_, _, err := entriesOf(whole[:n], Limits{})
			require.Error(t, err, "%v: %d of %d bytes", format, n, len(whole))
		}
		for n := range len(data) {
			_, _, err := entriesOf(deb(data[:n]), Limits{})
			require.Error(t, err, "%v: %d of %d bytes of data", format, n, len(data))
		}
		for _, tail := range []string{"\n", "\x00", "x", "!<arch>\n"} {
			_, _, err := entriesOf(append(bytes.Clone(whole), tail...), Limits{})
			require.Error(t, err)
			if format != None || strings.Trim(tail, "\x00") != "" {
				_, _, err = entriesOf(deb(append(bytes.Clone(data), tail...)), Limits{})
				require.Error(t, err, "%v followed by %q", format, tail)
			}
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	d, err := readDeb(debOf(dir("./")), Limits{})
	require.NoError(t, err)
	require.NoError(t, d.Match(Stanza{Package: "small", Version: "1:2.0-3", Architecture: "amd64"}))
	require.EqualError(t, d.Match(Stanza{Package: "large", Version: "1:2.0-3", Architecture: "amd64"}), `cannot use package "large": its name is "small" inside and "large" in the index`)
	require.ErrorContains(t, d.Match(Stanza{Package: "small", Version: "1:2.0-4", Architecture: "amd64"}), "version")
	require.ErrorContains(t, d.Match(Stanza{Package: "small", Version: "1:2.0-3", Architecture: "arm64"}), "architecture")
}

func TestTreeLimits(t *testing.T) {
	t.Parallel()
	var files []member
	for i := range 50 {
		files = append(files, file("./d/"+strings.Repeat("x", i+1), "1"))
	}
	b := debOf(files...)
	_, _, err := entriesOf(b, Limits{Entries: 51})
	require.NoError(t, err)
	_, _, err = entriesOf(b, Limits{Entries: 50})
	require.ErrorContains(t, err, "more than 50 members")
	_, _, err = entriesOf(b, Limits{Names: 500})
	require.ErrorContains(t, err, "more than 500 bytes")
	_, _, err = entriesOf(b, Limits{Name: 30})
	require.ErrorContains(t, err, "more than 30")
	_, _, err = entriesOf(b, Limits{Output: 20_000})
	require.ErrorContains(t, err, "more than 20000 bytes come out")
	_, err = readDeb(b, Limits{Control: 10})
	require.ErrorContains(t, err, "more than 10 bytes")
}

func TestFilesStopsWithTheCallersError(t *testing.T) {
	t.Parallel()
	d, err := readDeb(debOf(file("./a", "12345"), file("./b", "6")), Limits{})
	require.NoError(t, err)
	mine := errors.New("mine")
	var kept io.Reader
	require.ErrorIs(t, d.Files(func(_ *Entry, r io.Reader) error { kept = r; return mine }), mine)
	_, err = kept.Read(make([]byte, 1))
	require.Error(t, err, "a kept content is dead")
	// Content that nobody read is passed over.
	n := 0
	require.NoError(t, d.Files(func(*Entry, io.Reader) error { n++; return nil }))
	require.Equal(t, 2, n)
}

// endlessTar makes members without end, as a bomb that a few bytes unpack to.
type endlessTar struct {
	next func(i int) []byte
	i    int
	buf  []byte
}

func (e *endlessTar) Read(p []byte) (int, error) {
	if len(e.buf) == 0 {
		e.buf = e.next(e.i)
		e.i++
	}
	n := copy(p, e.buf)
	e.buf = e.buf[n:]
	return n, nil
}

// A million members, with the worst names, are refused in little memory.
func TestMillionMembers(t *testing.T) {
	name := func(i int) string {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(i))
		s := []byte("./")
		for _, c := range b[4:] {
			s = append(s, 'a'+c>>4, 'a'+c&15)
		}
		return string(s)
	}
	for what, next := range map[string]func(i int) []byte{
		"short names": func(i int) []byte { return tarOf(file(name(i), "")) },
		"long names": func(i int) []byte {
			return tarOf(long('L', name(i)+strings.Repeat("/abc", 250)), file("x", ""))
		},
		"deep names": func(i int) []byte {
			return tarOf(long('L', name(i)+strings.Repeat("/a", 500)), file("x", ""))
		},
	} {
		lim := Limits{}.withDefaults()
		d := &Deb{lim: lim}
		tree := newLayout(lim)
		tr := &tarReader{r: &endlessTar{next: next}, maxName: lim.Name, maxSize: lim.Output}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var err error
		for err == nil {
			var h *tarHeader
			if h, err = tr.next(); err != nil {
				break
			}
			var e *Entry
			if e, err = d.entry(h); err == nil {
				err = tree.add(e.Path, e.Type, e.Link)
			}
		}
		require.Regexp(t, "more than", err.Error(), what)
		runtime.GC()
		runtime.ReadMemStats(&after)
		require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(64<<20), what)
		runtime.KeepAlive(tree)
	}
}
