package lab

import (
	"os/exec"
	"path/filepath"
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
