package checks

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	apacheAt = "[Mon Nov 23 17:02:48.364065 2026] "
	noGD     = `PHP Warning:  PHP Startup: Unable to load dynamic library 'gd' (tried: /usr/lib/php/20220829/gd (/usr/lib/php/20220829/gd: cannot open shared object file: No such file or directory), /usr/lib/php/20220829/gd.so (libgd.so.3: cannot open shared object file: No such file or directory)) in Unknown on line 0`
)

func TestLinesOfApacheAndFPM(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		format LogFormat
		line   string
		level  string // "" is nothing
		begin  string // of the message
	}{
		{LogApache, apacheAt + `[mpm_prefork:notice] [pid 1:tid 1] AH00163: Apache/2.4.71 (Debian) configured -- resuming normal operations`, "notice", "AH00163: "},
		{LogApache, apacheAt + `[mpm_event:notice] [pid 1:tid 1] AH00491: caught SIGTERM, shutting down`, "notice", "AH00491: "},
		{LogApache, apacheAt + `[core:notice] [pid 1:tid 1] AH00052: child pid 32524 exit signal Segmentation fault (11)`, "alert", "AH00052: "},
		{LogApache, apacheAt + `[core:notice] [pid 1] AH00051: child pid 9 exit signal Abort (6), possible coredump in /etc/apache2`, "alert", "AH00051: "},
		{LogApache, apacheAt + `[mpm_event:error] [pid 1:tid 1] AH10392: children are killed successively!`, "alert", "AH10392: "},
		{LogApache, apacheAt + `[mpm_event:error] [pid 1:tid 1] AH03490: scoreboard is full, not at MaxRequestWorkers.Increase ServerLimit.`, "error", "AH03490: "},
		{LogApache, apacheAt + `[mpm_prefork:error] [pid 1:tid 1] AH00161: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting`, "error", "AH00161: "},
		{LogApache, apacheAt + `[php:error] [pid 1:tid 1] [client 127.0.0.1:43854] PHP Fatal error:  Uncaught Error: Call to undefined function nofunc() in /srv/www/fatal.php:1\nStack trace:\n#0 {main}`, "error", "[client "},
		{LogApache, apacheAt + `[core:alert] [pid 1:tid 1] [client 127.0.0.1:43876] /srv/www/.htaccess: Invalid command 'php_value', perhaps misspelled or defined by a module not included in the server configuration`, "alert", "[client "},
		{LogApache, apacheAt + `[ssl:emerg] [pid 1:tid 1] AH02311: Fatal error initialising mod_ssl, exiting.`, "emerg", "AH02311: "},
		{LogApache, apacheAt + `[core:error] [pid 1:tid 1] [client 1.2.3.4:5] AH00128: File does not exist: /srv/www/AH00015: AH00052: child pid 1 exit signal x`, "error", "[client "},
		{LogApache, apacheAt + `[:emerg] [pid 1:tid 1] AH00020: Configuration Failed, exiting`, "emerg", "AH00020: "},
		{LogApache, "[Mon Nov  2 17:02:48 2026] [error] an old line", "error", "an old"},
		{LogApache, "(98)Address already in use: AH00072: make_sock: could not bind to address 127.0.0.1:80", "emerg", "(98)"},
		{LogApache, "AH00015: Unable to open logs", "emerg", "AH00015"},
		{LogApache, "no listening sockets available, shutting down", "", ""},
		{LogApache, "libgcc_s.so.1 must be installed for pthread_exit to work", "alert", "libgcc_s"},
		{LogApache, noGD, levelStart, "PHP Warning"},
		{LogApache, "a script says: " + noGD, "", ""},
		{LogApache, `/usr/sbin/apache2: symbol lookup error: /usr/lib/apache2/modules/libphp8.2.so: undefined symbol: ap_x`, "alert", "/usr/sbin"},

		{LogNginx, `2026/11/23 17:25:01 [crit] 12#12: *7 connect() to unix:/run/php/php8.2-fpm.sock failed (2: No such file or directory) while connecting to upstream, client: 127.0.0.1, server: localhost`, "error", "connect()"},
		{LogNginx, strings.TrimSpace(lineCrit), "crit", "open()"},

		{LogFPM, "[23-Nov-2026 17:01:30] NOTICE: fpm is running, pid 26727", "notice", "fpm is running"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] child 26729 exited on signal 11 (SIGSEGV) after 28.503659 seconds from start", "alert", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] child 26729 exited on signal 6 (SIGABRT - core dumped) after 2.1 seconds from start", "alert", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] child 26729 exited on signal 15 (SIGTERM) after 28.503659 seconds from start", "warn", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] child 26729 exited on signal 9 (SIGKILL) after 28.503659 seconds from start", "warn", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] child 26729 exited with code 70 after 0.01 seconds from start", "alert", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] NOTICE: [pool www] child 26729 exited with code 0 after 28.503659 seconds from start", "notice", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:01:59] WARNING: [pool www] server reached pm.max_children setting (5), consider raising it", "warn", "[pool www]"},
		{LogFPM, `[23-Nov-2026 17:01:59] WARNING: [pool www] child 27618 said into stderr: "ERROR: FPM initialization failed"`, "notice", "[pool www]"},
		{LogFPM, "[23-Nov-2026 17:02:16] ERROR: unable to bind listening socket for address '127.0.0.1:19900': Address already in use (98)", "emerg", "unable to bind"},
		{LogFPM, "[23-Nov-2026 17:02:16] ERROR: FPM initialization failed", "emerg", "FPM init"},
		{LogFPM, "[23-Nov-2026 17:02:21] ERROR: [pool bob] cannot get uid for user 'nobob'", "alert", "[pool bob]"},
		{LogFPM, "[23-Nov-2026 17:02:21] ERROR: Unable to open primary script: /x.php (No such file or directory)", "error", "Unable"},
		{LogFPM, "[23-Nov-2026 17:02:21] NOTICE: PHP message: PHP Fatal error:  Uncaught Error", "notice", "PHP message"},
		{LogFPM, "[23-Nov-2026 17:02:21] NOTICE: PHP message: " + noGD, levelStart, "PHP message"},
		{LogFPM, "[23-Nov-2026 17:02:21] ALERT: oops, unknown child (12) exited with code 0. Please open a bug report (https://bugs.php.net).", "warn", "oops"},
		{LogFPM, "[23-Nov-2026 17:02:21.123456] ERROR: pid 12, fpm_init(), line 7: FPM initialization failed", "emerg", "FPM init"},
		{LogFPM, "[23-Nov-2026 17:02:21 UTC] PHP Fatal error:  of a script that logs into this file", "", ""},
		{LogFPM, "", "", ""},
	} {
		level, message, _ := rulesOf(c.format).read(c.line)
		require.Equal(t, c.level, level, c.line)
		require.True(t, strings.HasPrefix(message, c.begin), "%s: %s", c.line, message)
	}
}

