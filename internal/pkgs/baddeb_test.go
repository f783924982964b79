package pkgs

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBadArchives(t *testing.T) {
	t.Parallel()
	control, data := string(controlTar()), string(ended(dir("./")))
	bin := arPart{"debian-binary", "2.0\n"}
	ctl, dat := arPart{"control.tar", control}, arPart{"data.tar", data}
	good := arOf(bin, ctl, dat)
	_, _, err := entriesOf(good, Limits{})
	require.NoError(t, err)
	edit := func(at int, s string) []byte {
		b := bytes.Clone(good)
		copy(b[at:], s)
		return b
	}
	var many []arPart
	for i := range 30 {
		many = append(many, arPart{"_" + string(rune('a'+i%26)) + string(rune('a'+i/26)), ""})
	}
	for name, c := range map[string]struct {
		deb []byte
		err string
	}{
		"no ar":                 {[]byte("<html>welcome</html>"), "not an ar archive"},
		"thin ar":               {append([]byte("!<thin>\n"), good[8:]...), "not an ar archive"},
		"nothing in it":         {[]byte(arMagic), "first member"},
		"wrong first":           {arOf(ctl, dat), "first member"},
		"order":                 {arOf(bin, dat, ctl), "where control.tar belongs"},
		"no data":               {arOf(bin, ctl), "1 members"},
		"control twice":         {arOf(bin, ctl, ctl, dat), "twice"},
		"control in two forms":  {arOf(bin, ctl, arPart{"control.tar.gz", string(pack(t, Gzip, controlTar()))}, dat), "3 members"},
		"twice, with a slash":   {arOf(bin, ctl, dat, arPart{"data.tar/", data}), "twice"},
		"hidden member twice":   {arOf(bin, arPart{"_x", ""}, arPart{"_x", ""}, ctl, dat), "twice"},
		"something more":        {arOf(bin, ctl, dat, arPart{"extra", "x"}), "3 members"},
		"too many":              {arOf(append([]arPart{bin, ctl, dat}, many...)...), "more than 16"},
		"path":                  {arOf(bin, ctl, arPart{"../data.tar", data}), "strange name"},
		"upper case":            {arOf(bin, ctl, arPart{"DATA.TAR", data}), "strange name"},
		"BSD long name":         {arOf(bin, ctl, arPart{"#1/8", "data.tar" + data}), "strange name"},
		"GNU long name":         {arOf(bin, ctl, arPart{"//", "data.tar/\n"}), "strange name"},
		"symbol table":          {arOf(bin, ctl, arPart{"/", ""}), "without a name"},
		"blank name":            {arOf(bin, ctl, arPart{"", ""}), "without a name"},
		"format 3":              {arOf(arPart{"debian-binary", "3.0\n"}, ctl, dat), "not supported"},
		"format 0.93":           {arOf(arPart{"debian-binary", "0.939000\n"}, ctl, dat), "not supported"},
		"format, no newline":    {arOf(arPart{"debian-binary", "2.0"}, ctl, dat), "not supported"},
		"format, empty":         {arOf(arPart{"debian-binary", ""}, ctl, dat), "not supported"},
		"format, bare":          {arOf(arPart{"debian-binary", "2.\n"}, ctl, dat), "not supported"},
		"format, junk":          {arOf(arPart{"debian-binary", "2.0x\n"}, ctl, dat), "not supported"},
		"format, two lines":     {arOf(arPart{"debian-binary", "2.0\n2.0\n"}, ctl, dat), "not supported"},
		"format, long":          {arOf(arPart{"debian-binary", "2." + strings.Repeat("0", 100) + "\n"}, ctl, dat), "too long"},
		"bzip2":                 {arOf(bin, ctl, arPart{"data.tar.bz2", "BZh91AY&SY"}), "bzip2 is not supported"},
		"lzma":                  {arOf(bin, ctl, arPart{"data.tar.lzma", "\x5d\x00\x00\x80\x00"}), "lzma is not supported"},
		"a name that lies":      {arOf(bin, ctl, arPart{"data.tar.xz", string(pack(t, Gzip, []byte(data)))}), "says xz, its content gzip"},
		"a name that keeps mum": {arOf(bin, ctl, arPart{"data.tar", string(pack(t, Gzip, []byte(data)))}), "says none, its content gzip"},
		"unknown extension":     {arOf(bin, ctl, arPart{"data.tar.br", data}), "where data.tar belongs"},
		"no extension at all":   {arOf(bin, ctl, arPart{"data.tarball", data}), "where data.tar belongs"},
		"header end":            {edit(8+58, "x"), "damaged header"},
		"size, blank":           {edit(8+48, "          "), "damaged size"},
		"size, shifted":         {edit(8+48, " 4        "), "damaged size"},
		"size, negative":        {edit(8+48, "-4        "), "damaged size"},
		"size, octal-ish":       {edit(8+48, "0x4       "), "damaged size"},
		"size, huge":            {edit(8+48, "9999999999"), "unexpected EOF"},
		"pad":                   {append(arOf(bin, arPart{"_x", "1"}), good[8+64:]...), ""},
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
		members []member
		err     string
	}{
		"no control":           {[]member{dir("./")}, "control is missing"},
		"empty control":        {[]member{file("./control", "\n")}, "control is empty"},
		"two paragraphs":       {[]member{file("./control", smallControl+"\n"+smallControl)}, "more than one paragraph"},
		"control is a link":    {[]member{symlink("./control", "/etc/shadow")}, "only plain files"},
		"control is a dir":     {[]member{dir("./control/")}, "only plain files"},
		"a file in a folder":   {[]member{file("./control", smallControl), file("./a/b", "")}, "only plain files"},
		"a device":             {[]member{file("./control", smallControl), {name: "./dev", typ: '3'}}, "not allowed"},
		"control twice":        {[]member{file("./control", smallControl), file("control", smallControl)}, "second member"},
		"no version":           {[]member{file("./control", "Package: small\nArchitecture: all\n")}, "Version"},
		"a comment":            {[]member{file("./control", "# hi\n"+smallControl)}, "no colon|field name"},
		"conffile, relative":   {[]member{file("./control", smallControl), file("./conffiles", "etc/x\n")}, "no plain absolute path"},
		"conffile, dot dot":    {[]member{file("./control", smallControl), file("./conffiles", "/etc/../x\n")}, "no plain absolute path"},
		"conffile, two slash":  {[]member{file("./control", smallControl), file("./conffiles", "//etc/x\n")}, "no plain absolute path"},
		"conffile, dot":        {[]member{file("./control", smallControl), file("./conffiles", "/./etc/x\n")}, "no plain absolute path"},
		"conffile, the root":   {[]member{file("./control", smallControl), file("./conffiles", "/\n")}, "no plain absolute path"},
		"conffile, escape":     {[]member{file("./control", smallControl), file("./conffiles", "/etc/\x1bx\n")}, "no plain absolute path"},
		"conffile, slash end":  {[]member{file("./control", smallControl), file("./conffiles", "/etc/x/\n")}, "no plain absolute path"},
		"conffile twice":       {[]member{file("./control", smallControl), file("./conffiles", "/etc/x\n/etc/x\n")}, "twice"},
		"conffile, odd flag":   {[]member{file("./control", smallControl), file("./conffiles", "keep /etc/x\n")}, "no plain absolute path"},
		"conffile, bare flag":  {[]member{file("./control", smallControl), file("./conffiles", "remove-on-upgrade\n")}, "no plain absolute path"},
		"conffile, both kinds": {[]member{file("./control", smallControl), file("./conffiles", "/etc/x\nremove-on-upgrade /etc/x\n")}, "twice"},
	} {
		b := arOf(arPart{"debian-binary", "2.0\n"}, arPart{"control.tar", string(ended(c.members...))}, arPart{"data.tar", string(ended(dir("./")))})
		_, err := readDeb(b, Limits{})
		require.Error(t, err, name)
		require.Regexp(t, c.err, err.Error(), name)
	}
	d, err := readDeb(debOf(), Limits{})
	require.NoError(t, err)
	require.Empty(t, d.Conffiles())
	// An index's own fields are not believed from inside a package.
	b := arOf(arPart{"debian-binary", "2.0\n"}, arPart{"control.tar", string(ended(file("./control", smallControl+"Filename: pool/x.deb\nSize: 5\nSHA256: "+strings.Repeat("a", 64)+"\n")))}, arPart{"data.tar", string(ended(dir("./")))})
	d, err = readDeb(b, Limits{})
	require.NoError(t, err)
	require.Error(t, d.Control().Fetchable())
}
