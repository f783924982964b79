package elfdeps

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/elfdeps/elftest"
	"github.com/jailup/jailup/internal/lab"
)

// kinds are machines of both widths and byte orders, with and without an addend in
// the table of relocations.
func kinds() map[string]elftest.Lib {
	return map[string]elftest.Lib{
		"x86-64":      {},
		"x86-64 sysv": {SysV: true},
		"aarch64":     {Machine: elf.EM_AARCH64},
		"i386":        {Class: elf.ELFCLASS32, Machine: elf.EM_386},
		"armhf":       {Class: elf.ELFCLASS32, Machine: elf.EM_ARM, SysV: true},
		"riscv64":     {Machine: elf.EM_RISCV},
		"ppc64":       {Machine: elf.EM_PPC64, Data: elf.ELFDATA2MSB},
		"s390x":       {Machine: elf.EM_S390, Data: elf.ELFDATA2MSB},
	}
}

// sample has data that points at data in each way.
func sample(l elftest.Lib) elftest.Lib {
	l.Foreign = []string{"theirs"}
	l.RO = []elftest.Item{{Name: "text", Hidden: true, Parts: []any{"API1", "xAPI2,a", "API"}}}
	l.RW = []elftest.Item{
		{Name: "one", Parts: []any{uint32(7), uint32(8), elftest.Word(9)}},
		{Name: "list", Parts: []any{elftest.SymRef("one"), elftest.Ref("text"), elftest.Word(0), elftest.SymRef("theirs")}},
		{Name: "API3", Parts: []any{"API3"}},
	}
	return l
}

func dataOf(t *testing.T, b []byte) *Data {
	t.Helper()
	d, err := OpenData(fileOf(b), 1<<20)
	require.NoError(t, err)
	return d
}

func TestDataOfEachMachine(t *testing.T) {
	t.Parallel()
	for name, l := range kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := dataOf(t, sample(l).Bytes())
			word := uint64(4)
			if d.Wide() {
				word = 8
			}
			one, ok, err := d.Symbol("one")
			require.NoError(t, err)
			require.True(t, ok)
			for i, want := range []uint32{7, 8} {
				v, err := d.Uint32(one + uint64(i)*4)
				require.NoError(t, err)
				require.Equal(t, want, v)
			}
			w, err := d.Word(one + 8)
			require.NoError(t, err)
			require.Equal(t, uint64(9), w)

			list, ok, err := d.Symbol("list")
			require.NoError(t, err)
			require.True(t, ok)
			p, err := d.Pointer(list)
			require.NoError(t, err)
			require.Equal(t, one, p, "by way of the symbol")
			p, err = d.Pointer(list + word)
			require.NoError(t, err)
			s, err := d.String(p, 10)
			require.NoError(t, err)
			require.Equal(t, "API1", s, "relative")
			p, err = d.Pointer(list + 2*word)
			require.NoError(t, err)
			require.Zero(t, p, "no relocation")
			_, err = d.Pointer(list + 3*word)
			require.ErrorContains(t, err, "another file")

			for _, none := range []string{"text", "theirs", "on", "onee", "", "never"} {
				_, ok, err = d.Symbol(none)
				require.NoError(t, err)
				require.False(t, ok, none)
			}
			require.Equal(t, []string{"API1", "API2,a", "API", "API3"}, found(t, d, "API"), "the last is a symbol's name, the text of it is writable")
		})
	}
}

func found(t *testing.T, d *Data, prefix string) (all []string) {
	t.Helper()
	require.NoError(t, d.Find(prefix, 32, func(b []byte) bool {
		all = append(all, string(b))
		return true
	}))
	return all
}

// TestFindAcrossChunks puts a text at each place about the end of a block that Find
// reads, and at the very end of the segment.
func TestFindAcrossChunks(t *testing.T) {
	t.Parallel()
	const text = "needle-in-the-stack"
	for _, shift := range []int{-40, -33, -32, -31, -20, -19, -2, -1, 0, 1} {
		pad := strings.Repeat("x", findChunk+shift-200)
		l := elftest.Lib{RO: []elftest.Item{{Name: "a", Hidden: true, Parts: []any{pad, strings.Repeat("y", 20), text, "z", text}}}}
		b := l.Bytes()
		// The headers move it: bring the first one to the wanted place exactly.
		move := findChunk + shift - bytes.Index(b, []byte(text))
		l.RO[0].Parts[0] = strings.Repeat("x", len(pad)+move)
		b = l.Bytes()
		require.Equal(t, findChunk+shift, bytes.Index(b, []byte(text)))
		require.Equal(t, []string{text, text}, found(t, dataOf(t, b), "needle"), "at %d", shift)
		n := 0
		require.NoError(t, dataOf(t, b).Find("needle", 32, func([]byte) bool { n++; return false }))
		require.Equal(t, 1, n)
		require.Empty(t, found(t, dataOf(t, bytes.ReplaceAll(b, []byte(text+"\x00"), []byte(text+"!"))), "needle-in-the-stack\x00"))
	}
}

