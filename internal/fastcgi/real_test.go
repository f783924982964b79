package fastcgi

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/phpconf"
)

const page = `<?php
header('X-Greeting: hello');
if (($_GET['status'] ?? '') !== '') http_response_code((int)$_GET['status']);
if (isset($_GET['say'])) error_log('said aloud');
if (isset($_GET['big'])) echo str_repeat('x', (int)$_GET['big']);
if (isset($_GET['slow'])) sleep((int)$_GET['slow']);
if (isset($_GET['gone'])) posix_kill(getmypid(), 9);
echo 'method ', $_SERVER['REQUEST_METHOD'], ' query ', $_SERVER['QUERY_STRING'];
`

// The real php-fpm is asked over either kind of socket.
func TestRealFPM(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	names := append(lab.PHPNames(t, "", []string{"fpm"}), "nginx")
	debs := lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true})
	for name, options := range map[string][]lab.JailOption{
		"unix": {lab.InMemory()},
		"tcp":  {lab.InMemory(), lab.OverTCP()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := lab.PHPJail(t, debs, options...)
			root, err := jail.Open(j.Dir)
			require.NoError(t, err)
			defer root.Close()
			etc := "/etc/php/" + j.Series + "/fpm/"
			extend(t, filepath.Join(j.Dir, etc, "pool.d/www.conf"), "\nping.path = /fpm-ping\npm.status_path = /fpm-status\ncatch_workers_output = no\n")
			require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/ask.php"), []byte(page), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/ask.txt"), []byte(page), 0o644))
			j.StartPart(t, "php-fpm")

			f, err := phpconf.ReadFPM(root, etc+"php-fpm.conf")
			require.NoError(t, err)
			require.Len(t, f.Pools, 1)
			pool := f.Pools[0]
			require.Equal(t, name, pool.Network)
			address := pool.Address
			if name == "unix" {
				address = filepath.Join(j.Dir, pool.Address)
			}
			dial := func() net.Conn {
				t.Helper()
				var conn net.Conn
				lab.Eventually(t, 10*time.Second, "php-fpm listens on "+pool.Address, func() bool {
					c, err := net.Dial(pool.Network, address)
					conn = c
					return err == nil
				})
				return conn
			}
			ask := func(script, query string) *Response {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				r, err := Do(ctx, dial(), map[string]string{"SCRIPT_FILENAME": script, "SCRIPT_NAME": script, "REQUEST_METHOD": "GET", "QUERY_STRING": query,
					"REQUEST_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1", "GATEWAY_INTERFACE": "CGI/1.1", "REMOTE_ADDR": "127.0.0.1"})
				require.NoError(t, err)
				return r
			}
			r := ask(pool.PingPath, "")
			require.Equal(t, 200, r.Status)
			require.Equal(t, pool.PingResponse, string(r.Body))
			require.Equal(t, "text/plain;charset=UTF-8", r.Header.Get("Content-Type"))

			r = ask(pool.StatusPath, "")
			require.Equal(t, 200, r.Status)
			require.Regexp(t, `(?m)^pool:\s+www$`, string(r.Body))

			r = ask("/srv/www/ask.php", "a=b")
			require.Equal(t, 200, r.Status)
			require.Equal(t, "hello", r.Header.Get("X-Greeting"))
			require.Equal(t, "method GET query a=b", string(r.Body))
			require.Empty(t, r.Stderr)

			r = ask("/srv/www/ask.php", "status=503")
			require.Equal(t, 503, r.Status)

			r = ask("/srv/www/ask.php", "say=1")
			require.Contains(t, string(r.Stderr), "said aloud")

			r = ask("/srv/www/ask.php", "big=300000")
			require.Greater(t, len(r.Body), 300_000)

			r = ask("/srv/www/none.php", "")
			require.Equal(t, 404, r.Status)
			require.Equal(t, "File not found.", strings.TrimSpace(string(r.Body)))
			require.Contains(t, string(r.Stderr), "Primary script unknown")

			r = ask("/srv/www/ask.txt", "")
			require.Equal(t, 403, r.Status, "security.limit_extensions")

			_, err = Do(t.Context(), dial(), map[string]string{"SCRIPT_FILENAME": "/srv/www/ask.php", "REQUEST_METHOD": "GET", "QUERY_STRING": "gone=1"})
			require.Error(t, err, "the worker is gone")

			_, err = Do(t.Context(), dial(), map[string]string{"SCRIPT_FILENAME": "/srv/www/ask.php", "REQUEST_METHOD": "GET", "QUERY_STRING": "big=2000000"})
			require.ErrorContains(t, err, "more than")

			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err = Do(ctx, dial(), map[string]string{"SCRIPT_FILENAME": "/srv/www/ask.php", "REQUEST_METHOD": "GET", "QUERY_STRING": "slow=20"})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Less(t, time.Since(start), 15*time.Second)
		})
	}
}

func extend(t *testing.T, file, text string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
