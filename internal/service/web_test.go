package service

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

// apacheSpec is what the recipe says of Apache.
func apacheSpec() Spec {
	return Spec{
		Name:        "apache",
		Executables: []string{"/usr/sbin/apache2"},
		Start:       []string{"/usr/sbin/apache2", "-k", "start"},
		PIDFiles:    []string{"/run/apache2/apache2.pid"},
		Flags: []Flag{
			{Name: "-f", Instance: true, Default: "/etc/apache2/apache2.conf"},
			{Name: "-d", Instance: true, Default: "/etc/apache2"},
			{Name: "-D", Instance: true, Repeats: true, Free: []string{"FOREGROUND", "NO_DETACH"}},
			{Name: "-k"}, {Name: "-C"}, {Name: "-c"}, {Name: "-E"}, {Name: "-e"},
		},
		OneShot: []string{"-t", "-S", "-v", "-V", "-l", "-L", "-M", "-h", "-k stop", "-k restart", "-k graceful", "-k graceful-stop"},
		Quit:    unix.SIGWINCH, QuitOnce: true, Term: unix.SIGTERM, Reload: unix.SIGUSR1,
	}
}

// fpmSpec is what the recipe says of a series of php-fpm.
func fpmSpec(series string) Spec {
	exe, conf := "/usr/sbin/php-fpm"+series, "/etc/php/"+series+"/fpm/php-fpm.conf"
	return Spec{
		Name:        "php-fpm",
		Executables: []string{exe},
		Start:       []string{exe, "--fpm-config", conf},
		PIDFiles:    []string{"/run/php/php" + series + "-fpm.pid"},
		Flags: []Flag{
			{Name: "--fpm-config", Aliases: []string{"-y"}, Instance: true, Default: conf},
			{Name: "-c"}, {Name: "-d"}, {Name: "-g"}, {Name: "-p"},
		},
		OneShot: []string{"-t", "-tt", "-v", "-i", "-m", "-h"},
		Quit:    unix.SIGQUIT, QuitChildren: true, Term: unix.SIGTERM, Reload: unix.SIGUSR2,
	}
}

// webPackages hold all servers and PHP.
func webPackages(t testing.TB) string {
	t.Helper()
	names := append(lab.PHPNames(t, "", []string{"fpm", "apache"}), "nginx")
	return lab.Packages(t, lab.PackagesOptions{Names: names, Newest: true})
}

// apacheJail is a jail with an Apache of that MPM, or with PHP in it ("mod_php").
func apacheJail(t testing.TB, mpm string, opts ...lab.JailOption) (*lab.Jail, *ProcessController) {
	t.Helper()
	lab.Need(t, "root")
	opts = append(opts, lab.InMemory())
	var j *lab.Jail
	if mpm == "mod_php" {
		j = lab.ModPHPJail(t, webPackages(t), opts...)
	} else {
		j = lab.ApacheJail(t, webPackages(t), append(opts, lab.MPM(mpm))...)
	}
	writeSlow(t, j)
	return j, NewProcess(openJail(t, j.Dir), apacheSpec(), logTo(t))
}

// fpmJail is a jail with nginx and php-fpm, of which nginx runs, and a
// controller of php-fpm.
func fpmJail(t testing.TB) (*lab.Jail, *ProcessController) {
	t.Helper()
	lab.Need(t, "root")
	j := lab.PHPJail(t, webPackages(t), lab.InMemory())
	writeSlow(t, j)
	j.StartPart(t, "nginx")
	return j, NewProcess(openJail(t, j.Dir), fpmSpec(j.Series), logTo(t))
}

// writeSlow writes a page that takes two seconds to its last word.
func writeSlow(t testing.TB, j *lab.Jail) {
	t.Helper()
	page := `<?php file_put_contents('/tmp/begun', 'x'); for ($end = microtime(true) + 2; microtime(true) < $end;) usleep(1000); echo 'whole';`
	require.NoError(t, os.WriteFile(filepath.Join(j.Dir, "srv/www/slow.php"), []byte(page), 0o644))
}

// slowPage asks for it, and returns when the script runs.
func slowPage(t *testing.T, j *lab.Jail) <-chan string {
	t.Helper()
	answer := make(chan string, 1)
	go func() {
		resp, err := http.Get(j.URL + "/slow.php")
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	lab.Eventually(t, 10*time.Second, "the page is begun", func() bool {
		_, err := os.Stat(filepath.Join(j.Dir, "tmp/begun"))
		return err == nil
	})
	return answer
}

func serves(j *lab.Jail, page string) bool {
	code, _, err := j.TryGet(page)
	return err == nil && code == 200
}

// signalled tells how often processes were sent a signal.
func signalled(r StopReport, sig unix.Signal) (times int) {
	for _, s := range r.Signals {
		if s.Signal == sig {
			times += s.Times
		}
	}
	return times
}
