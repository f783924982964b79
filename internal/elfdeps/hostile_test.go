package elfdeps

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"golang.org/x/sys/unix"
)

func fileOf(b []byte) File { return &memFile{bytes.NewReader(b), int64(len(b))} }

// samples are sound files of each kind.
func samples() [][]byte {
	full := made{
		typ: elf.ET_DYN, interp: "/lib/ld.so.1", soname: "a.so", needed: []string{"b.so", "c.so"}, aux: []string{"x"}, filter: []string{"y"},
		rpath: "$ORIGIN:/x", runpath: strptr("${ORIGIN}/y:"), flags1: flagPIE,
		wants:   []wanted{{"b.so", "V1", false}, {"b.so", "V2", true}, {"c.so", "V1", false}},
		defines: []string{"a.so", "A1", "A2"},
		note:    []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x02\x03\x04\x05\x06\x07\x08"),
	}
	var out [][]byte
	for _, kind := range []struct {
		class elf.Class
		data  elf.Data
	}{{elf.ELFCLASS64, elf.ELFDATA2LSB}, {elf.ELFCLASS32, elf.ELFDATA2LSB}, {elf.ELFCLASS64, elf.ELFDATA2MSB}, {elf.ELFCLASS32, elf.ELFDATA2MSB}} {
		m := full
		m.class, m.data = kind.class, kind.data
		if kind.data == elf.ELFDATA2MSB {
			m.note = []byte("\x00\x00\x00\x04\x00\x00\x00\x08\x00\x00\x00\x03GNU\x00\x01\x02\x03\x04\x05\x06\x07\x08")
		}
		out = append(out, m.bytes())
	}
	return append(out, made{typ: elf.ET_EXEC, static: true}.bytes(), made{typ: elf.ET_REL, static: true}.bytes())
}

func TestObjectOfEachClassAndOrder(t *testing.T) {
	t.Parallel()
	for _, b := range samples()[:4] {
		o, err := parseObject(fileOf(b))
		require.NoError(t, err)
		require.Equal(t, "a.so", o.SONAME)
		require.Equal(t, "/lib/ld.so.1", o.Interp)
		require.Equal(t, []string{"b.so", "c.so"}, o.Needed)
		require.Empty(t, o.Rpath)
		require.Equal(t, []string{"${ORIGIN}/y", ""}, o.Runpath)
		require.Equal(t, map[string][]string{"b.so": {"V1", "V2"}, "c.so": {"V1"}}, o.VersionsNeeded)
		require.Equal(t, []string{"A1", "A2"}, o.VersionsDefined)
		require.Equal(t, "0102030405060708", o.BuildID)
		require.False(t, o.Static)
	}
	o, err := parseObject(fileOf(samples()[4]))
	require.NoError(t, err)
	require.True(t, o.Static)
}

// FuzzObject: whatever the bytes, the parser neither panics nor reads much.
func FuzzObject(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Add([]byte(elfMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseGuarded(fileOf(b)) // without the recover of parseObject
		if err != nil {
			return
		}
		if o.weight > maxText || len(o.Needed) > maxNeeded {
			t.Fatalf("an object of %d bytes with %d needs", o.weight, len(o.Needed))
		}
		tree := small().file("/bin/p", b)
		if o.loadable() {
			if _, err := New(tree).Closure(context.Background(), []string{"/bin/p"}); err != nil {
				t.Logf("closure: %v", err)
			}
		}
	})
}

// FuzzConfig: the text files and the loader's strings.
func FuzzConfig(f *testing.F) {
	f.Add("include /etc/*.conf\n/opt # x\n", "a:b c#d", "\x00/lib/\x00/usr/lib/\x00", "$ORIGIN/${LIB}:$x")
	f.Fuzz(func(t *testing.T, conf, preload, loader, rpath string) {
		tree := small().text("/etc/ld.so.cache", "x").text("/etc/ld.so.conf", conf).text("/etc/ld.so.preload", preload)
		tree.file("/lib/ld.so.1", made{soname: "ld.so.1", extra: []byte(loader)}.bytes())
		tree.file("/bin/p", prog(made{needed: []string{"a.so", rpath}, rpath: rpath}))
		if _, err := New(tree).Closure(context.Background(), []string{"/bin/p"}); err != nil {
			t.Logf("closure: %v", err)
		}
	})
}

// TestObjectCutAnywhere cuts a file at every byte, and turns every byte around.
func TestObjectCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, b := range samples() {
		for i := range b {
			_, _ = parseGuarded(fileOf(b[:i]))
			c := bytes.Clone(b)
			c[i] ^= 0xff
			_, _ = parseGuarded(fileOf(c))
		}
	}
}

