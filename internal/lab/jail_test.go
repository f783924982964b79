package lab

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPairHasTwoVersionsWithAnotherBinary(t *testing.T) {
	p := NginxPair(t)
	require.True(t, versionIs(p.OldVersion, "lt", p.NewVersion), "%s < %s", p.OldVersion, p.NewVersion)
	var binary [2][]byte
	for i, dir := range []string{p.Old, p.New} {
		tree := Unpacked(t, dir)
		b, err := os.ReadFile(filepath.Join(tree, serverPath))
		require.NoError(t, err)
		binary[i] = b
	}
	require.NotEqual(t, binary[0], binary[1])
}

func TestPairIsRepackedWhereTheIndexHasOneVersion(t *testing.T) {
	Need(t, "apt")
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	p, err := a.pair(t.TempDir(), true)
	require.NoError(t, err)
	require.True(t, p.Repacked)
	require.True(t, versionIs(p.OldVersion, "lt", p.NewVersion), "%s < %s", p.OldVersion, p.NewVersion)
	j := HandMadeJail(t, p.New, InMemory())
	old := HandMadeJail(t, p.Old, InMemory())
	said, err := j.run(serverPath, "-v")
	require.NoError(t, err)
	saidOld, err := old.run(serverPath, "-v")
	require.NoError(t, err)
	require.NotEqual(t, saidOld, said)
}

func TestHandMadeJailServes(t *testing.T) {
	t.Parallel()
	p := NginxPair(t)
	for name, opts := range map[string][]JailOption{"split": nil, "merged": {Merged(), InMemory()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := HandMadeJail(t, p.Old, opts...)
			j.Start(t)
			status, body := j.Get(t, "/")
			require.Equal(t, 200, status)
			require.Equal(t, Page, body)
			require.Positive(t, j.MasterPID())
			require.GreaterOrEqual(t, len(j.Processes()), 2)
			fi, err := os.Lstat(filepath.Join(j.Dir, "lib64"))
			require.NoError(t, err)
			require.Equal(t, name == "split", fi.IsDir())
			j.Stop(t)
			require.Empty(t, j.Processes())
			j.Start(t)
			j.Stop(t)
			_, _, err = j.TryGet("/")
			require.Error(t, err)
		})
	}
}
