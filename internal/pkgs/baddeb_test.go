package pkgs

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab/byhand"
)

func TestBadArchives(t *testing.T) {
	t.Parallel()
	control, data := string(controlTar()), string(byhand.WholeTar(byhand.Dir("./")))
	bin := byhand.Part("debian-binary", "2.0\n")
	ctl, dat := byhand.Part("control.tar", control), byhand.Part("data.tar", data)
	good := byhand.Ar(bin, ctl, dat)
	_, _, err := entriesOf(good, Limits{})
	require.NoError(t, err)
	edit := func(at int, s string) []byte {
		b := bytes.Clone(good)
		copy(b[at:], s)
		return b
	}
	var many []byhand.ArMember
	for i := range 30 {
		many = append(many, byhand.Part("_"+string(rune('a'+i%26))+string(rune('a'+i/26)), ""))
	}
	for name, c := range map[string]struct {
		deb []byte
		err string
	}{
		"no ar":                 {[]byte("<html>welcome</html>"), "not an ar archive"},
		"thin ar":               {append([]byte("!<thin>\n"), good[8:]...), "not an ar archive"},
		"nothing in it":         {byhand.Ar(), "first member"},
		"wrong first":           {byhand.Ar(ctl, dat), "first member"},
		"order":                 {byhand.Ar(bin, dat, ctl), "where control.tar belongs"},
		"no data":               {byhand.Ar(bin, ctl), "1 members"},
		"control twice":         {byhand.Ar(bin, ctl, ctl, dat), "twice"},
		"control in two forms":  {byhand.Ar(bin, ctl, byhand.Part("control.tar.gz", pack(t, Gzip, controlTar())), dat), "3 members"},
		"twice, with a slash":   {byhand.Ar(bin, ctl, dat, byhand.Part("data.tar/", data)), "twice"},
		"hidden member twice":   {byhand.Ar(bin, byhand.Part("_x", ""), byhand.Part("_x", ""), ctl, dat), "twice"},
		"something more":        {byhand.Ar(bin, ctl, dat, byhand.Part("extra", "x")), "3 members"},
		"too many":              {byhand.Ar(append([]byhand.ArMember{bin, ctl, dat}, many...)...), "more than 16"},
		"path":                  {byhand.Ar(bin, ctl, byhand.Part("../data.tar", data)), "strange name"},
		"upper case":            {byhand.Ar(bin, ctl, byhand.Part("DATA.TAR", data)), "strange name"},
		"BSD long name":         {byhand.Ar(bin, ctl, byhand.Part("#1/8", "data.tar"+data)), "strange name"},
		"GNU long name":         {byhand.Ar(bin, ctl, byhand.Part("//", "data.tar/\n")), "strange name"},
		"symbol table":          {byhand.Ar(bin, ctl, byhand.Part("/", "")), "without a name"},
		"blank name":            {byhand.Ar(bin, ctl, byhand.Part("", "")), "without a name"},
		"format 3":              {byhand.Ar(byhand.Part("debian-binary", "3.0\n"), ctl, dat), "not supported"},
		"format 0.93":           {byhand.Ar(byhand.Part("debian-binary", "0.939000\n"), ctl, dat), "not supported"},
		"format, no newline":    {byhand.Ar(byhand.Part("debian-binary", "2.0"), ctl, dat), "not supported"},
		"format, empty":         {byhand.Ar(byhand.Part("debian-binary", ""), ctl, dat), "not supported"},
		"format, bare":          {byhand.Ar(byhand.Part("debian-binary", "2.\n"), ctl, dat), "not supported"},
		"format, junk":          {byhand.Ar(byhand.Part("debian-binary", "2.0x\n"), ctl, dat), "not supported"},
		"format, two lines":     {byhand.Ar(byhand.Part("debian-binary", "2.0\n2.0\n"), ctl, dat), "not supported"},
		"format, long":          {byhand.Ar(byhand.Part("debian-binary", "2."+strings.Repeat("0", 100)+"\n"), ctl, dat), "too long"},
		"bzip2":                 {byhand.Ar(bin, ctl, byhand.Part("data.tar.bz2", "BZh91AY&SY")), "bzip2 is not supported"},
		"lzma":                  {byhand.Ar(bin, ctl, byhand.Part("data.tar.lzma", "\x5d\x00\x00\x80\x00")), "lzma is not supported"},
		"a name that lies":      {byhand.Ar(bin, ctl, byhand.Part("data.tar.xz", pack(t, Gzip, []byte(data)))), "says xz, its content gzip"},
		"a name that keeps mum": {byhand.Ar(bin, ctl, byhand.Part("data.tar", pack(t, Gzip, []byte(data)))), "says none, its content gzip"},
		"unknown extension":     {byhand.Ar(bin, ctl, byhand.Part("data.tar.br", data)), "where data.tar belongs"},
		"no extension at all":   {byhand.Ar(bin, ctl, byhand.Part("data.tarball", data)), "where data.tar belongs"},
		"header end":            {edit(8+58, "x"), "damaged header"},
		"size, blank":           {edit(8+48, "          "), "damaged size"},
		"size, shifted":         {edit(8+48, " 4        "), "damaged size"},
		"size, negative":        {edit(8+48, "-4        "), "damaged size"},
		"size, octal-ish":       {edit(8+48, "0x4       "), "damaged size"},
		"size, huge":            {edit(8+48, "9999999999"), "unexpected EOF"},
		"pad":                   {append(byhand.Ar(bin, byhand.Part("_x", "1")), good[8+64:]...), ""},
	} {
		if name == "pad" {
			c.deb[8+64+61] = 'x'
			c.err = "not padded"
		}
		_, _, err := entriesOf(c.deb, Limits{})
		require.Error(t, err, name)
		require.ErrorContains(t, err, c.err, name)
	}
}