func TestHostileObjects(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	good := made{data: elf.ELFDATA2LSB, machine: elf.EM_X86_64, needed: []string{"a.so"}, soname: "b.so",
		wants: []wanted{{"a.so", "V", false}}, defines: []string{"b.so", "W"}}
	patch := func(f func(b []byte)) []byte {
		b := good.bytes()
		f(b)
		return b
	}
	chained := func(tag elf.DynTag, at int, v uint32) []byte {
		return patch(func(b []byte) { le.PutUint32(b[tagValue(b, tag)+uint64(at):], v) })
	}
	var many []string
	for i := range maxNeeded + 1 {
		many = append(many, fmt.Sprint(i))
	}
	for name, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"program headers without end": {patch(func(b []byte) { le.PutUint16(b[56:], 0xffff) }), "65535 program headers, more than 1024"},
		"program headers far away":    {patch(func(b []byte) { le.PutUint64(b[32:], 1<<62) }), "cut off"},
		"offset that wraps":           {patch(func(b []byte) { le.PutUint64(b[32:], ^uint64(0)) }), "cut off"},
		"entry size":                  {patch(func(b []byte) { le.PutUint16(b[54:], 1) }), "program headers of 1 bytes"},
		"segment that wraps":          {patch(func(b []byte) { le.PutUint64(b[64+32:], ^uint64(0)) }), "a segment reaches beyond"},
		"no segment at all":           {patch(func(b []byte) { le.PutUint32(b[64:], 0x60000000) }), "in no segment of the file"},
		"unknown class":               {patch(func(b []byte) { b[4] = 9 }), "unknown class 9"},
		"unknown byte order":          {patch(func(b []byte) { b[5] = 9 }), "unknown byte order 9"},
		"unknown version":             {patch(func(b []byte) { b[6] = 9 }), "unknown ELF version 9"},
		"needs without end":           {made{needed: many}.bytes(), "needs more than 4096 libraries"},
		"long name":                   {made{needed: []string{long(5000)}}.bytes(), "a name is longer than 4096 bytes"},
		"long path":                   {made{rpath: long(200_000)}.bytes(), "a name is longer than 131072 bytes"},
		"path of many":                {made{rpath: strings.Repeat(":", 5000)}.bytes(), "search path of 5001 directories"},
		"long interpreter":            {made{interp: long(5000)}.bytes(), "interpreter's name of 5001 bytes"},
		"verneed next outside":        {chained(elf.DT_VERNEED, 12, 0xfffffff0), "in no segment"},
		"verneed aux outside":         {chained(elf.DT_VERNEED, 8, 0xfffffff0), "in no segment"},
		"verneed version":             {chained(elf.DT_VERNEED, 0, 2), "unsupported version 2 of a verneed"},
		"verdef next outside":         {chained(elf.DT_VERDEF, 16, 0xfffffff0), "in no segment"},
		"verdef version":              {chained(elf.DT_VERDEF, 0, 2), "unsupported version 2 of a verdef"},
		"verdef name outside":         {chained(elf.DT_VERDEF, 20, 0xfffffff0), "beyond the string table"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree := small().file("/x", tt.b)
			_, err := New(tree).Object("/x")
			require.ErrorContains(t, err, "cannot read ELF file /x: ")
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := New(small().file("/x", good.bytes())).Object("/x")
	require.NoError(t, err)
}

// tagValue finds the value of a dynamic entry of a little-endian 64-bit file
// that a test made.
func tagValue(b []byte, tag elf.DynTag) uint64 {
	le := binary.LittleEndian
	for i := range int(le.Uint16(b[56:])) {
		ph := b[64+56*i:]
		if elf.ProgType(le.Uint32(ph)) != elf.PT_DYNAMIC {
			continue
		}
		for at := le.Uint64(ph[8:]); ; at += 16 {
			if le.Uint64(b[at:]) == uint64(tag) {
				return le.Uint64(b[at+8:])
			}
		}
	}
	return 0
}

// TestVersionRecordsThatCrawl: a million tiny steps through a table, and names
// that add up, must end at a limit.
func TestVersionRecordsThatCrawl(t *testing.T) {
	t.Parallel()
	// One mapped megabyte of ones: each field of each record reads 0x00010001.
	m := made{data: elf.ELFDATA2LSB, defines: []string{"x"}, extra: bytes.Repeat([]byte{1, 0, 1, 0}, 1<<18)}
	b := m.bytes()
	crawl := len(b) - 1<<20
	for _, next := range []uint32{1, 20} {
		c := bytes.Clone(b)
		for i := crawl; i+20 < len(c); i += 20 {
			binary.LittleEndian.PutUint32(c[i+4:], 0)
			binary.LittleEndian.PutUint32(c[i+12:], 8)
			binary.LittleEndian.PutUint32(c[i+16:], next)
		}
		at := tagSlot(c, elf.DT_VERDEF)
		binary.LittleEndian.PutUint64(c[at:], uint64(crawl))
		start := time.Now()
		_, err := New(small().file("/x", c)).Object("/x")
		require.Error(t, err)
		require.Less(t, time.Since(start), 5*time.Second)
	}
}

func tagSlot(b []byte, tag elf.DynTag) uint64 {
	want := tagValue(b, tag)
	le := binary.LittleEndian
	for at := uint64(0); at+16 <= uint64(len(b)); at += 8 {
		if le.Uint64(b[at:]) == uint64(tag) && le.Uint64(b[at+8:]) == want {
			return at + 8
		}
	}
	return 0
}

func TestSparseTerabyte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := made{needed: []string{"a.so"}}.bytes()
	p := filepath.Join(dir, "huge")
	lab.WriteProgram(t, p, b)
	if err := os.Truncate(p, 1<<40); err != nil {
		require.ErrorIs(t, err, unix.EFBIG)
		require.NoError(t, os.Truncate(p, 1<<33))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "zero"), nil, 0o755))
	require.NoError(t, os.Truncate(filepath.Join(dir, "zero"), 1<<33))
	// The loader itself, as large: its directories are not searched for.
	q := made{interp: "/huge", flags1: flagPIE}.bytes()
	lab.WriteProgram(t, filepath.Join(dir, "prog"), q)
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	r := New(osFS{dir})
	o, err := r.Object("/huge")
	require.NoError(t, err)
	require.Equal(t, []string{"a.so"}, o.Needed)
	_, err = r.Object("/zero")
	require.ErrorIs(t, err, ErrNotELF)
	_, err = r.Object("/fifo")
	require.ErrorContains(t, err, "cannot read /fifo: not a regular file")
	_, err = r.Closure(context.Background(), []string{"/prog"})
	require.NoError(t, err)
	m, err := r.Check(context.Background(), []string{"/huge", "/zero", "/prog", "/fifo"})
	require.NoError(t, err)
	require.NotEmpty(t, m)
	runtime.ReadMemStats(&after)
	require.Less(t, time.Since(start), 5*time.Second)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

