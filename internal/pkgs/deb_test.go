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

	"github.com/jailup/jailup/internal/lab/byhand"
)

func TestDebRoundTrip(t *testing.T) {
	t.Parallel()
	deep := "./" + strings.Repeat("0123456789/", 12) + "file"
	members := []byhand.TarMember{
		byhand.Dir("./"), byhand.Dir("./usr/"), {Name: "./usr/bin", Type: '5', Mode: "0002755"},
		{Name: "./usr/bin/su", Mode: "0104755", Data: "set-user-ID", UID: "0000144"},
		{Name: "./usr/bin/twin", Type: '1', Link: "./usr/bin/su", Mode: "0004755"},
		byhand.Symlink("./usr/bin/out", "../../../../etc/shadow"),
		{Name: "opt/plain", Data: "no dot", Magic: "v7"},
		{Name: "name", Prefix: "./usr/share", Magic: "ustar\x0000", Data: "prefix"},
		byhand.Long('L', deep), {Name: deep[:100], Data: "deep"},
		byhand.Long('K', "/"+strings.Repeat("t", 200)), byhand.Long('L', deep+"2"),
		{Name: deep[:100], Type: '2', Link: "cut off"},
		{Name: "./old", MTime: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6", Size: "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03", Data: "abc"},
		byhand.File("./ünïcode", ""),
	}
	for _, format := range []Format{None, Gzip, XZ, Zstd} {
		ext := map[Format]string{Gzip: ".gz", XZ: ".xz", Zstd: ".zst"}[format]
		b := byhand.Ar(byhand.Part("debian-binary/", "2.0\n"), byhand.Part("_sig", "x"),
			byhand.Part("control.tar"+ext+"/", pack(t, format, controlTar(byhand.File("./conffiles", "/opt/plain\nremove-on-upgrade /etc/gone\n"), byhand.File("./postinst", "#!/bin/sh\n")))),
			byhand.Part("data.tar"+ext, pack(t, format, byhand.WholeTar(members...))), byhand.Part("_gpgorigin", "sig"))
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
	null := byhand.TarMember{Name: "./dev/null", Type: '3', Major: "0000001", Minor: "0000003"}
	for _, m := range []byhand.TarMember{null, {Name: "./b", Type: '4'}, {Name: "./f", Type: '6'}} {
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
		members []byhand.TarMember
		err     string
	}{
		"dot dot":                   {[]byhand.TarMember{byhand.File("../etc/passwd", "")}, "no plain relative path"},
		"dot dot inside":            {[]byhand.TarMember{byhand.File("./usr/../../etc/passwd", "")}, "no plain relative path"},
		"dot dot at the end":        {[]byhand.TarMember{byhand.Dir("./usr/..")}, "no plain relative path"},
		"absolute":                  {[]byhand.TarMember{byhand.File("/etc/passwd", "")}, "no plain relative path"},
		"absolute behind dot":       {[]byhand.TarMember{byhand.File(".//etc/passwd", "")}, "no plain relative path"},
		"two slashes":               {[]byhand.TarMember{byhand.File("./usr//bin", "")}, "no plain relative path"},
		"dot inside":                {[]byhand.TarMember{byhand.File("./usr/./bin", "")}, "no plain relative path"},
		"dot twice":                 {[]byhand.TarMember{byhand.File("././bin", "")}, "no plain relative path"},
		"empty name":                {[]byhand.TarMember{byhand.File("", "")}, "no plain relative path"},
		"root as a file":            {[]byhand.TarMember{byhand.File("./", "")}, "root is no directory"},
		"root as a link":            {[]byhand.TarMember{byhand.Symlink(".", "/")}, "root is no directory"},
		"a file with a slash":       {[]byhand.TarMember{byhand.File("./usr/", "")}, "no plain relative path"},
		"a directory, two slashes":  {[]byhand.TarMember{byhand.Dir("./usr//")}, "no plain relative path"},
		"twice":                     {[]byhand.TarMember{byhand.File("./a", "1"), byhand.File("./a", "2")}, "second member"},
		"twice, in two spellings":   {[]byhand.TarMember{byhand.File("./a", "1"), byhand.File("a", "2")}, "second member"},
		"directory twice":           {[]byhand.TarMember{byhand.Dir("./a/"), byhand.Dir("./a")}, "second member"},
		"file, then directory":      {[]byhand.TarMember{byhand.File("./a", ""), byhand.Dir("./a/")}, "second member"},
		"through a link":            {[]byhand.TarMember{byhand.Symlink("./etc", "/etc"), byhand.File("./etc/passwd", "")}, "made a link"},
		"through a link, deeper":    {[]byhand.TarMember{byhand.Symlink("./a", "/"), byhand.File("./a/etc/x/passwd", "")}, "made a link"},
		"directory through a link":  {[]byhand.TarMember{byhand.Symlink("./a", "/"), byhand.Dir("./a/etc/")}, "made a link"},
		"link through a link":       {[]byhand.TarMember{byhand.Symlink("./a", "/"), byhand.Symlink("./a/etc", "b")}, "made a link"},
		"a link planted afterwards": {[]byhand.TarMember{byhand.File("./etc/passwd", ""), byhand.Symlink("./etc", "/etc")}, "other members lie below"},
		"below a file":              {[]byhand.TarMember{byhand.File("./a", ""), byhand.File("./a/b", "")}, "no directory"},
		"hard link out":             {[]byhand.TarMember{{Name: "./a", Type: '1', Link: "../../etc/shadow"}}, "no plain relative path"},
		"hard link, absolute":       {[]byhand.TarMember{{Name: "./a", Type: '1', Link: "/etc/shadow"}}, "no plain relative path"},
		"hard link to nothing":      {[]byhand.TarMember{{Name: "./a", Type: '1', Link: "./b"}}, "no file that came before"},
		"hard link to later":        {[]byhand.TarMember{{Name: "./a", Type: '1', Link: "./b"}, byhand.File("./b", "")}, "no file that came before"},
		"hard link to itself":       {[]byhand.TarMember{{Name: "./a", Type: '1', Link: "./a"}}, "no file that came before"},
		"hard link to a link":       {[]byhand.TarMember{byhand.Symlink("./b", "/etc/shadow"), {Name: "./a", Type: '1', Link: "./b"}}, "no file that came before"},
		"hard link to a directory":  {[]byhand.TarMember{byhand.Dir("./b/"), {Name: "./a", Type: '1', Link: "./b"}}, "no plain relative path|no file that came before"},
		"hard link through a link":  {[]byhand.TarMember{byhand.Symlink("./b", "/etc"), {Name: "./a", Type: '1', Link: "./b/shadow"}}, "no file that came before"},
		"link to nowhere":           {[]byhand.TarMember{{Name: "./a", Type: '2'}}, "link to nowhere"},
		"file with a link name":     {[]byhand.TarMember{{Name: "./a", Link: "b"}}, "it is no link"},
		"link with content":         {[]byhand.TarMember{{Name: "./a", Type: '2', Link: "b", Data: "x"}}, "content behind"},
		"directory with content":    {[]byhand.TarMember{{Name: "./a/", Type: '5', Data: "x"}}, "content behind"},
		"hard link with content":    {[]byhand.TarMember{byhand.File("./b", ""), {Name: "./a", Type: '1', Link: "./b", Data: "x"}}, "content behind"},
		"device with content":       {[]byhand.TarMember{{Name: "./a", Type: '3', Data: "x"}}, "content behind"},
		"PAX":                       {[]byhand.TarMember{{Name: "./x", Type: 'x', Data: "20 path=/etc/passwd\n"}, byhand.File("./a", "")}, "PAX"},
		"PAX size":                  {[]byhand.TarMember{{Name: "./x", Type: 'x', Data: "11 size=99\n"}, byhand.File("./a", "abc")}, "PAX"},
		"PAX, global":               {[]byhand.TarMember{{Name: "./x", Type: 'g', Data: "20 path=/etc/passwd\n"}, byhand.File("./a", "")}, "PAX"},
		"PAX, Sun":                  {[]byhand.TarMember{{Name: "./x", Type: 'X', Data: "20 path=/etc/passwd\n"}, byhand.File("./a", "")}, "PAX"},
		"sparse":                    {[]byhand.TarMember{{Name: "./a", Type: 'S', Data: "x", Edit: sparse}}, "sparse"},
		"sparse map in a file":      {[]byhand.TarMember{{Name: "./a", Data: "x", Edit: sparse}}, "sparse"},
		"contiguous":                {[]byhand.TarMember{{Name: "./a", Type: '7'}}, "unknown type"},
		"multi-volume":              {[]byhand.TarMember{{Name: "./a", Type: 'M'}}, "unknown type"},
		"volume label":              {[]byhand.TarMember{{Name: "./a", Type: 'V'}}, "unknown type"},
		"incremental directory":     {[]byhand.TarMember{{Name: "./a/", Type: 'D'}}, "unknown type"},
		"old long name":             {[]byhand.TarMember{{Name: "./a", Type: 'N'}}, "unknown type"},
		"unknown magic":             {[]byhand.TarMember{{Name: "./a", Magic: "uSTAR  \x00"}}, "unknown kind of tar"},
		"NUL in a name":             {[]byhand.TarMember{byhand.File("./a\x00/../../etc/passwd", "")}, "NUL"},
		"NUL in a link":             {[]byhand.TarMember{byhand.Symlink("./a", "b\x00c")}, "NUL"},
		"NUL in an owner":           {[]byhand.TarMember{{Name: "./a", UName: "ro\x00ot"}}, "NUL"},
		"NUL in a long name":        {[]byhand.TarMember{byhand.Long('L', "./a\x00b"), byhand.File("x", "")}, "NUL"},
		"newline in a name":         {[]byhand.TarMember{byhand.File("./a\nb", "")}, "control character"},
		"escape in a name":          {[]byhand.TarMember{byhand.File("./a\x1b[2Jb", "")}, "control character"},
		"escape in a link":          {[]byhand.TarMember{byhand.Symlink("./a", "\x1b[2Jb")}, "control character"},
		"C1 control in a name":      {[]byhand.TarMember{byhand.File("./a\u009bb", "")}, "control character"},
		"no UTF-8":                  {[]byhand.TarMember{byhand.File("./a\xffb", "")}, "UTF-8"},
		"no UTF-8 in an owner":      {[]byhand.TarMember{{Name: "./a", UName: "\xff"}}, "UTF-8"},
		"name of 4 KB":              {[]byhand.TarMember{byhand.Long('L', "./"+strings.Repeat("a/", 2047)+"b"), byhand.File("x", "")}, "more than 1024"},
		"name of 1025 bytes":        {[]byhand.TarMember{byhand.Long('L', strings.Repeat("a/", 512)+"b"), byhand.File("x", "")}, "more than 1024"},
		"last name of 256 bytes":    {[]byhand.TarMember{byhand.Long('L', strings.Repeat("a", 256)), byhand.File("x", "")}, "more than 255"},
		"link of 4 KB":              {[]byhand.TarMember{byhand.Long('K', strings.Repeat("a/", 2048)), byhand.Symlink("./a", "x")}, "more than 1024"},
		"long name twice":           {[]byhand.TarMember{byhand.Long('L', "./a"), byhand.Long('L', "./b"), byhand.File("x", "")}, "two long names"},
		"long link twice":           {[]byhand.TarMember{byhand.Long('K', "./a"), byhand.Long('K', "./b"), byhand.Symlink("./x", "x")}, "two long names"},
		"long link of a file":       {[]byhand.TarMember{byhand.Long('K', "./a"), byhand.File("./x", "")}, "no link"},
		"long name of nothing":      {[]byhand.TarMember{byhand.File("./x", ""), byhand.Long('L', "./a")}, "without a member"},
		"long name, empty":          {[]byhand.TarMember{{Name: "././@LongLink", Type: 'L'}, byhand.File("x", "")}, "a name of 0 bytes"},
		"long name of NUL":          {[]byhand.TarMember{byhand.Long('L', ""), byhand.File("x", "")}, "NUL"},
		"long name, huge":           {[]byhand.TarMember{{Name: "././@LongLink", Type: 'L', Size: "77777777777"}}, "a name of"},
		"long name, negative":       {[]byhand.TarMember{{Name: "././@LongLink", Type: 'L', Size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6"}}, "a name of"},
		"size, negative":            {[]byhand.TarMember{{Name: "./a", Size: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf6"}}, "impossible size"},
		"size, huge":                {[]byhand.TarMember{{Name: "./a", Size: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}}, "impossible size"},
		"size over 63 bits":         {[]byhand.TarMember{{Name: "./a", Size: "\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size in bit 63":            {[]byhand.TarMember{{Name: "./a", Size: "\x80\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size below 64 bits":        {[]byhand.TarMember{{Name: "./a", Size: "\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size in base 256, odd":     {[]byhand.TarMember{{Name: "./a", Size: "\x81\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "too large"},
		"size with a sign":          {[]byhand.TarMember{{Name: "./a", Size: "-0000000001"}}, "damaged number"},
		"size, decimal":             {[]byhand.TarMember{{Name: "./a", Size: "00000000009"}}, "damaged number"},
		"size, rubbish behind":      {[]byhand.TarMember{{Name: "./a", Size: "1 \x00 1"}}, "damaged number"},
		"size past the end":         {[]byhand.TarMember{{Name: "./a", Size: "00000002000"}}, "unexpected EOF"},
		"time out of range":         {[]byhand.TarMember{{Name: "./a", MTime: "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"}}, "impossible time"},
		"time, far back":            {[]byhand.TarMember{{Name: "./a", MTime: "\xff\xff\xff\xff\x80\x00\x00\x00\x00\x00\x00\x00"}}, "impossible time"},
		"owner -1":                  {[]byhand.TarMember{{Name: "./a", UID: "\xff\xff\xff\xff\xff\xff\xff\xff"}}, "impossible owner"},
		"owner over 31 bits":        {[]byhand.TarMember{{Name: "./a", UID: "\x80\x00\x00\x00\x80\x00\x00\x00"}}, "impossible owner"},
		"mode, negative":            {[]byhand.TarMember{{Name: "./a", Mode: "\xff\xff\xff\xff\xff\xff\xff\xff"}}, "impossible mode"},
		"device number":             {[]byhand.TarMember{{Name: "./a", Type: '3', Major: "7777777"}}, "impossible device"},
	} {
		_, _, err := entriesOf(debOf(append([]byhand.TarMember{byhand.Dir("./")}, c.members...)...), Limits{})
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
	ok := byhand.Tar(byhand.Dir("./"), byhand.File("./a", "data"))
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
		"a lone zero block":   {append(append(bytes.Clone(ok), end[:tarBlock]...), byhand.WholeTar(byhand.File("./b", ""))...), "something follows"},
		"members after end":   {append(append(bytes.Clone(ok), end...), byhand.WholeTar(byhand.File("./b", ""))...), "something follows"},
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
		control := pack(t, format, controlTar())
		data := pack(t, format, byhand.WholeTar(byhand.Dir("./"), byhand.File("./a", "some data")))
		deb := func(data []byte) []byte {
			return byhand.Deb(ext, control, data)
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
	d, err := readDeb(debOf(byhand.Dir("./")), Limits{})
	require.NoError(t, err)
	require.NoError(t, d.Match(Stanza{Package: "small", Version: "1:2.0-3", Architecture: "amd64"}))
	require.EqualError(t, d.Match(Stanza{Package: "large", Version: "1:2.0-3", Architecture: "amd64"}), `cannot use package "large": its name is "small" inside and "large" in the index`)
	require.ErrorContains(t, d.Match(Stanza{Package: "small", Version: "1:2.0-4", Architecture: "amd64"}), "version")
	require.ErrorContains(t, d.Match(Stanza{Package: "small", Version: "1:2.0-3", Architecture: "arm64"}), "architecture")
}

func TestTreeLimits(t *testing.T) {
	t.Parallel()
	var files []byhand.TarMember
	for i := range 50 {
		files = append(files, byhand.File("./d/"+strings.Repeat("x", i+1), "1"))
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
	d, err := readDeb(debOf(byhand.File("./a", "12345"), byhand.File("./b", "6")), Limits{})
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
		"short names": func(i int) []byte { return byhand.Tar(byhand.File(name(i), "")) },
		"long names": func(i int) []byte {
			return byhand.Tar(byhand.Long('L', name(i)+strings.Repeat("/abc", 250)), byhand.File("x", ""))
		},
		"deep names": func(i int) []byte {
			return byhand.Tar(byhand.Long('L', name(i)+strings.Repeat("/a", 500)), byhand.File("x", ""))
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
