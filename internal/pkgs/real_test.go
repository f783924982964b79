package pkgs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// realDebs returns packages of the host's own archive: a server, its
// configuration, and the C library with its hundreds of small modules.
func realDebs(t testing.TB) []string {
	lab.Need(t, "apt", "dpkg-deb", "tar")
	dir := lab.NginxPair(t).New
	var debs []string
	for _, name := range []string{"nginx", "nginx-common", "libc6"} {
		debs = append(debs, lab.FindDeb(t, dir, name))
	}
	return debs
}

func openDeb(t testing.TB, path string, lim Limits) *Deb {
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	require.NoError(t, err)
	d, err := OpenDeb(f, st.Size(), lim)
	require.NoError(t, err)
	return d
}

func output(t testing.TB, stdin io.Reader, name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC"}
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %v: %s", name, args, stderr.String())
	return string(out)
}

// listing shows an entry the way tar -tv does.
func listing(e *Entry) string {
	kind := map[EntryType]string{TypeRegular: "-", TypeDir: "d", TypeSymlink: "l", TypeHardlink: "h"}[e.Type]
	perm := []byte("rwxrwxrwx")
	for i := range perm {
		if e.Mode&(0o400>>i) == 0 {
			perm[i] = '-'
		}
	}
	for i, c := range []struct {
		bit uint32
		set string
	}{{0o4000, "sS"}, {0o2000, "sS"}, {0o1000, "tT"}} {
		if e.Mode&c.bit != 0 {
			at := 2 + 3*i
			if perm[at] == 'x' {
				perm[at] = c.set[0]
			} else {
				perm[at] = c.set[1]
			}
		}
	}
	path := "." + e.Path
	if e.Type == TypeDir && e.Path != "/" {
		path += "/"
	}
	switch e.Type {
	case TypeSymlink:
		path += " -> " + e.Link
	case TypeHardlink:
		path += " link to ." + e.Link
	}
	when := time.Unix(0, e.MtimeNS).UTC().Format("2006-01-02 15:04:05")
	return fmt.Sprintf("%s%s %s/%s %d %s %s", kind, perm, e.Uname, e.Gname, e.Size, when, path)
}

func TestFilesAreWhatTarSays(t *testing.T) {
	t.Parallel()
	for _, path := range realDebs(t) {
		t.Run(strings.SplitN(filepath.Base(path), "_", 2)[0], func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			tarball := filepath.Join(dir, "data.tar")
			out, err := os.Create(tarball)
			require.NoError(t, err)
			cmd := exec.Command("dpkg-deb", "--fsys-tarfile", path)
			cmd.Stdout = out
			require.NoError(t, cmd.Run())
			require.NoError(t, out.Close())
			var want []string
			for line := range strings.Lines(output(t, nil, "tar", "-tvf", tarball, "--full-time", "--quoting-style=literal")) {
				// One space between the columns, whatever their width.
				f := strings.Fields(line)
				want = append(want, strings.Join(f, " "))
			}
			output(t, nil, "tar", "-xf", tarball, "-C", dir, "--no-same-owner")

			d := openDeb(t, path, Limits{})
			var got []string
			require.NoError(t, d.Files(func(e *Entry, content io.Reader) error {
				got = append(got, strings.Join(strings.Fields(listing(e)), " "))
				data, err := io.ReadAll(content)
				require.NoError(t, err)
				require.Len(t, data, int(e.Size))
				if e.Type == TypeRegular {
					file, err := os.ReadFile(filepath.Join(dir, e.Path))
					require.NoError(t, err)
					require.True(t, bytes.Equal(file, data), e.Path)
				}
				return nil
			}))
			require.Equal(t, want, got)
			require.NotEmpty(t, got)
		})
	}
}

