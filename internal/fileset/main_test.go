package fileset

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/recipes"
)

func TestMain(m *testing.M) { lab.Main(m) }

// deb is a small package. Paths end in "/" for directories; the text of a link
// begins with "-> ", that of a hard link with "=> ".
type deb struct {
	name, version string
	conf          []string
	files         map[string]string
	modes         map[string]int64
}

// program is a static ELF program that does nothing; text tells two of them
// apart.
func program(text string) string {
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(0x400078), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0), // ELF header, elf(5)
		uint32(1), uint32(5), uint64(0), uint64(0x400000), uint64(0x400000), uint64(120), uint64(120), uint64(0x1000), // PT_LOAD
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	return b.String() + text
}

func (d deb) bytes(t testing.TB) []byte {
	t.Helper()
	pack := func(add func(*tar.Writer)) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		add(w)
		require.NoError(t, w.Close())
		require.NoError(t, z.Close())
		return b.Bytes()
	}
	put := func(w *tar.Writer, h tar.Header, text string) {
		h.Format, h.Size, h.ModTime = tar.FormatGNU, int64(len(text)), time.Unix(1_600_000_000, 0)
		require.NoError(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(text))
		require.NoError(t, err)
	}
	control := pack(func(w *tar.Writer) {
		put(w, tar.Header{Name: "./control", Typeflag: tar.TypeReg, Mode: 0o644},
			fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\n", d.name, d.version))
		if len(d.conf) > 0 {
			put(w, tar.Header{Name: "./conffiles", Typeflag: tar.TypeReg, Mode: 0o644}, strings.Join(d.conf, "\n")+"\n")
		}
	})
	all := maps.Clone(d.files)
	for p := range d.files {
		for up := filepath.Dir(strings.TrimSuffix(p, "/")); up != "/"; up = filepath.Dir(up) {
			all[up+"/"] = ""
		}
	}
	data := pack(func(w *tar.Writer) {
		names := slices.Sorted(maps.Keys(all))
		slices.SortStableFunc(names, func(a, b string) int { // hard links behind their targets
			hard := func(p string) int {
				if strings.HasPrefix(all[p], "=> ") {
					return 1
				}
				return 0
			}
			return hard(a) - hard(b)
		})
		for _, p := range names {
			text := all[p]
			h := tar.Header{Name: "." + p, Typeflag: tar.TypeReg, Mode: 0o644}
			switch {
			case strings.HasSuffix(p, "/"):
				h.Typeflag, h.Mode = tar.TypeDir, 0o755
			case strings.HasPrefix(text, "-> "):
				h.Typeflag, h.Linkname, h.Mode, text = tar.TypeSymlink, text[3:], 0o777, ""
			case strings.HasPrefix(text, "=> "):
				h.Typeflag, h.Linkname, text = tar.TypeLink, "."+text[3:], ""
			case strings.HasPrefix(text, "\x7fELF"):
				h.Mode = 0o755
			}
			if m, ok := d.modes[p]; ok {
				h.Mode = m
			}
			put(w, h, text)
		}
	})
	return byhand.Deb(".gz", control, data)
}

// server is a package with a program, configuration and data.
func server(version string, files map[string]string, conf ...string) deb {
	all := map[string]string{"/usr/sbin/srv": program(version)}
	maps.Copy(all, files)
	return deb{name: "srv", version: version, files: all, conf: conf}
}

func recipe() *recipes.Recipe {
	return &recipes.Recipe{Name: "srv", Packages: []string{"srv"}, Owns: []string{"srv", "srv-*"}, Executables: []string{"/usr/sbin/srv"},
		Exclude: []string{"/usr/share/doc/**"}, State: []string{"/var/lib/srv/**"}}
}

// house is one jail and all that is done to it.
type house struct {
	t    testing.TB
	base string
	jail string
	runs int
	m    *manifest.Manifest
	sel  *Selection
	set  *changeset.Set
	kept []KeptFor
	in   Input // what a test asks for besides
	// asides are the texts that steps copy into the run's folder, by stage name
	asides map[string]string
}

func newHouse(t testing.TB) *house {
	h := &house{t: t, base: lab.ShmDir(t)}
	h.jail = filepath.Join(h.base, "jail")
	require.NoError(t, os.Mkdir(h.jail, 0o755))
	return h
}

// bring selects, computes and installs, as an upgrade does.
func (h *house) bring(debs ...deb) {
	h.t.Helper()
	require.NoError(h.t, h.try(debs...))
}

func (h *house) try(debs ...deb) error {
	h.t.Helper()
	var files [][]byte
	for _, d := range debs {
		files = append(files, d.bytes(h.t))
	}
	return h.install(files)
}