// What PHP says of its extensions at each start is held against what it said
// at the last one.
func TestLogOfAStart(t *testing.T) {
	t.Parallel()
	const up = apacheAt + "[mpm_prefork:notice] [pid 1:tid 1] AH00163: Apache/2.4.71 (Debian) configured -- resuming normal operations\n"
	imap := strings.ReplaceAll(noGD, "gd", "imap")
	for _, c := range []struct {
		name, before, now string
		want              Verdict
		detail            string
	}{
		{"well", up, up, Healthy, "no new line"},
		{"new", up, noGD + "\n" + up, Unhealthy, "Unable to load dynamic library 'gd'"},
		{"as before", noGD + "\n" + up, strings.ReplaceAll(noGD, "20220829", "20240924") + "\n" + up, Healthy, "'gd'"},
		{"one more", noGD + "\n" + up, noGD + "\n" + imap + "\n" + up, Unhealthy, "which the old one did not say"},
		{"nobody knows", "a line\n", noGD + "\n" + up, Healthy, "'gd'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, c.before)
			l.format = LogApache
			before := Result{Observation: merge([]Observation{l.look(), l.look()})}
			l.set()
			l.write(c.now)
			o := l.look()
			require.True(t, o.OK)
			v, detail := judge(&before, o)
			require.Equal(t, c.want, v, detail)
			require.Contains(t, detail, c.detail)
			require.Equal(t, c.want == Unhealthy || strings.Contains(c.now, "gd"), o.Final)
			v, _ = judge(nil, o)
			require.Equal(t, Healthy, v, "without a past it is only told")
		})
	}
}

func TestLogOfApacheGoesWrong(t *testing.T) {
	t.Parallel()
	l := newLog(t, "")
	l.format = LogApache
	l.set()
	l.write(apacheAt + "[core:notice] [pid 1:tid 1] AH00052: child pid 7 exit signal Segmentation fault (11)\n")
	o := l.look()
	require.False(t, o.OK)
	require.True(t, o.Final)
	require.Contains(t, o.Detail, "exit signal Segmentation fault")
	before := Result{Observation: Observation{OK: true, Kind: KindLog, Values: map[string]string{"known": o.Values["classes"]}}}
	v, _ := judge(&before, o)
	require.Equal(t, BrokenBefore, v, "it died of that before")
}

func FuzzLogLines(f *testing.F) {
	f.Add(noGD)
	f.Add(apacheAt + "[core:notice] [pid 1:tid 1] AH00052: child pid 7 exit signal \x1b[2J")
	f.Add("[23-Nov-2026 17:02:16] ERROR: FPM initialization failed")
	f.Fuzz(func(t *testing.T, line string) {
		for _, format := range []LogFormat{LogNginx, LogApache, LogFPM} {
			c := &logCheck{format: format}
			c.reset()
			c.line(line)
			for _, s := range append(append(c.classes, c.startup...), c.worst, c.lastErr, c.told) {
				for _, r := range s {
					require.False(t, r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0, "%q", s)
				}
			}
		}
	})
}
