package abi

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/elfdeps/elftest"
)

// corpus is a sound file of each kind and machine.
func corpus() (all [][]byte) {
	for _, l := range machines() {
		all = append(all,
			nginxMade(l, 1022001, sig, sig).Bytes(), nginxServer(l, 1022001, sig).Bytes(),
			apacheMade(l, "core_module", mmn, 131, cookie).Bytes(),
			phpMade(l, "get_module", "API20220829,NTS", "API420220829,NTS").Bytes())
	}
	return append(all, elftest.Lib{RO: []elftest.Item{{Name: "x", Hidden: true, Parts: []any{sig}}}}.Bytes())
}

// useAll reads a file in every way, without the wall that catches a panic.
func useAll(b []byte) {
	for _, fn := range []func(d *elfdeps.Data) error{
		func(d *elfdeps.Data) error { _, err := nginxModules(d); return err },
		func(d *elfdeps.Data) error { _, err := nginxProgram(d); return err },
		func(d *elfdeps.Data) error { _, err := apacheServer(d); return err },
		func(d *elfdeps.Data) error { _, err := buildID(d); return err },
		extension,
	} {
		if d, err := elfdeps.OpenData(fileOf(b), 1<<20); err == nil {
			_ = fn(d)
		}
	}
}

// FuzzABI: whatever the bytes, no reader panics, and what is told of them is clean.
func FuzzABI(f *testing.F) {
	for _, b := range corpus() {
		f.Add(b)
	}
	f.Add([]byte("\x7fELF"))
	server := memTree{
		"/nginx": nginxServer(elftest.Lib{}, 1022001, sig).Bytes(), "/apache2": apacheMade(elftest.Lib{}, "core_module", mmn, 131, cookie).Bytes(),
		"/php": phpMade(elftest.Lib{}, "main", "API20220829,NTS").Bytes(),
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		useAll(b)
		tree := memTree{"/nginx": server["/nginx"], "/apache2": server["/apache2"], "/php": server["/php"], "/m": append([]byte{}, b...)}
		for exe, check := range map[string]func(Source, string, []Module) ([]Misfit, error){"/nginx": CheckNginx, "/apache2": CheckApache, "/php": CheckPHP} {
			list, err := check(tree, exe, []Module{{Name: "core_module", Path: "/m"}})
			if err != nil || len(list) > 1 {
				t.Fatalf("%s: %d misfits, %v", exe, len(list), err)
			}
			for _, m := range list {
				for _, c := range []byte(m.Reason + m.Has + m.Needs) {
					if c < ' ' || c > '~' {
						t.Fatalf("%q %q", m.Reason, m.Has)
					}
				}
			}
		}
	})
}

// TestCutAnywhere cuts each file at every byte, and turns every byte around.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	for _, b := range corpus() {
		for i := range b {
			useAll(b[:i])
			c := bytes.Clone(b)
			c[i] ^= 0xff
			useAll(c)
		}
	}
}

// TestHostileSizes: files that claim to be huge cost little memory, and the work
// ends; the verdict is a misfit, then, where there are many, an error.
func TestHostileSizes(t *testing.T) {
	php := phpMade(elftest.Lib{}, "get_module", "API20220829,NTS").Bytes()
	// The number that phpMade adds to mislead is no part of this test.
	php = bytes.ReplaceAll(php, []byte("API99999999,"), []byte("other_number"))
	huge := bytes.Clone(php)
	binary.LittleEndian.PutUint64(huge[64+32:], 1<<40) // the size of the first segment
	tree := sparse{memTree{"/php": php}, huge, 1 << 41}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := CheckPHP(tree, "/php", mods("/huge"))
	require.NoError(t, err)
	require.Equal(t, "/huge cannot be read: more read-only data than any honest file has", told(got))
	_, err = CheckPHP(tree, "/php", mods("/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"))
	require.ErrorContains(t, err, "cannot compare modules: they hold more data than any honest ones")
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
}

// sparse gives one and the same huge file by every name that tree has not.
type sparse struct {
	tree memTree
	huge []byte
	size int64
}

func (s sparse) Open(path string) (elfdeps.File, error) {
	if f, err := s.tree.Open(path); err == nil {
		return f, nil
	}
	return memFile{bytes.NewReader(s.huge), s.size}, nil
}

// TestManyFalseTexts: data that is nothing but beginnings of what is looked for.
func TestManyFalseTexts(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"API1\x00", "API20220829,XX\x00", "API", "API9"} {
		b := elftest.Lib{RO: []elftest.Item{{Name: "x", Hidden: true, Parts: []any{string(bytes.Repeat([]byte(text), 8<<20/len(text)))}}}}.Bytes()
		_, err := PHP(fileOf(b))
		require.ErrorContains(t, err, "holds no build ID")
	}
	b := elftest.Lib{RO: []elftest.Item{{Name: "x", Hidden: true, Parts: []any{string(bytes.Repeat([]byte("8,4,8,"), 1<<20))}}}}.Bytes()
	_, err := Nginx(fileOf(b))
	require.ErrorContains(t, err, "holds no module signature")
}

// TestGuard: should a reader panic after all, it is an error.
func TestGuard(t *testing.T) {
	t.Parallel()
	require.EqualError(t, guard(func() error { panic("at the end") }), "damaged beyond what the reader knows")
}
