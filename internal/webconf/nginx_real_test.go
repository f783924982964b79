package webconf_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

// The configuration that Debian ships, read out of the packages.
func TestNginxOfTheDistribution(t *testing.T) {
	t.Parallel()
	pair := lab.NginxPair(t)
	for name, debs := range map[string]string{"old": pair.Old, "new": pair.New} {
		t.Run(name, func(t *testing.T) {
			root, err := jail.Open(lab.Unpacked(t, debs))
			require.NoError(t, err)
			defer root.Close()
			n, err := webconf.ReadNginx(root, "/etc/nginx/nginx.conf", "/usr/share/nginx")
			require.NoError(t, err)
			require.Equal(t, "www-data", n.WorkerUser())
			require.Equal(t, "/run/nginx.pid", n.PIDFile())
			require.Equal(t, []string{"/var/log/nginx/error.log"}, n.ErrorLogs())
			require.Equal(t, []string{"/var/log/nginx/access.log"}, n.AccessLogs())
			require.Contains(t, n.Files, "/etc/nginx/mime.types")
			require.True(t, n.Daemon())

			// The default site is a link made by a maintainer script: read it as
			// the main file.
			site, err := webconf.ReadNginx(siteOnly{root}, "/etc/nginx/nginx.conf", "/usr/share/nginx")
			require.NoError(t, err)
			var got []string
			for _, l := range site.Listens() {
				require.True(t, l.Default)
				require.Equal(t, "/etc/nginx/sites-available/default", l.File)
				got = append(got, l.String())
			}
			require.Equal(t, []string{"0.0.0.0:80", "[::]:80"}, got)
			require.Equal(t, "/var/www/html", site.Servers()[0].Root)
			require.Empty(t, site.Servers()[0].HostName())
		})
	}
}

// siteOnly is a tree in which the main file includes the default site alone.
type siteOnly struct{ *jail.Root }

func (s siteOnly) ReadFile(path string, limit int64) ([]byte, error) {
	if path == "/etc/nginx/nginx.conf" {
		return []byte("http { include sites-available/default; }"), nil
	}
	return s.Root.ReadFile(path, limit)
}