func TestFindIsBounded(t *testing.T) {
	t.Parallel()
	l := elftest.Lib{RO: []elftest.Item{{Name: "a", Hidden: true, Parts: []any{strings.Repeat("n", 300_000)}}}}
	b := l.Bytes()
	d, err := OpenData(fileOf(b), 200_000)
	require.NoError(t, err)
	require.ErrorContains(t, d.Find("n", 8, func([]byte) bool { return true }), "more read-only data")
	require.Negative(t, d.Left())
	for _, limit := range []int{0, findChunk} {
		require.Error(t, dataOf(t, b).Find("n", limit, nil))
	}
	require.ErrorContains(t, dataOf(t, cutIn(b)).Find("n", 8, func([]byte) bool { return true }), "cut off")
}

// cutIn makes the first segment claim more than the file has.
func cutIn(b []byte) []byte {
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint64(b[64+32:], uint64(len(b)+1))
	return b
}

func TestHostileData(t *testing.T) {
	t.Parallel()
	for name, l := range kinds() {
		if !strings.HasPrefix(name, "x86-64") {
			continue
		}
		good := sample(l).Bytes()
		order := binary.LittleEndian
		at := func(tag elf.DynTag) uint64 { return tagValue(good, tag) }
		patched := func(off uint64, v ...uint32) *Data {
			b := bytes.Clone(good)
			for i, x := range v {
				order.PutUint32(b[off+uint64(i)*4:], x)
			}
			return dataOf(t, b)
		}
		if l.SysV {
			// A chain that leads to itself, one that leads out, no bucket.
			hash := at(elf.DT_HASH)
			_, _, err := patched(hash+12, 0, 1, 1, 1, 1).Symbol("never")
			require.ErrorContains(t, err, "no end")
			_, _, err = patched(hash+8, 0xfffffff0).Symbol("never")
			require.ErrorContains(t, err, "in no segment")
			_, ok, err := patched(hash, 0).Symbol("one")
			require.NoError(t, err)
			require.False(t, ok)
			continue
		}
		hash := at(elf.DT_GNU_HASH)
		_, ok, err := patched(hash, 0).Symbol("one")
		require.NoError(t, err)
		require.False(t, ok)
		_, _, err = patched(hash, 1, 2, 0xffffffff).Symbol("one")
		require.ErrorContains(t, err, "in no segment", "a Bloom filter of 32 GiB")
		_, _, err = patched(hash+24, 0xfffffff0).Symbol("one")
		require.ErrorContains(t, err, "in no segment", "a bucket far away")
		first, ok, err := dataOf(t, good).Symbol("one")
		require.NoError(t, err)
		require.True(t, ok)
		// The name of the symbol beyond the table of names.
		_, _, err = patched(at(elf.DT_SYMTAB)+2*24, 0xffffff).Symbol("one")
		require.ErrorContains(t, err, "beyond the string table")
		// A local symbol, a hidden one, one of a thread are none.
		for _, v := range []struct {
			off uint64
			b   byte
		}{{4, byte(elf.STB_LOCAL)<<4 | byte(elf.STT_OBJECT)}, {4, byte(elf.STB_GLOBAL)<<4 | byte(elf.STT_TLS)}, {5, byte(elf.STV_HIDDEN)}} {
			b := bytes.Clone(good)
			b[at(elf.DT_SYMTAB)+2*24+v.off] = v.b
			_, ok, err := dataOf(t, b).Symbol("one")
			require.NoError(t, err)
			require.False(t, ok)
		}
		size := func(v uint64) *Data {
			b := bytes.Clone(good)
			order.PutUint64(b[tagSlot(b, elf.DT_RELASZ):], v)
			return dataOf(t, b)
		}
		_, err = size(maxRelocBytes + 1).Pointer(first)
		require.ErrorContains(t, err, "relocations of")
		_, err = size(1 << 20).Pointer(first)
		require.ErrorContains(t, err, "cut off by its segment")
		// A relocation of another kind, a symbol far away.
		table := at(elf.DT_RELA) //nolint:misspell // a word of ELF
		list, _, err := dataOf(t, good).Symbol("list")
		require.NoError(t, err)
		_, err = patched(table+8, 5).Pointer(list)
		require.ErrorContains(t, err, "relocation 5")
		_, err = patched(table+12, 0xffffff).Pointer(list)
		require.ErrorContains(t, err, "in no segment")
	}
	_, err := OpenData(fileOf([]byte("#!/bin/sh")), 1)
	require.ErrorIs(t, err, ErrNotELF)
	_, err = OpenData(fileOf(made{typ: elf.ET_REL, static: true}.bytes()), 1)
	require.ErrorContains(t, err, "neither a program nor a shared library")
	d := dataOf(t, made{typ: elf.ET_EXEC, static: true}.bytes())
	_, ok, err := d.Symbol("one")
	require.NoError(t, err)
	require.False(t, ok, "without a dynamic segment")
}

