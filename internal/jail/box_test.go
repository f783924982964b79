package jail

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// compiled puts a static program into an otherwise empty jail.
func compiled(t *testing.T, source string) *Root {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "main.c")
	require.NoError(t, os.WriteFile(file, []byte(source), 0o644))
	out, err := exec.Command("gcc", "-static", "-o", filepath.Join(dir, "program"), file).CombinedOutput()
	require.NoError(t, err, string(out))
	r, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// A descriptor that jailup itself was started with, of a directory of the host,
// would be a way out of any chroot.
func TestBoxInheritsNoDescriptor(t *testing.T) {
	lab.Need(t, "root", "gcc")
	host := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "secret"), []byte("of the host"), 0o644))
	dir, err := os.Open(host)
	require.NoError(t, err)
	defer dir.Close()
	leak, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD, 30) // without close-on-exec
	require.NoError(t, err)
	defer unix.Close(leak)
	r := compiled(t, `
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
	int found = 0;
	for (int fd = 3; fd < 1024; fd++) {
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		printf("descriptor %d is open\n", fd);
		found = 1;
		int in = openat(fd, "secret", O_RDONLY);
		char text[64];
		ssize_t n = in < 0 ? 0 : read(in, text, sizeof text);
		if (n > 0)
			printf("read: %.*s\n", (int)n, text);
	}
	return found;
}`)
	res, err := r.Run(t.Context(), Box{Argv: []string{"/program"}})
	require.NoError(t, err)
	require.Empty(t, string(res.Output))
	require.Zero(t, res.Exit)
}

// The processes and the memory of the host are not the program's to use up.
func TestBoxBoundsWhatTheProgramUses(t *testing.T) {
	lab.Need(t, "root", "gcc") // and alone, for what is left is counted
	r := compiled(t, `
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
	long n = 0;
	if (!strcmp(argv[1], "fork")) {
		for (; n < 700; n++) {
			pid_t p = fork();
			if (p < 0)
				break;
			if (p == 0)
				for (;;) pause();
		}
		for (;;) pause();
	} else {
		static char mib[1 << 20];
		int fd = open("/big", O_CREAT | O_WRONLY, 0600);
		while (n < 1000 && write(fd, mib, sizeof mib) == sizeof mib)
			n++;
	}
	printf("%ld\n", n);
	return 0;
}`)
	run := func(what string) int {
		res, err := r.Run(t.Context(), Box{Argv: []string{"/program", what}})
		require.NoError(t, err)
		require.Zero(t, res.Exit, string(res.Output))
		n, err := strconv.Atoi(strings.TrimSpace(string(res.Output)))
		require.NoError(t, err)
		return n
	}
	n := run("fill")
	require.Greater(t, n, 300)
	require.LessOrEqual(t, n, 512)

	// Process 1 of the box looks, and a cgroup holds it back where one can be made.
	began := time.Now()
	res, err := r.Run(t.Context(), Box{Argv: []string{"/program", "fork"}})
	require.NoError(t, err)
	require.Equal(t, "more than 400 processes", res.Ended)
	require.Equal(t, 137, res.Exit)
	require.Less(t, time.Since(began), 10*time.Second)
	c := newCgroup(boxMemory)
	if c == nil {
		t.Log("no cgroup can be made here: the number of processes has one bound only")
		return
	}
	c.remove()
	for _, dir := range c.dirs {
		left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), cgroupPrefix+strconv.Itoa(os.Getpid())+"-*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

// A log is opened to append to it, which copies all of it into the view.
func TestBoxAndALargeLog(t *testing.T) {
	lab.Need(t, "root", "gcc")
	t.Parallel()
	r := compiled(t, `
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
	int fd = open("/var/log/server/access.log", O_WRONLY | O_APPEND);
	if (fd < 0 || write(fd, "x", 1) != 1) {
		perror("log");
		return 1;
	}
	return 0;
}`)
	log := filepath.Join(r.Path(), "var/log/server/access.log")
	require.NoError(t, os.MkdirAll(filepath.Dir(log), 0o755))
	f, err := os.Create(log)
	require.NoError(t, err)
	const size = 600 << 20
	require.NoError(t, unix.Fallocate(int(f.Fd()), 0, 0, size))
	require.NoError(t, f.Close())
	res, err := r.Run(t.Context(), Box{Argv: []string{"/program"}})
	require.NoError(t, err)
	require.Zero(t, res.Exit, string(res.Output))
	info, err := os.Stat(log)
	require.NoError(t, err)
	require.EqualValues(t, size, info.Size())
}

// A change without a stage is an empty file, also in place of a FIFO, on which the
// program would wait.
func TestEmptyFileInTheView(t *testing.T) {
	lab.Need(t, "root", "apt")
	t.Parallel()
	j := lab.HandMadeJail(t, lab.NginxPair(t).New)
	log := filepath.Join(j.Dir, "var/log/nginx/error.log")
	_ = os.Remove(log)
	require.NoError(t, unix.Mkfifo(log, 0o600))
	r, err := Open(j.Dir)
	require.NoError(t, err)
	defer r.Close()
	res, err := r.Run(t.Context(), Box{Argv: []string{"/usr/sbin/nginx", "-t"}, Changes: []Change{{Path: "/var/log/nginx/error.log", Mode: unix.S_IFREG | 0o600}}})
	require.NoError(t, err)
	require.False(t, res.TimedOut)
	require.Zero(t, res.Exit, string(res.Output))
}
