package abi

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/elfdeps/elftest"
	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// memFile is a file in memory, of a size that may be a lie.
type memFile struct {
	*bytes.Reader
	size int64
}

func (f memFile) Size() int64  { return f.size }
func (f memFile) Close() error { return nil }

// ReadAt gives zeros behind the content, as a sparse file does.
func (f memFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.Reader.ReadAt(p, off)
	if off+int64(len(p)) <= f.size {
		clear(p[n:])
		return len(p), nil
	}
	return n, err
}

func fileOf(b []byte) elfdeps.File { return memFile{bytes.NewReader(b), int64(len(b))} }

// memTree is a tree in memory.
type memTree map[string][]byte

var errClosed = errors.New("permission denied")

func (m memTree) Open(path string) (elfdeps.File, error) {
	b, ok := m[path]
	switch {
	case !ok:
		return nil, fs.ErrNotExist
	case b == nil:
		return nil, errClosed
	}
	return fileOf(b), nil
}

// host is the machine's own tree.
type host struct{}

type hostFile struct {
	*os.File
	size int64
}

func (f hostFile) Size() int64 { return f.size }

func (host) Open(path string) (elfdeps.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	return hostFile{f, fi.Size()}, nil
}

// mods names modules by their paths alone.
func mods(paths ...string) (list []Module) {
	for i, p := range paths {
		list = append(list, Module{Path: p, File: "/etc/conf", Line: i + 1})
	}
	return list
}

// told puts misfits in one text: path, reason.
func told(list []Misfit) string {
	var out []string
	for _, m := range list {
		out = append(out, m.Path+" "+m.Reason)
	}
	return strings.Join(out, "\n")
}

const (
	sig      = "8,4,8,0011111111010111001111111111111111"
	otherSig = "8,4,8,0011111111010111011111111111111111"
	shortSig = "4,4,4,0011111111010111001111111111111111"
)

// nginxMade is a dynamic module with one ngx_module_t for each signature.
func nginxMade(l elftest.Lib, version uint64, sigs ...string) elftest.Lib {
	list := elftest.Item{Name: "ngx_modules"}
	for i, s := range sigs {
		text, name := fmt.Sprint("sig", i), fmt.Sprintf("ngx_http_%d_module", i)
		l.RO = append(l.RO, elftest.Item{Name: text, Hidden: true, Parts: []any{s}})
		l.RW = append(l.RW, ngxModule(name, text, version))
		list.Parts = append(list.Parts, elftest.SymRef(name))
	}
	list.Parts = append(list.Parts, elftest.Word(0))
	l.RW = append(l.RW, list)
	return l
}

// nginxServer is what exports ngx_core_module.
func nginxServer(l elftest.Lib, version uint64, s string) elftest.Lib {
	l.RO = append(l.RO, elftest.Item{Name: "sig", Hidden: true, Parts: []any{s}})
	l.RW = append(l.RW, ngxModule("ngx_core_module", "sig", version))
	return l
}

func ngxModule(name, text string, version uint64) elftest.Item {
	unset := elftest.Word(^uint64(0))
	return elftest.Item{Name: name, Parts: []any{unset, unset, elftest.Word(0), elftest.Word(0), elftest.Word(0), elftest.Word(version), elftest.Ref(text), elftest.Word(0)}}
}

// apacheMade is a module_struct by that symbol; the server's is core_module.
func apacheMade(l elftest.Lib, symbol string, major, minor uint32, cookie uint64) elftest.Lib {
	l.RO = append(l.RO, elftest.Item{Name: "name", Hidden: true, Parts: []any{"mod_x.c"}})
	l.RW = append(l.RW, elftest.Item{Name: symbol, Parts: []any{major, minor, ^uint32(0), elftest.Ref("name"), elftest.Word(0), elftest.Word(0), elftest.Word(cookie)}})
	return l
}

// phpMade holds texts and the symbols of an extension.
func phpMade(l elftest.Lib, symbol string, texts ...string) elftest.Lib {
	parts := []any{"API", "APIs of PHP", "xAPI2022,NTS", "API0000000a,NTS"}
	for _, s := range texts {
		parts = append(parts, s)
	}
	l.RO = append(l.RO, elftest.Item{Name: "strings", Hidden: true, Parts: parts})
	l.RW = append(l.RW, elftest.Item{Name: symbol, Parts: []any{"API99999999,NTS"}})
	return l
}