// install takes packages, as they are in their files.
func (h *house) install(debs [][]byte) error {
	h.t.Helper()
	h.runs++
	root, err := jail.Open(h.jail)
	require.NoError(h.t, err)
	defer root.Close()
	stage, err := MakeStage(filepath.Join(h.base, fmt.Sprint("stage", h.runs)))
	require.NoError(h.t, err)
	defer stage.Close()
	layout := NewLayout(root)
	in := h.in
	if in.Recipe == nil {
		in.Recipe = recipe()
	}
	world := NewWorld(stage, func(c string) bool { return len(layout.Existing(c)) > 0 })
	for _, b := range debs {
		open, err := pkgs.OpenDeb(bytes.NewReader(b), int64(len(b)), pkgs.Limits{})
		require.NoError(h.t, err)
		if err := world.Unpack(open, in.Recipe); err != nil {
			return err
		}
	}
	if err := world.Finish(in.Recipe); err != nil {
		return err
	}
	in.Root, in.World, in.Stage, in.Old = root, world, stage, h.m
	if h.sel, err = Select(h.t.Context(), in); err != nil {
		return err
	}
	view := func(set *changeset.Set) elfdeps.FS { return future{changeset.NewView(root, stage.Dir(), set)} }
	h.set, h.kept, err = h.sel.KeepNeeded(h.t.Context(), root, view, func(_ context.Context, set *changeset.Set) ([]string, error) {
		return programsOf(view(set), "/"), nil
	})
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, op := range h.set.Ops {
		keep[op.Stage] = keep[op.Stage] || !op.Hold && (op.Kind == changeset.Replace || op.Kind == changeset.Add)
	}
	h.asides = map[string]string{}
	for _, f := range h.sel.Aside {
		text, err := os.ReadFile(filepath.Join(stage.Dir().Name(), f.Stage))
		require.NoError(h.t, err)
		h.asides[f.Stage] = string(text)
	}
	require.NoError(h.t, stage.Keep(keep))
	w, err := changeset.NewWorker(root, stage.Dir(), h.set)
	require.NoError(h.t, err)
	defer w.Close()
	before := lab.TreeDigest(h.t, h.jail)
	if err := w.Install(h.t.Context()); err != nil {
		return err
	}
	kept, err := w.Undo() // and back, and there again: whatever was selected can be undone
	require.NoError(h.t, err)
	require.Empty(h.t, kept)
	require.Empty(h.t, lab.DiffTrees(before, lab.TreeDigest(h.t, h.jail)))
	require.NoError(h.t, w.Install(h.t.Context()))
	h.m = h.sel.Manifest
	return nil
}

// future shows a view to elfdeps.
type future struct{ *changeset.View }

type sized struct {
	*os.File
	size int64
}

func (f sized) Size() int64 { return f.size }

func (v future) Open(p string) (elfdeps.File, error) {
	f, err := v.View.Open(p)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	return sized{f, st.Size()}, err
}

// programsOf lists all that looks like a program or a library.
func programsOf(v elfdeps.FS, dir string) []string {
	var out []string
	names, _ := v.ReadDir(dir)
	for _, name := range names {
		p := filepath.Join(dir, name)
		mode, err := v.Lstat(p)
		switch {
		case err != nil:
		case mode&unix.S_IFMT == unix.S_IFDIR:
			out = append(out, programsOf(v, p)...)
		case mode&unix.S_IFMT == unix.S_IFREG && (mode&0o111 != 0 || strings.Contains(name, ".so")):
			out = append(out, p)
		}
	}
	return out
}

// whole begins a jail that jailup builds.
func (h *house) whole(debs ...deb) {
	h.t.Helper()
	h.in.Whole = true
	h.bring(debs...)
	h.in.Whole = false
}

func (h *house) path(p string) string { return filepath.Join(h.jail, p) }

func (h *house) write(p, text string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(h.path(p)), 0o755))
	require.NoError(h.t, os.WriteFile(h.path(p), []byte(text), 0o644))
}

func (h *house) link(p, to string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(h.path(p)), 0o755))
	require.NoError(h.t, os.Symlink(to, h.path(p)))
}

// has is what is at a path: text, "-> target", "dir", or "none".
func (h *house) has(p string) string {
	h.t.Helper()
	st, err := os.Lstat(h.path(p))
	switch {
	case os.IsNotExist(err):
		return "none"
	case err != nil:
		return err.Error()
	case st.IsDir():
		return "dir"
	case st.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(h.path(p))
		require.NoError(h.t, err)
		return "-> " + to
	}
	data, err := os.ReadFile(h.path(p))
	require.NoError(h.t, err)
	return string(data)
}

func (h *house) mode(p string) uint32 {
	h.t.Helper()
	var st unix.Stat_t
	require.NoError(h.t, unix.Lstat(h.path(p), &st))
	return st.Mode & 0o7777
}
