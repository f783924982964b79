package backup_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/backup"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// benchTree makes 30,000 files of 7 KB on average, in 300 directories.
func benchTree(b *testing.B, dir string) {
	r := rand.New(rand.NewPCG(1, 2))
	bytes := make([]byte, 64<<10)
	for i := range bytes {
		bytes[i] = byte(r.Uint32())
	}
	sizes := []int{300, 1500, 4000, 9000, 20000}
	for d := range 300 {
		p := filepath.Join(dir, fmt.Sprint(d%20), fmt.Sprint(d))
		require.NoError(b, os.MkdirAll(p, 0o755))
		for f := range 100 {
			at := r.IntN(40 << 10)
			require.NoError(b, os.WriteFile(filepath.Join(p, fmt.Sprintf("f%d", f)), bytes[at:at+sizes[f%5]], 0o644))
		}
	}
	time.Sleep(100 * time.Millisecond) // older than what Settle distrusts
}

// BenchmarkSnapshot copies a tree of 30,000 files, with its peers in the same
// run. They copy; jailup also digests, writes a manifest and syncs.
func BenchmarkSnapshot(b *testing.B) {
	dir := lab.ShmDir(b)
	src := filepath.Join(dir, "jail")
	benchTree(b, src)
	root, err := jail.Open(src)
	require.NoError(b, err)
	defer root.Close()
	s, err := backup.NewCopy(filepath.Join(dir, "store"))
	require.NoError(b, err)
	defer s.Close()
	ctx := context.Background()

	b.Run("jailup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, err := s.Begin(ctx, root, "x", backup.CopyOptions{})
			require.NoError(b, err)
			_, err = p.Settle(ctx, root)
			require.NoError(b, err)
			snap, err := p.Seal(ctx, backup.Meta{})
			require.NoError(b, err)
			snap.Close()
			b.StopTimer()
			require.NoError(b, s.Remove(ctx, "x"))
			b.StartTimer()
		}
	})
	b.Run("settle", func(b *testing.B) {
		p, err := s.Begin(ctx, root, "x", backup.CopyOptions{})
		require.NoError(b, err)
		for b.Loop() {
			_, err = p.Settle(ctx, root)
			require.NoError(b, err)
		}
		require.NoError(b, p.Drop(ctx))
	})
	b.Run("verify", func(b *testing.B) {
		p, err := s.Begin(ctx, root, "x", backup.CopyOptions{})
		require.NoError(b, err)
		snap, err := p.Seal(ctx, backup.Meta{})
		require.NoError(b, err)
		for b.Loop() {
			bad, err := snap.Verify(ctx)
			require.NoError(b, err)
			require.Empty(b, bad)
		}
		snap.Close()
		require.NoError(b, s.Remove(ctx, "x"))
	})
	for _, peer := range []struct {
		name string
		argv []string
	}{
		{"cp-a", []string{"cp", "-a", src, filepath.Join(dir, "peer")}},
		{"rsync-aHAX", []string{"rsync", "-aHAX", src + "/", filepath.Join(dir, "peer") + "/"}},
	} {
		b.Run(peer.name, func(b *testing.B) {
			lab.Need(b, peer.argv[0])
			for b.Loop() {
				out, err := exec.Command(peer.argv[0], peer.argv[1:]...).CombinedOutput()
				require.NoError(b, err, string(out))
				b.StopTimer()
				require.NoError(b, os.RemoveAll(filepath.Join(dir, "peer")))
				b.StartTimer()
			}
		})
	}
}
