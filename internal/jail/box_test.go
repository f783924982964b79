package jail

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// The configuration test must pass in the box what passes outside: an upstream
// by name, a listen on an address of another machine, an include.
func TestConfigurationTestInTheBox(t *testing.T) {
	lab.Need(t, "root", "apt")
	t.Parallel()
	j := lab.HandMadeJail(t, lab.NginxPair(t).New, lab.WithConf(`
user www-data;
pid /run/nginx.pid;
events {}
http {
    access_log /var/log/nginx/access.log;
    include /etc/nginx/conf.d/*.conf;
    server { listen 198.51.100.7:80; listen [2001:db8::7]:80; location / { proxy_pass http://backend.shop.example; } }
}
`))
	before := lab.TreeDigest(t, j.Dir)
	r, err := Open(j.Dir)
	require.NoError(t, err)
	defer r.Close()

	res, err := r.Run(t.Context(), Box{Argv: []string{"/usr/sbin/nginx", "-t"}})
	require.NoError(t, err)
	require.Contains(t, string(res.Output), "test is successful")
	require.Zero(t, res.Exit, string(res.Output))

	// A staged file is seen, and its mistake found.
	stage := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(stage, "000001"), []byte("nonsense;\n"), 0o644))
	dir, err := os.Open(stage)
	require.NoError(t, err)
	defer dir.Close()
	res, err = r.Run(t.Context(), Box{Argv: []string{"/usr/sbin/nginx", "-t"}, Stage: dir, Changes: []Change{
		{Path: "/etc/nginx/conf.d", Mode: unix.S_IFDIR | 0o755},
		{Path: "/etc/nginx/conf.d/bad.conf", Mode: unix.S_IFREG | 0o644, Stage: "000001"},
	}})
	require.NoError(t, err)
	require.Equal(t, 1, res.Exit)
	require.Contains(t, string(res.Output), `unknown directive "nonsense"`)

	res, err = r.Run(t.Context(), Box{Argv: []string{"/usr/sbin/nginx", "-t"}, Changes: []Change{{Path: "/etc/nginx/nginx.conf"}}})
	require.NoError(t, err)
	require.Equal(t, 1, res.Exit)

	require.Empty(t, lab.DiffTrees(before, lab.TreeDigest(t, j.Dir)), "the box wrote into the jail")
}

func TestBoxEndsWhatHangs(t *testing.T) {
	lab.Need(t, "root", "apt")
	t.Parallel()
	j := lab.HandMadeJail(t, lab.NginxPair(t).New)
	r, err := Open(j.Dir)
	require.NoError(t, err)
	defer r.Close()
	began := time.Now()
	res, err := r.Run(t.Context(), Box{Argv: []string{"/usr/sbin/nginx", "-g", "daemon off;"}, Timeout: time.Second})
	require.NoError(t, err)
	require.True(t, res.TimedOut)
	require.Less(t, time.Since(began), 5*time.Second)
	res, err = r.Run(t.Context(), Box{Argv: []string{"/no/such/program"}})
	require.NoError(t, err)
	require.Equal(t, 126, res.Exit)
}