// TestLinksThatLeadNowhere: loops, chains at the limit, and paths that grow
// with each link all end, and end where the kernel ends.
func TestLinksThatLeadNowhere(t *testing.T) {
	t.Parallel()
	tree := small().link("/a", "b").link("/b", "/a").link("/up", "up/up/up").link("/out", "../../../../lib").
		link("/grow", "grow/"+strings.Repeat("x/", 2000)).link("/self", ".").file("/lib/x", nil)
	tree.file("/c40", nil)
	for i := range 40 {
		tree.link(fmt.Sprintf("/c%d", i), fmt.Sprintf("c%d", i+1))
	}
	tree.link("/c-1", "c0")
	r := New(tree)
	for p, want := range map[string]error{
		"/a": unix.ELOOP, "/up": unix.ELOOP, "/grow": unix.ELOOP, "/c-1": unix.ELOOP, "/lib/x/y": unix.ENOTDIR,
		"/lib/x/..": unix.ENOTDIR,
	} {
		_, err := r.resolve(p)
		require.ErrorIs(t, err, want, p)
	}
	at, err := r.resolve("/c0")
	require.NoError(t, err)
	require.Len(t, at.hops, 40)
	at, err = r.resolve("/out/../../self/self/lib/./x")
	require.NoError(t, err)
	require.Equal(t, "/lib/x", at.path)
}

// TestSearchThatNeverEnds: many names times many directories times many
// loaders ends at the limit, with an error that names the program.
func TestSearchThatNeverEnds(t *testing.T) {
	t.Parallel()
	tree := small()
	var names, dirs []string
	for i := range 2000 {
		names = append(names, fmt.Sprintf("n%d.so", i))
		dirs = append(dirs, fmt.Sprintf("/d%d", i))
	}
	tree.file("/bin/p", prog(made{needed: names, rpath: strings.Join(dirs, ":")}))
	_, err := New(countless{tree}).Closure(context.Background(), []string{"/bin/p"})
	require.ErrorContains(t, err, "cannot resolve /bin/p: the search takes more look-ups")
}

// countless is a tree in which every unknown path is an empty directory.
type countless struct{ *memFS }

func (c countless) Lstat(p string) (uint32, error) {
	if strings.HasPrefix(p, "/d") && !strings.HasSuffix(p, ".so") {
		return modeDir | 0o755, nil
	}
	if _, ok := c.files[p]; ok || p == "/bin" || p == "/lib" {
		return c.memFS.Lstat(p)
	}
	return 0, os.ErrNotExist
}

func TestHostileNamesAreShownQuoted(t *testing.T) {
	t.Parallel()
	tree := small().file("/bin/p", prog(needs("\x1b]0;x\a", "\u202ename", long(3000))))
	c, err := New(tree).Closure(context.Background(), []string{"/bin/p"})
	require.NoError(t, err)
	require.Len(t, c.Missing, 3)
	for _, m := range c.Missing {
		require.NotContains(t, m.String(), "\x1b")
		require.NotContains(t, m.String(), "\u202e")
		require.Less(t, len(m.String()), 1500)
	}
}

func TestResolverConcurrently(t *testing.T) {
	t.Parallel()
	tree := small().file("/bin/p", prog(needs("liba.so"))).file("/lib/liba.so", lib("liba.so", "libb.so")).link("/lib/libb.so", "liba.so")
	r := New(tree)
	done := make(chan error)
	for range 16 {
		go func() {
			for range rand.IntN(20) {
				if _, err := r.Closure(context.Background(), []string{"/bin/p"}); err != nil {
					done <- err
					return
				}
			}
			_, err := r.Check(context.Background(), []string{"/bin/p", "/lib/libb.so"})
			done <- err
		}()
	}
	for range 16 {
		require.NoError(t, <-done)
	}
}
