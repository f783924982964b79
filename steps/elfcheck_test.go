package steps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/recipes"
)

// All of a small jail is looked at; of one with very many entries what packages
// own, what comes, and the usual directories, and that is told.
func TestProgramsOfALargeJail(t *testing.T) {
	t.Parallel()
	dir, stage := t.TempDir(), t.TempDir()
	write := func(base, p, text string, mode os.FileMode) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(base, p)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(base, p), []byte(text), mode))
	}
	const elf = "\x7fELF and no more"
	for p, mode := range map[string]os.FileMode{
		"usr/sbin/srv": 0o755, "usr/lib/libx.so.1": 0o644, "usr/lib/glibc-hwcaps/x86-64-v3/libx.so.1": 0o644, "opt/owned/mod.so": 0o644,
		"opt/else/tool": 0o755, "usr/share/plain": 0o644, "var/lib/srv/tool": 0o755,
	} {
		write(dir, p, elf, mode)
	}
	self, err := os.ReadFile("/proc/self/exe") // a real program, by which the directories are known
	require.NoError(t, err)
	write(dir, "usr/sbin/srv", string(self), 0o755)
	write(dir, "usr/bin/script", "#!/bin/sh\n", 0o755)
	require.NoError(t, os.Symlink("usr/lib", filepath.Join(dir, "lib")))
	for i := range 60 {
		write(dir, fmt.Sprintf("srv/www/%d.html", i), "page", 0o644)
	}
	write(stage, "new", elf, 0o755)

	root, err := jail.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	stageDir, err := os.Open(stage)
	require.NoError(t, err)
	defer stageDir.Close()
	var told []event.Event
	e := &Env{
		Root: root, Recipe: &recipes.Recipe{Executables: []string{"/usr/sbin/srv"}, State: []string{"/var/lib/srv/**"}},
		Events: event.New("run", nil, sinkFunc(func(ev event.Event) { told = append(told, ev) })),
		old:    &manifest.Manifest{Files: []manifest.File{{Path: "/opt/owned/mod.so"}, {Path: "/opt/owned/gone.so"}}},
		set: &changeset.Set{Ops: []changeset.Op{{Kind: changeset.Add, Path: "/opt/fresh", Stage: "new",
			New: &changeset.State{Mode: unix.S_IFREG | 0o755}}}},
	}
	view := viewFS{changeset.NewView(root, stageDir, e.set)}
	all := []string{"/opt/else/tool", "/opt/fresh", "/opt/owned/mod.so", "/usr/lib/glibc-hwcaps/x86-64-v3/libx.so.1", "/usr/lib/libx.so.1", "/usr/sbin/srv"}
	got, err := e.programs(t.Context(), view, 1000)
	require.NoError(t, err)
	require.ElementsMatch(t, all, got)
	require.Empty(t, told)

	got, err = e.programs(t.Context(), view, 50)
	require.NoError(t, err)
	require.Equal(t, all[1:], got, "all but the tool that is nobody's")
	require.Len(t, told, 1)
	require.Equal(t, event.Warning, told[0].Level)
	require.Contains(t, told[0].Message, "more than 50 entries")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = e.programs(ctx, view, 50)
	require.ErrorIs(t, err, context.Canceled)
}

// sinkFunc is a sink of events.
type sinkFunc func(event.Event)

func (f sinkFunc) Emit(ev event.Event) { f(ev) }
