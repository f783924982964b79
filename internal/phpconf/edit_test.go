package phpconf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPriority(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"; configuration for php gd module\n; priority=20\nextension=gd.so\n": 20,
		"; priority=10\nextension=x":                                          10,
		";priority = 5 \nx":                                                   5,
		"; priority=30\r\n":                                                   30,
		"extension=x\n; priority=7":                                           7,
		"; priority=1\n; priority=2":                                          1,
		"; priority=ten\n":                                                    20,
		"# priority=3\n":                                                      20,
		" ; priority=3\n":                                                     20,
		"; my priority=3\n":                                                   20,
		"; priority=3 or so\n":                                                20,
		"; priority=99999999999999999999999\n":                                20,
		"":                                                                    20,
	} {
		require.Equal(t, want, Priority([]byte(text)), text)
	}
}

func TestSetListen(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ conf, pool, value, want string }{
		"plain":              {"[www]\nlisten = /run/a.sock\nuser = x\n", "www", "/run/b.sock", "[www]\nlisten = /run/b.sock\nuser = x\n"},
		"comment and blanks": {"; a\n[www]\n\tlisten\t=  \"/run/a.sock\"  ; why\r\nx=y\r\n", "www", "/run/b.sock", "; a\n[www]\n\tlisten\t=  /run/b.sock  ; why\r\nx=y\r\n"},
		"commented out":      {"[www]\n;listen = /c\nlisten = /a\n;listen = /d\n", "WWW", "9000", "[www]\n;listen = /c\nlisten = 9000\n;listen = /d\n"},
		"the one in force":   {"[www]\nlisten = /a\nlisten = /b\n", "www", "/c", "[www]\nlisten = /a\nlisten = /c\n"},
		"the right pool":     {"[a]\nlisten=/a\n[b]\nlisten=/b\nlisten.mode=0600\n[c]\nlisten=/c", "b", "[::1]:9000", "[a]\nlisten=/a\n[b]\nlisten=[::1]:9000\nlisten.mode=0600\n[c]\nlisten=/c"},
		"an empty one":       {"[a]\nlisten =\nx=1\n", "a", "/x", "[a]\nlisten =/x\nx=1\n"},
		"on the section":     {"[a] listen=/a\n", "a", "/x", "[a] listen=/x\n"},
		"needs quotes":       {"[a]\nlisten=/a\n", "a", `/x y;"z"\`, "[a]\nlisten=\"/x y;\\\"z\\\"\\\\\"\n"},
		"variable":           {"[a]\nlisten = ${SOCK}x\n", "a", "/b", "[a]\nlisten = /b\n"},
	} {
		conf := []byte(test.conf)
		got, ok := SetListen(conf, test.pool, test.value)
		require.True(t, ok, name)
		require.Equal(t, test.want, string(got), name)
		require.Equal(t, test.conf, string(conf), name)
	}
	for name, test := range map[string]struct{ conf, pool, value string }{
		"no such pool":       {"[a]\nlisten=/a\n", "b", "/x"},
		"no such line":       {"[a]\nuser=x\n;listen=/a\n", "a", "/x"},
		"in global":          {"[global]\nlisten=/a\n", "global", "/x"},
		"a line end":         {"[a]\nlisten=/a\n", "a", "/x\nuser=root"},
		"behind a fault":     {"[a]\nx=\"\nlisten=/a\n", "a", "/x"},
		"what is a variable": {"[a]\nlisten=/a\n", "a", "/${x:-y}"},
	} {
		got, ok := SetListen([]byte(test.conf), test.pool, test.value)
		require.False(t, ok, name)
		require.Equal(t, test.conf, string(got), name)
	}
	pool, value, line := ListenLine([]byte("; x\n[a]\nuser=y\nlisten = 'x y' ; z\n"))
	require.Equal(t, []any{"a", "x y", 4}, []any{pool, value, line})
	_, _, line = ListenLine([]byte("listen=/a\n"))
	require.Zero(t, line)
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	pairs := [][2]string{
		{"/etc/php/8.2/", "/etc/php/8.4/"},
		{"/run/php/php8.2-fpm", "/run/php/php8.4-fpm"},
		{"/usr/lib/php/20220829", "/usr/lib/php/20240924"},
		{"/usr/lib/php/20220829/own/", "/opt/own/"},
	}
	for text, want := range map[string]string{
		"include=/etc/php/8.2/fpm/pool.d/*.conf\n":                    "include=/etc/php/8.4/fpm/pool.d/*.conf\n",
		"pid = /run/php/php8.2-fpm.pid":                               "pid = /run/php/php8.4-fpm.pid",
		"fastcgi_pass unix:/run/php/php8.2-fpm.sock;":                 "fastcgi_pass unix:/run/php/php8.4-fpm.sock;",
		"\"proxy:unix:/run/php/php8.2-fpm.sock|fcgi://localhost\"":    "\"proxy:unix:/run/php/php8.4-fpm.sock|fcgi://localhost\"",
		"; see /etc/php/8.2/fpm\n# '/etc/php/8.2/x'":                  "; see /etc/php/8.4/fpm\n# '/etc/php/8.4/x'",
		"/srv/etc/php/8.2/x":                                          "/srv/etc/php/8.2/x",
		"$prefix/etc/php/8.2/x ${D}/etc/php/8.2/x":                    "$prefix/etc/php/8.2/x ${D}/etc/php/8.2/x",
		"./etc/php/8.2/x ~/etc/php/8.2/x //etc/php/8.2/x":             "./etc/php/8.2/x ~/etc/php/8.2/x //etc/php/8.2/x",
		"é/etc/php/8.2/x":                                             "é/etc/php/8.2/x",
		"/etc/php/8.2":                                                "/etc/php/8.4",
		"a = \"/etc/php/8.2\"\nb = '/etc/php/8.2';":                   "a = \"/etc/php/8.4\"\nb = '/etc/php/8.4';",
		"root /etc/php/8.2; # /etc/php/8.2\n/etc/php/8.2\r\n":         "root /etc/php/8.4; # /etc/php/8.4\n/etc/php/8.4\r\n",
		"open_basedir = /etc/php/8.2:/srv:/etc/php/8.2,x":             "open_basedir = /etc/php/8.4:/srv:/etc/php/8.4,x",
		"<Directory /etc/php/8.2>\t/etc/php/8.2\t":                    "<Directory /etc/php/8.4>\t/etc/php/8.4\t",
		"/etc/php/8.20 /etc/php/8.2-x /etc/php/8.2.bak /etc/php/8.2_": "/etc/php/8.20 /etc/php/8.2-x /etc/php/8.2.bak /etc/php/8.2_",
		"/srv/etc/php/8.2 $d/etc/php/8.2 /etc/php/8.2é":               "/srv/etc/php/8.2 $d/etc/php/8.2 /etc/php/8.2é",
		"/usr/lib/php/20220829/own;/usr/lib/php/20220829":             "/opt/own;/usr/lib/php/20240924",
		"/run/php/php8.2-fpm2.sock /run/php/php8.2-fpm-b.sock":        "/run/php/php8.2-fpm2.sock /run/php/php8.2-fpm-b.sock",
		"/usr/lib/php/20220829/x.so:/usr/lib/php/20220829/own/y":      "/usr/lib/php/20240924/x.so:/opt/own/y",
		"/usr/lib/php/202208290":                                      "/usr/lib/php/202208290",
		"extension_dir=/usr/lib/php/20220829":                         "extension_dir=/usr/lib/php/20240924",
		"":                                                            "",
	} {
		require.Equal(t, want, string(Rewrite([]byte(text), pairs)), text)
	}
	require.Equal(t, "/b/c", string(Rewrite([]byte("/a/c"), [][2]string{{"/a/", "/b/"}, {"/b/", "/c/"}, {"", "/x"}})))
}
