package source

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/pkgs"
)

func TestMain(m *testing.M) { lab.Main(m) }

// hostIndex is the index of the machine's own sources, in a cache that outlives
// the test run.
func hostIndex(t testing.TB) (Source, *Index, string) {
	t.Helper()
	lab.Need(t, "apt")
	cache := filepath.Join(lab.Cache(t), "source")
	s, err := OpenApt(AptOptions{CacheDir: cache, StateDir: t.TempDir()})
	require.NoError(t, err)
	ix, err := s.Index(context.Background())
	require.NoError(t, err)
	return s, ix, cache
}

// TestHostSourcesServe runs the whole road against the archive of this machine:
// its sources files, its keyrings, its mirror.
func TestHostSourcesServe(t *testing.T) {
	s, ix, _ := hostIndex(t)
	require.Greater(t, ix.Len(), 1000)
	target, err := Resolve(ix, Request{Roots: []Want{{Name: "nginx"}}})
	require.NoError(t, err)
	require.NoError(t, consistent(target, Request{}))
	var small []Package
	for _, p := range target.Packages {
		if p.Size < 200_000 {
			small = append(small, p)
		}
	}
	blobs, err := s.Fetch(context.Background(), small, nil)
	require.NoError(t, err)
	require.Len(t, blobs, len(small))
}

// TestHostIndexIsCheap holds the second reading of a distribution's index to
// the memory that a run may take; the time is for the log, and for a benchmark.
func TestHostIndexIsCheap(t *testing.T) {
	hostIndex(t)
	start := time.Now()
	_, ix, _ := hostIndex(t)
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	held := s[0].Value.Uint64() - s[1].Value.Uint64()
	t.Logf("%d packages in %v, %d MB", ix.Len(), time.Since(start).Round(time.Millisecond), held>>20)
	require.Less(t, held, uint64(256<<20))
}

// TestAsAptChooses compares the resolver with apt's own on the archive of this
// machine: the same index, nothing installed, no recommendations.
func TestAsAptChooses(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	hostIndex(t)
	start := time.Now().Add(-time.Second)
	_, ix, cache := hostIndex(t)
	conf := aptOn(t, t.TempDir(), filepath.Join(cache, "quick"), start)
	for _, name := range []string{"nginx", "apache2", "php-fpm", "libapache2-mod-php"} {
		if len(ix.Versions(name)) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("apt-get", "-s", "-o", "APT::Install-Recommends=false", "install", name)
			cmd.Env = append(os.Environ(), "APT_CONFIG="+conf, "LC_ALL=C")
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			var apt []string
			for line := range strings.Lines(string(out)) {
				var n, v string
				if k, _ := fmt.Sscanf(line, "Inst %s (%s", &n, &v); k == 2 {
					apt = append(apt, n+"="+v)
				}
			}
			slices.Sort(apt)
			target, err := Resolve(ix, Request{Roots: []Want{{Name: name}}})
			require.NoError(t, err)
			require.NoError(t, consistent(target, Request{}))
			ours := strings.Fields(names2(target))
			slices.Sort(ours)
			require.Equal(t, apt, ours)
		})
	}
}

// aptOn gives apt a private root whose only sources are the Packages files that
// we have verified, those that were used since a time.
func aptOn(t *testing.T, dir, quickDir string, since time.Time) (conf string) {
	t.Helper()
	copies, err := filepath.Glob(filepath.Join(quickDir, "*.zst"))
	require.NoError(t, err)
	require.NotEmpty(t, copies)
	var sources strings.Builder
	for i, c := range copies {
		if fi, err := os.Stat(c); err != nil || fi.ModTime().Before(since) {
			continue
		}
		repo := filepath.Join(dir, fmt.Sprint("repo", i))
		require.NoError(t, os.Mkdir(repo, 0o755))
		f, err := os.Open(c)
		require.NoError(t, err)
		z, err := pkgs.Decompress(f, pkgs.Zstd, pkgs.Limits{})
		require.NoError(t, err)
		out, err := os.Create(filepath.Join(repo, "Packages"))
		require.NoError(t, err)
		_, err = io.Copy(out, z)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		require.NoError(t, out.Close())
		require.NoError(t, f.Close())
		fmt.Fprintf(&sources, "deb [trusted=yes] file:%s ./\n", repo)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "log", "none"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
		return p
	}
	status := write("status", "")
	list := write("sources.list", sources.String())
	none := filepath.Join(dir, "none")
	conf = write("apt.conf", fmt.Sprintf(`Dir::Etc::main "/dev/null";
Dir::Etc::parts %q;
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts %q;
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts %q;
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Log %q;
APT::Sandbox::User "";
Acquire::Languages "none";
`, none, list, none, none, filepath.Join(dir, "state"), status, filepath.Join(dir, "cache"), filepath.Join(dir, "log")))
	cmd := exec.Command("apt-get", "-q", "update")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+conf, "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return conf
}