func TestControlIsWhatDpkgSays(t *testing.T) {
	t.Parallel()
	for _, path := range realDebs(t) {
		d := openDeb(t, path, Limits{})
		s := d.Control()
		for name, got := range map[string]string{
			"Package": s.Package, "Version": s.Version, "Architecture": s.Architecture,
			"Section": s.Section, "Multi-Arch": s.MultiArch, "Depends": s.Depends,
			"Pre-Depends": s.PreDepends, "Provides": s.Provides, "Conflicts": s.Conflicts,
			"Breaks": s.Breaks, "Replaces": s.Replaces, "Installed-Size": fmt.Sprint(s.InstalledSize),
		} {
			want := strings.TrimSpace(output(t, nil, "dpkg-deb", "-f", path, name))
			if name == "Multi-Arch" && want == "no" {
				want = s.MultiArch // dpkg says the default where nothing is written
				require.Contains(t, []string{"", "no"}, want)
			}
			require.Equal(t, want, got, "%s: %s", path, name)
		}
		// Every field, in its order, and every control file.
		var names []string
		require.NoError(t, ReadParagraphs(bytes.NewReader(d.ControlFiles()["control"]), Limits{}, func(p Paragraph) error {
			names = p.Fields()
			for _, n := range names {
				require.Equal(t, strings.TrimSuffix(output(t, nil, "dpkg-deb", "-f", path, n), "\n"), p.Get(n))
			}
			return nil
		}))
		require.Greater(t, len(names), 5)
		dir := t.TempDir()
		output(t, nil, "dpkg-deb", "-e", path, dir)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, d.ControlFiles(), len(entries))
		for _, e := range entries {
			want, err := os.ReadFile(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, d.ControlFiles()[e.Name()]), e.Name())
		}
		require.NoError(t, d.Match(s))
	}
}

func TestConffilesOfRealPackages(t *testing.T) {
	t.Parallel()
	for _, path := range realDebs(t) {
		d := openDeb(t, path, Limits{})
		var want []string
		for line := range strings.Lines(string(d.ControlFiles()["conffiles"])) {
			want = append(want, strings.TrimSpace(line))
		}
		require.Equal(t, want, d.Conffiles())
		files := map[string]bool{}
		require.NoError(t, d.Files(func(e *Entry, _ io.Reader) error {
			files[e.Path] = true
			return nil
		}))
		for _, c := range d.Conffiles() {
			require.True(t, files[c], c)
		}
		if strings.HasPrefix(filepath.Base(path), "nginx-common") {
			require.Contains(t, d.Conffiles(), "/etc/nginx/nginx.conf")
		}
	}
}

// indexes returns the host's own indexes, unpacked.
func indexes(t testing.TB) [][]byte {
	lab.Need(t, "apt")
	const helper = "/usr/lib/apt/apt-helper"
	names, err := filepath.Glob("/var/lib/apt/lists/*_Packages*")
	require.NoError(t, err)
	sort.Strings(names)
	var all [][]byte
	for _, n := range names {
		all = append(all, []byte(output(t, nil, helper, "cat-file", n)))
	}
	if len(all) == 0 {
		if lab.RequireAll() {
			t.Fatal("needs apt: the host has no index (apt-get update)")
		}
		t.Skip("needs apt: the host has no index")
	}
	return all
}

// Whatever a real archive holds must be readable, down to each relation.
func TestRealIndexes(t *testing.T) {
	t.Parallel()
	read := false
	for _, index := range indexes(t) {
		count := 0
		require.NoError(t, ReadParagraphs(bytes.NewReader(index), Limits{}, func(p Paragraph) error {
			count++
			s, err := ParseStanza(p)
			if err != nil {
				return err
			}
			if err := s.Fetchable(); err != nil {
				return err
			}
			for _, f := range []string{s.Depends, s.PreDepends, s.Conflicts, s.Breaks, s.Replaces} {
				d, err := ParseDependency(f)
				if err != nil {
					return err
				}
				again, err := ParseDependency(d.String())
				if err != nil {
					return err
				}
				require.Equal(t, d, again)
			}
			_, err = ParseProvides(s.Provides)
			return err
		}))
		for line := range bytes.Lines(index) {
			if bytes.HasPrefix(line, []byte("Package:")) {
				count--
			}
		}
		require.Zero(t, count)
		read = true
	}
	require.True(t, read)
}
