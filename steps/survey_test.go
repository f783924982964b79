package steps

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

func surveyed(t *testing.T) *Env {
	t.Helper()
	e := &Env{Root: madeJail(t, "/usr/sbin/nginx", "/dev/x", "/etc/nginx/x", "/var/log/nginx/x"), Recipe: recipe(t, "nginx"), Events: event.New("r", nil, &notices{})}
	t.Cleanup(e.Close)
	for file, text := range map[string]string{
		"etc/passwd": "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n", "etc/group": "root:x:0:\nwww-data:x:33:\n",
		"etc/nginx/nginx.conf": "user www-data; events {} http {}\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(e.Root.Path(), file), []byte(text), 0o644))
	}
	e.Options.Rehearse = true
	return e
}

// Of null a read ends at once; of zero it never does.
func TestSurveyOfDevices(t *testing.T) {
	lab.Need(t, "root")
	t.Parallel()
	e := surveyed(t)
	dir := e.Root.Path()
	require.NoError(t, unix.Mknod(filepath.Join(dir, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.NoError(t, unix.Mknod(filepath.Join(dir, "dev/zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	for _, p := range []string{"etc/resolv.conf", "etc/hosts", "etc/ld.so.preload"} {
		at := filepath.Join(dir, p)
		require.NoError(t, os.Symlink("/dev/null", at))
		require.NoError(t, e.survey())
		require.NoError(t, os.Remove(at))
		require.NoError(t, os.Symlink("/dev/zero", at))
		require.ErrorContains(t, e.survey(), "/"+p+" is a device")
		require.NoError(t, os.Remove(at))
	}
}

// A log that is a FIFO is refused where nobody reads from it. Where somebody does
// that reader keeps its writer, and the rehearsal has a file in its place.
func TestSurveyOfFIFOs(t *testing.T) {
	lab.Need(t, "root")
	t.Parallel()
	e := surveyed(t)
	fifo := filepath.Join(e.Root.Path(), "var/log/nginx/error.log")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	require.ErrorContains(t, e.survey(), "its log /var/log/nginx/error.log is a FIFO, on which a start waits until somebody reads")

	reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	defer reader.Close()
	require.NoError(t, e.survey())
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	_, err = unix.Read(fd, make([]byte, 1))
	require.ErrorIs(t, err, unix.EAGAIN, "there is a writer")
	require.Contains(t, e.servers()[0].ownLogs(), jail.Change{Path: "/var/log/nginx/error.log", Mode: unix.S_IFREG | 0o600})
}
