package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// buildC compiles a small program into a package tree.
func buildC(t testing.TB, out, source string, flags ...string) {
	t.Helper()
	src := filepath.Join(t.TempDir(), "x.c")
	require.NoError(t, os.WriteFile(src, []byte(source), 0o644))
	msg, err := exec.Command("gcc", append([]string{"-O1", "-o", out, src}, flags...)...).CombinedOutput()
	require.NoError(t, err, string(msg))
}

// stub makes a library that exists here and nowhere else.
func stub(t testing.TB, soname string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), soname)
	buildC(t, out, "int stub(void){return 1;}", "-shared", "-fPIC", "-Wl,-soname,"+soname)
	return out
}

// wrapper puts a program in nginx's place that passes the test of the
// configuration like nginx, and serves for some seconds only.
func wrapper(t testing.TB, dir string, seconds int) {
	t.Helper()
	real := filepath.Join(dir, "usr/sbin/nginx")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/share/nginx"), 0o755))
	require.NoError(t, os.Rename(real, filepath.Join(dir, "usr/share/nginx/real")))
	buildC(t, real, fmt.Sprintf(`
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <stdlib.h>
#include <sys/wait.h>
static pid_t child;
static void end(int s) { kill(child, s); while (waitpid(child, 0, 0) < 0) ; _exit(0); }
int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++)
		if (argv[i][0] == '-' && strchr("tTvV", argv[i][1])) execv("/usr/share/nginx/real", argv);
	if (%[1]d == 0) return 1;
	if (fork()) return 0;
	setsid();
	char *args[] = {"nginx", "-g", "daemon off;", 0};
	child = fork();
	if (!child) { setpgid(0, 0); execv("/usr/share/nginx/real", args); _exit(127); }
	signal(SIGQUIT, end); signal(SIGTERM, end);
	sleep(%[1]d);
	kill(-child, SIGKILL);
	waitpid(child, 0, 0);
	return 0;
}`, seconds), "-static")
}