func aarch64() elftest.Lib { return elftest.Lib{Machine: elf.EM_AARCH64} }
func i386() elftest.Lib    { return elftest.Lib{Class: elf.ELFCLASS32, Machine: elf.EM_386} }
func armhf() elftest.Lib   { return elftest.Lib{Class: elf.ELFCLASS32, Machine: elf.EM_ARM, SysV: true} }
func s390x() elftest.Lib   { return elftest.Lib{Machine: elf.EM_S390, Data: elf.ELFDATA2MSB} }

func machines() map[string]elftest.Lib {
	return map[string]elftest.Lib{"x86-64": {}, "aarch64": aarch64(), "i386": i386(), "armhf": armhf(), "s390x": s390x()}
}

func TestNginxOfEachMachine(t *testing.T) {
	t.Parallel()
	for name, l := range machines() {
		for what, b := range map[string][]byte{
			"module": nginxMade(l, 1022001, sig, sig).Bytes(),
			"server": nginxServer(nginxMade(l, 9999999, otherSig), 1022001, sig).Bytes(),
		} {
			got, err := Nginx(fileOf(b))
			require.NoError(t, err, "%s %s", name, what)
			require.Equal(t, sig, got)
			v, err := NginxVersion(fileOf(b))
			require.NoError(t, err)
			require.Equal(t, 1022001, v)
		}
	}
}