func TestBadControl(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		members []byhand.TarMember
		err     string
	}{
		"no control":           {[]byhand.TarMember{byhand.Dir("./")}, "control is missing"},
		"empty control":        {[]byhand.TarMember{byhand.File("./control", "\n")}, "control is empty"},
		"two paragraphs":       {[]byhand.TarMember{byhand.File("./control", smallControl+"\n"+smallControl)}, "more than one paragraph"},
		"control is a link":    {[]byhand.TarMember{byhand.Symlink("./control", "/etc/shadow")}, "only plain files"},
		"control is a dir":     {[]byhand.TarMember{byhand.Dir("./control/")}, "only plain files"},
		"a file in a folder":   {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./a/b", "")}, "only plain files"},
		"a device":             {[]byhand.TarMember{byhand.File("./control", smallControl), {Name: "./dev", Type: '3'}}, "not allowed"},
		"control twice":        {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("control", smallControl)}, "second member"},
		"no version":           {[]byhand.TarMember{byhand.File("./control", "Package: small\nArchitecture: all\n")}, "Version"},
		"a comment":            {[]byhand.TarMember{byhand.File("./control", "# hi\n"+smallControl)}, "no colon|field name"},
		"conffile, relative":   {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "etc/x\n")}, "no plain absolute path"},
		"conffile, dot dot":    {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/etc/../x\n")}, "no plain absolute path"},
		"conffile, two slash":  {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "//etc/x\n")}, "no plain absolute path"},
		"conffile, dot":        {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/./etc/x\n")}, "no plain absolute path"},
		"conffile, the root":   {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/\n")}, "no plain absolute path"},
		"conffile, escape":     {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/etc/\x1bx\n")}, "no plain absolute path"},
		"conffile, slash end":  {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/etc/x/\n")}, "no plain absolute path"},
		"conffile twice":       {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/etc/x\n/etc/x\n")}, "twice"},
		"conffile, odd flag":   {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "keep /etc/x\n")}, "no plain absolute path"},
		"conffile, bare flag":  {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "remove-on-upgrade\n")}, "no plain absolute path"},
		"conffile, both kinds": {[]byhand.TarMember{byhand.File("./control", smallControl), byhand.File("./conffiles", "/etc/x\nremove-on-upgrade /etc/x\n")}, "twice"},
	} {
		b := byhand.Ar(byhand.Part("debian-binary", "2.0\n"), byhand.Part("control.tar", byhand.WholeTar(c.members...)), byhand.Part("data.tar", byhand.WholeTar(byhand.Dir("./"))))
		_, err := readDeb(b, Limits{})
		require.Error(t, err, name)
		require.Regexp(t, c.err, err.Error(), name)
	}
	d, err := readDeb(debOf(), Limits{})
	require.NoError(t, err)
	require.Empty(t, d.Conffiles())
	// An index's own fields are not believed from inside a package.
	b := byhand.Ar(byhand.Part("debian-binary", "2.0\n"), byhand.Part("control.tar", byhand.WholeTar(byhand.File("./control", smallControl+"Filename: pool/x.deb\nSize: 5\nSHA256: "+strings.Repeat("a", 64)+"\n"))), byhand.Part("data.tar", byhand.WholeTar(byhand.Dir("./"))))
	d, err = readDeb(b, Limits{})
	require.NoError(t, err)
	require.Error(t, d.Control().Fetchable())
}