// TestDataCutAnywhere cuts a file at every byte, and turns every byte around.
func TestDataCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, l := range kinds() {
		b := sample(l).Bytes()
		for i := range b {
			useData(b[:i])
			c := bytes.Clone(b)
			c[i] ^= 0xff
			useData(c)
		}
	}
}

// FuzzData: whatever the bytes, nothing panics.
func FuzzData(f *testing.F) {
	for _, l := range kinds() {
		f.Add(sample(l).Bytes())
	}
	f.Fuzz(func(_ *testing.T, b []byte) { useData(b) })
}

func useData(b []byte) {
	d, err := OpenData(fileOf(b), 1<<20)
	if err != nil {
		return
	}
	_ = d.Find("API", 32, func([]byte) bool { return true })
	at, ok, err := d.Symbol("list")
	if err != nil || !ok {
		return
	}
	if p, err := d.Pointer(at); err == nil {
		_, _ = d.String(p, 32)
	}
	_, _ = d.Pointer(at + 8)
}

// TestDataOfRealToolchain reads what compiler and linker made.
func TestDataOfRealToolchain(t *testing.T) {
	t.Parallel()
	lab.Need(t, "gcc")
	var build strings.Builder
	build.WriteString("set -e\n")
	styles := map[string]string{"gnu": "-Wl,--hash-style=gnu", "sysv": "-Wl,--hash-style=sysv", "both": "-Wl,--hash-style=both", "relr": "-Wl,-z,pack-relative-relocs", "flat": "-Wl,-z,noseparate-code"}
	for name, flag := range styles {
		if name == "relr" { // not every linker knows it
			build.WriteString("gcc -shared -fPIC " + flag + " a.c -o relr.so || cp gnu.so relr.so\n")
			continue
		}
		text := "gcc -shared -fPIC " + flag + " a.c -o " + name + ".so\n"
		if name == "gnu" {
			text = strings.Replace(build.String(), "set -e\n", "set -e\n"+text, 1)
			build.Reset()
		}
		build.WriteString(text)
	}
	dir := buildTree(t, map[string]string{
		"a.c": `struct m { int v; const char *s; struct m *next; };
const char *const text = "API in the library";
struct m a = { 1, "API one", 0 };
static struct m b = { 2, "API two", &a };
struct m *list[] = { &a, &b, 0 };
int other(void) { return a.v + b.v; }
`,
		"build.sh": build.String(),
	})
	for name := range styles {
		b, err := os.ReadFile(filepath.Join(dir, name+".so"))
		require.NoError(t, err)
		d := dataOf(t, b)
		list, ok, err := d.Symbol("list")
		require.NoError(t, err, name)
		require.True(t, ok, name)
		word := uint64(d.wordSize())
		for i, want := range []string{"API one", "API two"} {
			m, err := d.Pointer(list + uint64(i)*word)
			require.NoError(t, err)
			v, err := d.Uint32(m)
			require.NoError(t, err)
			require.Equal(t, uint32(i+1), v)
			p, err := d.Pointer(m + word)
			require.NoError(t, err)
			s, err := d.String(p, 100)
			require.NoError(t, err)
			require.Equal(t, want, s, name)
		}
		end, err := d.Pointer(list + 2*word)
		require.NoError(t, err)
		require.Zero(t, end)
		_, ok, err = d.Symbol("b")
		require.NoError(t, err)
		require.False(t, ok, "static")
		_, ok, err = d.Symbol("other")
		require.NoError(t, err)
		require.True(t, ok)
		require.ElementsMatch(t, []string{"API in the library", "API one", "API two"}, found(t, d, "API "))
	}
}
