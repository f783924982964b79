package bench

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/elfdeps"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// modules are some whose libraries nginx brings itself.
var modules = []string{"libnginx-mod-stream", "libnginx-mod-mail", "libnginx-mod-http-headers-more-filter"}

// tree shows a jail to elfdeps, through the guarded paths that an upgrade uses.
type tree struct{ *changeset.View }

type sized struct {
	*os.File
	size int64
}

func (s sized) Size() int64 { return s.size }

func (t tree) Open(p string) (elfdeps.File, error) {
	f, err := t.View.Open(p)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return sized{f, st.Size()}, nil
}

// BenchmarkNginxClosure finds the libraries of nginx and its modules in a jail:
// by reading the files, and by ldd file by file. ldd is a shell script that runs
// the file's own ld.so; that alone, without the script, is the second peer.
func BenchmarkNginxClosure(b *testing.B) {
	lab.Need(b, "root", "apt", "dpkg-deb", "ldd")
	dir := lab.Unpacked(b, withModules(b, lab.NginxPair(b).Old))
	files := []string{"/usr/sbin/nginx"}
	mods, err := filepath.Glob(filepath.Join(dir, "usr/lib/nginx/modules/*.so"))
	require.NoError(b, err)
	require.NotEmpty(b, mods)
	for _, m := range mods {
		files = append(files, strings.TrimPrefix(m, dir))
	}
	root, err := jail.Open(dir)
	require.NoError(b, err)
	defer root.Close()
	stage, err := os.Open(dir)
	require.NoError(b, err)
	defer stage.Close()

	b.Run("jailup", func(b *testing.B) {
		for b.Loop() {
			c, err := elfdeps.New(tree{changeset.NewView(root, stage, nil)}).Closure(context.Background(), files)
			require.NoError(b, err)
			require.Empty(b, c.Missing)
		}
		b.ReportMetric(float64(len(files)), "files")
	})
	b.Run("ldd-file-by-file", func(b *testing.B) {
		for b.Loop() {
			for _, f := range files {
				out, err := exec.Command("ldd", filepath.Join(dir, f)).CombinedOutput()
				require.NoError(b, err, string(out))
			}
		}
		b.ReportMetric(float64(len(files)), "files")
	})
	b.Run("ld.so-file-by-file", func(b *testing.B) {
		interp, err := filepath.Glob(filepath.Join(dir, "lib*/ld-linux*"))
		require.NoError(b, err)
		if len(interp) == 0 {
			b.Skip("no ld.so in the usual place")
		}
		for b.Loop() {
			for _, f := range files {
				cmd := exec.Command(strings.TrimPrefix(interp[0], dir), "--list", f)
				cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
				cmd.Dir = "/"
				out, err := cmd.CombinedOutput()
				require.NoError(b, err, string(out))
			}
		}
		b.ReportMetric(float64(len(files)), "files")
	})
}

// withModules is a folder of packages with the modules besides.
func withModules(b *testing.B, debs string) string {
	b.Helper()
	dir := lab.ShmDir(b)
	all, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	require.NoError(b, err)
	for _, deb := range all {
		require.NoError(b, os.Symlink(deb, filepath.Join(dir, filepath.Base(deb))))
	}
	cmd := exec.Command("apt-get", append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, modules...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Skipf("no modules to be had: %s", out)
	}
	return dir
}
