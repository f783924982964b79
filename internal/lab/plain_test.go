package lab

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlainPackagesHoldTheSame(t *testing.T) {
	t.Parallel()
	pair := NginxPair(t)
	plain := Plain(t, pair)
	require.Equal(t, plain, Plain(t, pair), "made once")
	for _, dirs := range [][2]string{{pair.Old, plain.Old}, {pair.New, plain.New}} {
		was, is := FindDeb(t, dirs[0], "nginx-common"), FindDeb(t, dirs[1], "nginx-common")
		require.Equal(t, filepath.Base(was), filepath.Base(is))
		for _, how := range []string{"-f", "-c"} {
			a, err := exec.Command("dpkg-deb", how, was).Output()
			require.NoError(t, err)
			b, err := exec.Command("dpkg-deb", how, is).Output()
			require.NoError(t, err)
			require.Equal(t, string(a), string(b))
		}
	}
}

// What is left of a light package is what it was, and its md5sums name nothing else.
func TestLightPackagesHoldLess(t *testing.T) {
	t.Parallel()
	pair := NginxPair(t)
	light := Light(t, pair)
	was, is := FindDeb(t, pair.New, "libc6"), FindDeb(t, light.New, "libc6")
	before, after := filepath.Join(t.TempDir(), "was"), filepath.Join(t.TempDir(), "is")
	for deb, dir := range map[string]string{was: before, is: after} {
		out, err := exec.Command("dpkg-deb", "-R", deb, dir).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	sums := exec.Command("md5sum", "--check", "--quiet", "DEBIAN/md5sums")
	sums.Dir = after
	out, err := sums.CombinedOutput()
	require.NoError(t, err, string(out))
	a, b := TreeDigest(t, before, "DEBIAN/md5sums"), TreeDigest(t, after, "DEBIAN/md5sums")
	require.Less(t, len(b), len(a))
	for p := range a {
		if is, ok := b[p]; ok && !strings.HasPrefix(is, "type=dir") { // a folder has the time of what was taken out
			require.Equal(t, a[p], is, p)
		}
		if b[p] == "" {
			require.Regexp(t, "gconv|/share/doc|/share/lintian|audit|libmvec|libthread|malloc_debug|libnsl|libpcprofile|libmemusage|BrokenLocale", p)
		}
	}
}
