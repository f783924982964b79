package phpconf

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadFPM(t *testing.T) {
	t.Parallel()
	files := fakeFiles{
		"/etc/fpm.conf":      "[global]\npid = /run/f.pid\nprocess_control_timeout = 10s\ninclude=/etc/pool.d/*.conf\nuser=after\n",
		"/etc/pool.d/b.conf": "[b]\nlisten = /run/b.sock\nphp_admin_value[memory_limit] = 32M\nphp_flag[a] = off\n",
		"/etc/pool.d/a.conf": "; first\n[a]\r\nlisten = 9000 ; c\r\nping.path = /ping\r\n",
		"/etc/pool.d/c.conf": "<dir>",
	}
	f, err := ReadFPM(files, "/etc/fpm.conf")
	require.NoError(t, err)
	require.Equal(t, &FPM{
		ErrorLog: "/var/log/php-fpm.log", PIDFile: "/run/f.pid", ControlTimeout: 10 * time.Second,
		Files: []string{"/etc/fpm.conf", "/etc/pool.d/a.conf", "/etc/pool.d/b.conf"},
		Pools: []Pool{
			{Name: "a", Listen: "9000", Network: "tcp", Address: "127.0.0.1:9000", Wildcard: true, PingPath: "/ping", PingResponse: "pong", ListenMode: "0660", File: "/etc/pool.d/a.conf", Line: 2},
			{Name: "b", Listen: "/run/b.sock", Network: "unix", Address: "/run/b.sock", User: "after", ListenMode: "0660", File: "/etc/pool.d/b.conf", Line: 1,
				PHP: []Directive{{"memory_limit", "32M", "/etc/pool.d/b.conf", 3}, {"a", "0", "/etc/pool.d/b.conf", 4}}},
		},
	}, f)

	_, err = ReadFPM(fakeFiles{"/f": "[w]\nlisten=/x\n# old\n"}, "/f")
	var syntax *SyntaxError
	require.ErrorAs(t, err, &syntax)
	require.Equal(t, "cannot read the configuration of PHP-FPM: /f:3: # old has no value; a comment begins with ;", err.Error())
	_, err = ReadFPM(fakeFiles{"/f": "include=/g\n", "/g": "[w]\nlisten = \"x\n"}, "/f")
	require.EqualError(t, err, "cannot read the configuration of PHP-FPM: /g:2: unexpected end of file")
	_, err = ReadFPM(fakeFiles{"/f": "include=/f\n"}, "/f")
	require.ErrorContains(t, err, "more than 5 files include one another")
	_, err = ReadFPM(fakeFiles{}, "/f")
	require.Error(t, err)
}

func TestListenAddress(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"9000":           "tcp 127.0.0.1:9000 all",
		"127.0.0.1:9000": "tcp 127.0.0.1:9000",
		"0.0.0.0:9000":   "tcp 127.0.0.1:9000 all",
		"[::]:9000":      "tcp [::1]:9000 all",
		"[::1]:9000":     "tcp [::1]:9000",
		"::1:9000":       "tcp [::1]:9000",
		"php:9000":       "tcp php:9000",
		"*:9000":         "tcp localhost:9000",
		"/run/x.sock":    "unix /run/x.sock",
		"run/x.sock":     "unix run/x.sock",
		"unix:/x.sock":   " ",
		":9000":          " ",
		"0":              " ",
		"70000":          " ",
		"host:":          " ",
		"":               " ",
	} {
		network, address, wildcard := listenAddress(value)
		got := network + " " + address
		if wildcard {
			got += " all"
		}
		require.Equal(t, want, got, value)
	}
}

func FuzzFPM(f *testing.F) {
	f.Add("[global]\npid = run/x\ninclude=/inc/*.conf\n[w]\nlisten = 9000\nphp_value[a] = $pool\n")
	f.Add("[w]\nprefix=x\nchroot=$prefix/y\nlisten = [::1]:80 ; z\nphp_flag[a]=on\n")
	f.Fuzz(func(t *testing.T, text string) {
		conf, err := ReadFPM(fakeFiles{"/f": text, "/inc/a.conf": "[a]\nlisten=/a\n", "/inc/b.conf": text}, "/f")
		if err != nil {
			require.Nil(t, conf)
			return
		}
		require.NotEmpty(t, conf.Pools)
		for _, p := range conf.Pools {
			require.Contains(t, []string{"", "unix", "tcp"}, p.Network)
			if p.Network == "unix" {
				require.True(t, strings.HasPrefix(p.Address, "/"))
			}
			require.Positive(t, p.Line)
		}
		if pool, _, line := ListenLine([]byte(text)); line > 0 {
			changed, ok := SetListen([]byte(text), pool, "/run/new.sock")
			if ok {
				require.Equal(t, strings.Count(text, "\n"), strings.Count(string(changed), "\n"))
				again, ok := SetListen(changed, pool, "/run/new.sock")
				require.True(t, ok)
				require.Equal(t, changed, again)
			}
		}
	})
}