func TestCheckNginx(t *testing.T) {
	t.Parallel()
	tree := memTree{
		"/nginx":     nginxServer(elftest.Lib{}, 1022001, sig).Bytes(),
		"/silent":    elftest.Lib{RO: []elftest.Item{{Name: "x", Hidden: true, Parts: []any{"8,4,8,no", "x" + sig, "8,4,8,01"}}}}.Bytes(),
		"/torn":      elftest.Lib{RO: []elftest.Item{{Name: "x", Hidden: true, Parts: []any{sig, sig, otherSig}}}}.Bytes(),
		"/writable":  elftest.Lib{RW: []elftest.Item{{Name: "x", Parts: []any{sig}}}}.Bytes(),
		"/good":      nginxMade(elftest.Lib{}, 1022001, sig).Bytes(),
		"/old":       nginxMade(elftest.Lib{}, 1018000, sig).Bytes(),
		"/odd":       nginxMade(elftest.Lib{}, 7, sig).Bytes(),
		"/other":     nginxMade(elftest.Lib{}, 1022001, otherSig).Bytes(),
		"/both":      nginxMade(elftest.Lib{}, 1022001, sig, otherSig).Bytes(),
		"/empty":     nginxMade(elftest.Lib{}, 1022001).Bytes(),
		"/nosig":     nginxMade(elftest.Lib{}, 1022001, "no signature\x1b[31m").Bytes(),
		"/long":      nginxMade(elftest.Lib{}, 1022001, strings.Repeat("8,4,8,", 100)).Bytes(),
		"/many":      nginxMade(elftest.Lib{}, 1022001, strings.Split(strings.Repeat(sig+" ", 129)[:129*(len(sig)+1)-1], " ")...).Bytes(),
		"/arm":       nginxMade(aarch64(), 1022001, sig).Bytes(),
		"/i386":      nginxMade(i386(), 1022001, shortSig).Bytes(),
		"/script":    []byte("#!/bin/sh"),
		"/cut":       nginxMade(elftest.Lib{}, 1022001, sig).Bytes()[:100],
		"/forbidden": nil,
	}
	got, err := CheckNginx(tree, "/nginx", mods("/good", "/old", "/other", "/gone"))
	require.NoError(t, err)
	require.Equal(t, []Misfit{
		{Module: Module{Path: "/old", File: "/etc/conf", Line: 2}, Has: "1.18.0 " + sig, Needs: "1.22.1 " + sig, Reason: "is built for nginx 1.18.0 instead of 1.22.1"},
		{Module: Module{Path: "/other", File: "/etc/conf", Line: 3}, Has: "1.22.1 " + otherSig, Needs: "1.22.1 " + sig, Reason: "is not binary compatible: its signature is " + otherSig + " instead of " + sig},
		{Module: Module{Path: "/gone", File: "/etc/conf", Line: 4}, Needs: "1.22.1 " + sig, Reason: "is not there"},
	}, got)
	got, err = CheckNginx(tree, "/nginx", mods("/both", "/odd", "/empty", "/nosig", "/long", "/many", "/arm", "/i386", "/script", "/cut", "/forbidden", "/nginx"))
	require.NoError(t, err)
	require.Equal(t, `/both is not binary compatible: its signature is `+otherSig+` instead of `+sig+`
/odd is built for nginx 7 instead of 1.22.1
/empty names no module in ngx_modules
/nosig cannot be read: the text in the place of its signature is none
/long cannot be read: a name is longer than 128 bytes
/many cannot be read: ngx_modules names more than 128 modules
/arm is for another machine (aarch64, 64 bits) than the program (x86_64, 64 bits)
/i386 is for another machine (386, 32 bits) than the program (x86_64, 64 bits)
/script is not an ELF file
/cut cannot be read: cut off: 168 bytes are wanted at 64 and the file has 100
/forbidden cannot be opened: permission denied
/nginx has no symbol ngx_modules: it is no nginx module`, told(got))

	// A program that exports nothing is searched; then only signatures are compared.
	got, err = CheckNginx(tree, "/silent", mods("/good", "/old", "/other"))
	require.NoError(t, err)
	require.Equal(t, "/other is not binary compatible: its signature is "+otherSig+" instead of "+sig, told(got))
	require.Equal(t, sig, got[0].Needs)
	for exe, want := range map[string]string{
		"/torn": "holds more than one module signature of nginx: " + sig + " and " + otherSig, "/writable": "holds no module signature of nginx",
		"/gone": "is not there", "/script": "not an ELF file", "/forbidden": "permission denied", "/cut": "cut off",
	} {
		_, err = CheckNginx(tree, exe, mods("/good"))
		require.ErrorContains(t, err, "cannot read what modules "+exe+" takes: ")
		require.ErrorContains(t, err, want)
	}
	_, err = Nginx(fileOf(tree["/both"]))
	require.ErrorContains(t, err, "cannot read the module signature of nginx: its modules are built for several: 1.22.1 "+otherSig+" and 1.22.1 "+sig)
	_, err = Nginx(fileOf(tree["/script"]))
	require.ErrorIs(t, err, elfdeps.ErrNotELF)
	_, err = CheckNginx(tree, "/gone", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = CheckNginx(tree, "/nginx", make([]Module, maxModules+1))
	require.ErrorContains(t, err, "the configuration loads 4097")
	got, err = CheckNginx(tree, "/nginx", nil)
	require.NoError(t, err)
	require.Empty(t, got)
}

const mmn, cookie = 20120211, 0x41503234

func TestApacheOfEachMachine(t *testing.T) {
	t.Parallel()
	for name, l := range machines() {
		got, err := ApacheServer(fileOf(apacheMade(l, "core_module", mmn, 131, cookie).Bytes()))
		require.NoError(t, err, name)
		require.Equal(t, MMN{mmn, 131}, got)
		got, err = ApacheModule(fileOf(apacheMade(l, "x_module", mmn, 7, cookie).Bytes()), "x_module")
		require.NoError(t, err, name)
		require.Equal(t, MMN{mmn, 7}, got)
	}
}

func TestCheckApache(t *testing.T) {
	t.Parallel()
	tree := memTree{
		"/apache2": apacheMade(elftest.Lib{}, "core_module", mmn, 131, cookie).Bytes(),
		"/same":    apacheMade(elftest.Lib{}, "x_module", mmn, 131, cookie).Bytes(),
		"/older":   apacheMade(elftest.Lib{}, "x_module", mmn, 1, cookie).Bytes(),
		"/newer":   apacheMade(elftest.Lib{}, "x_module", mmn, 140, cookie).Bytes(),
		"/22":      apacheMade(elftest.Lib{}, "x_module", 20051115, 1, 0x41503232).Bytes(),
		"/major":   apacheMade(elftest.Lib{}, "x_module", 20200101, 1, cookie).Bytes(),
		"/short":   elftest.Lib{RW: []elftest.Item{{Name: "x_module", Parts: []any{uint32(mmn)}}}}.Bytes(),
		"/arm":     apacheMade(armhf(), "x_module", mmn, 1, cookie).Bytes(),
	}
	list := mods("/same", "/older", "/newer", "/major", "/22", "/short", "/arm", "/gone", "/same")
	for i := range list {
		list[i].Name = "x_module"
	}
	list[8].Name = "y_module\x1b[31m"
	got, err := CheckApache(tree, "/apache2", list)
	require.NoError(t, err)
	require.Equal(t, `/newer is built for a newer Apache, minor magic number 140 instead of 131
/major is not compatible with this Apache: its magic number is 20200101 instead of 20120211
/22 is no module of Apache 2.4: its cookie is 0x41503232 instead of 0x41503234
/short cannot be read: address 0x101e8 is in no segment of the file
/arm is for another machine (arm, 32 bits) than the program (x86_64, 64 bits)
/gone is not there
/same has no symbol y_module`, told(got))
	require.Equal(t, Misfit{Module: list[2], Has: "20120211:140", Needs: "20120211:131", Reason: got[0].Reason, Loads: true, Virtual: "apache2-api-20120211"}, got[0])
	for _, m := range got[1:] {
		require.False(t, m.Loads, m.Path)
	}
	_, err = CheckApache(tree, "/same", nil)
	require.EqualError(t, err, "cannot read what modules /same takes: has no symbol core_module")
	_, err = ApacheModule(fileOf(tree["/same"]), "y_module")
	require.EqualError(t, err, "cannot read the module magic number of y_module: has no symbol y_module")
	_, err = ApacheServer(fileOf(tree["/same"]))
	require.EqualError(t, err, "cannot read the module magic number of Apache: has no symbol core_module")
}

func TestPHPOfEachMachine(t *testing.T) {
	t.Parallel()
	for name, l := range machines() {
		got, err := PHP(fileOf(phpMade(l, "main", "API20220829,NTS", "API420220829,NTS").Bytes()))
		require.NoError(t, err, name)
		require.Equal(t, "API20220829,NTS", got)
	}
}

func TestCheckPHP(t *testing.T) {
	t.Parallel()
	const id = "API20220829,NTS"
	ext := func(texts ...string) []byte { return phpMade(elftest.Lib{}, "get_module", texts...).Bytes() }
	tree := memTree{
		"/php":     phpMade(elftest.Lib{}, "main", id, "API420220829,NTS").Bytes(),
		"/php-ts":  phpMade(elftest.Lib{}, "main", "API20220829,TS").Bytes(),
		"/php-dbg": phpMade(elftest.Lib{}, "main", "API20220829,NTS,debug", "API420220829,NTS,debug").Bytes(),
		"/good":    ext(id),
		"/zend":    phpMade(elftest.Lib{}, "zend_extension_entry", "API420220829,NTS", "x "+id).Bytes(),
		"/ts":      ext("API20220829,TS"),
		"/debug":   ext("API20220829,NTS,debug"),
		"/old":     ext("API20190902,NTS"),
		"/oldzend": phpMade(elftest.Lib{}, "zend_extension_entry", "API320190902,NTS").Bytes(),
		"/two":     ext(id, "API20190902,NTS"),
		"/none":    ext("API2022082,NTS", "API20220829,XTS", "API4202208299,NTS", "API20220829,NTSx", "API20220829,"),
		"/library": phpMade(elftest.Lib{}, "main", id).Bytes(),
		"/arm":     phpMade(aarch64(), "get_module", id).Bytes(),
	}
	got, err := CheckPHP(tree, "/php", mods("/good", "/zend", "/ts", "/debug", "/old", "/oldzend", "/two", "/none", "/library", "/arm", "/gone"))
	require.NoError(t, err)
	require.Equal(t, `/ts is built for PHP API20220829,TS instead of API20220829,NTS
/debug is built for PHP API20220829,NTS,debug instead of API20220829,NTS
/old is built for PHP API20190902,NTS instead of API20220829,NTS
/oldzend is built for PHP API20190902,NTS instead of API20220829,NTS
/two holds more than one build ID of PHP: API20220829,NTS and API20190902,NTS
/none holds no build ID of PHP
/library is no PHP extension: it has neither get_module nor zend_extension_entry
/arm is for another machine (aarch64, 64 bits) than the program (x86_64, 64 bits)
/gone is not there`, told(got))
	require.Equal(t, Misfit{Module: Module{Path: "/old", File: "/etc/conf", Line: 5}, Has: "API20190902,NTS", Needs: id, Reason: got[2].Reason, Virtual: "phpapi-20220829"}, got[2])
	for exe, fits := range map[string]string{"/php-ts": "/ts", "/php-dbg": "/debug"} {
		got, err := CheckPHP(tree, exe, mods(fits, "/good"))
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, "/good", got[0].Path)
	}
	got, err = CheckPHP(tree, "/php-ts", mods("/good"))
	require.NoError(t, err)
	require.Empty(t, got[0].Virtual, "Debian has no such PHP")
	_, err = CheckPHP(tree, "/none", nil)
	require.EqualError(t, err, "cannot read what modules /none takes: holds no build ID of PHP")
	_, err = PHP(fileOf(tree["/two"]))
	require.EqualError(t, err, "cannot read the build ID of PHP: holds more than one build ID of PHP: API20220829,NTS and API20190902,NTS")
}
