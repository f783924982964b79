package service

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestArgvOf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		want []string
		fit  likeness
	}{
		"title":          {[]string{"nginx: master process /usr/sbin/nginx"}, []string{"/usr/sbin/nginx"}, fits},
		"bare name":      {[]string{"nginx: master process nginx"}, []string{"/usr/sbin/nginx"}, fits},
		"other program":  {[]string{"nginx: master process /tmp/evil"}, []string{"/usr/sbin/nginx"}, fits},
		"configuration":  {[]string{"nginx: master process /usr/sbin/nginx -c /x"}, []string{"/usr/sbin/nginx", "-c", "/x"}, differs},
		"the default":    {[]string{"nginx: master process nginx -c /etc//nginx/nginx.conf"}, []string{"/usr/sbin/nginx", "-c", "/etc//nginx/nginx.conf"}, fits},
		"attached":       {[]string{"nginx: master process nginx -c/x"}, []string{"/usr/sbin/nginx", "-c/x"}, differs},
		"directives":     {[]string{"nginx: master process nginx -g daemon off; pid /run/a  b; -c /x -q"}, []string{"/usr/sbin/nginx", "-g", "daemon off; pid /run/a  b;", "-c", "/x -q"}, differs},
		"directives fit": {[]string{"nginx: master process nginx -g daemon on; master_process on;"}, []string{"/usr/sbin/nginx", "-g", "daemon on; master_process on;"}, fits},
		"prefix":         {[]string{"nginx: master process nginx -p /srv/one"}, []string{"/usr/sbin/nginx", "-p", "/srv/one"}, differs},
		"plain words":    {[]string{"/usr/sbin/nginx", "-g", "daemon off; -c x"}, []string{"/usr/sbin/nginx", "-g", "daemon off; -c x"}, fits},
		"worker":         {[]string{"nginx: worker process"}, nil, unknown},
		"no command":     {[]string{"nginx: master process"}, nil, unknown},
		"cut title":      {[]string{"nginx: master pro"}, nil, unknown},
		"control":        {[]string{"nginx: master process nginx -c /x\x1b[2J"}, nil, unknown},
		"invalid UTF-8":  {[]string{"nginx: master process nginx -c /\xff"}, nil, unknown},
		"nothing":        {nil, nil, unknown},
		"flag at end":    {[]string{"nginx: master process nginx -c"}, []string{"/usr/sbin/nginx", "-c"}, fits},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Process{args: tt.args}
			require.Equal(t, tt.want, ArgvOf(p, nginxSpec()))
			require.Equal(t, tt.fit, fit(p, nginxSpec()))
		})
	}
	require.True(t, oneShot(Process{args: []string{"nginx", "-t"}}, nginxSpec()))
	require.False(t, oneShot(Process{args: []string{"nginx", "-c", "/x"}}, nginxSpec()))
}

func TestArgvOfFPM(t *testing.T) {
	t.Parallel()
	const exe, conf = "/usr/sbin/php-fpm8.2", "/etc/php/8.2/fpm/php-fpm.conf"
	with := func(args ...string) []string { return append([]string{exe}, args...) }
	tests := map[string]struct {
		args []string
		want []string
		fit  likeness
	}{
		"the default": {[]string{"php-fpm: master process (" + conf + ")"}, with("--fpm-config", conf), fits},
		"another":     {[]string{"php-fpm: master process (/etc/x (1).conf)"}, with("--fpm-config", "/etc/x (1).conf"), differs},
		"cut":         {[]string{"php-fpm: master process (/etc/php/8"}, nil, unknown},
		"cut more":    {[]string{"php-fpm: master"}, nil, unknown},
		"relative":    {[]string{"php-fpm: master process (fpm.conf)"}, nil, unknown},
		"pool":        {[]string{"php-fpm: pool www"}, nil, unknown},
		"control":     {[]string{"php-fpm: master process (/x\x1b)"}, nil, unknown},
		"long":        {with("--fpm-config", "/x"), with("--fpm-config", "/x"), differs},
		"long, =":     {with("--fpm-config=/x"), with("--fpm-config=/x"), differs},
		"short":       {with("-y", conf, "-F"), with("-y", conf, "-F"), fits},
		"attached":    {with("-y/x"), with("-y/x"), differs},
		"no option":   {with("--fpm-configuration"), with("--fpm-configuration"), fits},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Process{args: tt.args}
			require.Equal(t, tt.want, ArgvOf(p, fpmSpec("8.2")))
			require.Equal(t, tt.fit, fit(p, fpmSpec("8.2")))
		})
	}
	spec := fpmSpec("8.2")
	spec.Start = with("-c", "/etc/php.ini", "-y/old", "--nodaemonize")
	require.Equal(t, with("-c", "/etc/php.ini", "--nodaemonize", "--fpm-config", "/new"), ArgvOf(Process{args: []string{"php-fpm: master process (/new)"}}, spec))
	require.Equal(t, spec.Start, ArgvOf(Process{args: []string{"php-fpm: master process (/old)"}}, spec))
	require.Nil(t, ArgvOf(Process{args: []string{exe, "-y", "/x"}, cut: true}, spec), "there is more that is not known")
}

func FuzzArgvOf(f *testing.F) {
	f.Add("nginx: master process nginx -g daemon off; -c /x")
	f.Add("nginx: master process ")
	f.Add("\x00\x00-c")
	f.Add("nginx: master process (/x)")
	f.Fuzz(func(t *testing.T, s string) {
		argv := ArgvOf(Process{args: strings.Split(s, "\x00")}, nginxSpec())
		if argv != nil && argv[0] != "/usr/sbin/nginx" {
			t.Fatalf("%q begins with a program that is not the server's", argv)
		}
	})
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	good := "12 (a) R) b\x1b) S 3 12 11 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 2 0 987654321 1 2\n"
	p, err := parseStat([]byte(good))
	require.NoError(t, err)
	require.Equal(t, Process{PID: 12, PPID: 3, PGID: 12, SID: 11, StartTicks: 987654321, State: 'S', Comm: p.Comm}, p.Process)
	require.Equal(t, 2, p.threads)
	require.NotContains(t, p.Comm, "\x1b")
	for _, bad := range []string{"", "1", "1 (", ")1(", "1 (a) S 1", "x (a) S" + strings.Repeat(" 1", 30), "1 (a) S" + strings.Repeat(" x", 30)} {
		_, err := parseStat([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) S 3 12 11 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 2 0 987654321 1 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestArgs(t *testing.T) {
	t.Parallel()
	flags := []Flag{{Name: "-c"}, {Name: "--fpm-config", Aliases: []string{"-y"}}}
	for line, want := range map[string][]Arg{
		"x":               nil,
		"x -q a":          {{Words: []string{"-q"}}, {Words: []string{"a"}}},
		"x -c /a":         {{Words: []string{"-c", "/a"}, Name: "-c", Value: "/a"}},
		"x -c/a":          {{Words: []string{"-c/a"}, Name: "-c", Value: "/a"}},
		"x -qtc /a":       {{Words: []string{"-qt"}}, {Words: []string{"-c", "/a"}, Name: "-c", Value: "/a"}},
		"x -qc/a":         {{Words: []string{"-q"}}, {Words: []string{"-c/a"}, Name: "-c", Value: "/a"}},
		"x -y/a":          {{Words: []string{"-y/a"}, Name: "--fpm-config", Value: "/a"}},
		"x --fpm-config=": {{Words: []string{"--fpm-config="}, Name: "--fpm-config"}},
		"x --fpm-cx /a":   {{Words: []string{"--fpm-cx"}}, {Words: []string{"/a"}}},
		"x -c":            {{Words: []string{"-c"}}},
		"x -q/c":          {{Words: []string{"-q/c"}}},
	} {
		argv := strings.Fields(line)
		require.Equal(t, want, Args(argv, flags), line)
		require.Equal(t, strings.Fields(line), argv)
	}
}

func TestFromTitle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spec        Spec
		args        []string
		title, lost bool
	}{
		{nginxSpec(), []string{"nginx: master process /usr/sbin/nginx -c /x"}, true, false},
		{nginxSpec(), []string{"nginx: master pro"}, true, true},
		{nginxSpec(), []string{"/usr/sbin/nginx", "-g", "a: b"}, false, false},
		{fpmSpec("8.2"), []string{"php-fpm: master process (/etc/x.conf)"}, true, true},
		{fpmSpec("8.2"), []string{"php-fpm: pool www"}, true, false},
		{apacheSpec(), []string{"/usr/sbin/apache2", "-k", "start"}, false, false},
		{apacheSpec(), nil, false, false},
	} {
		p := Process{args: tt.args}
		require.Equal(t, tt.title, FromTitle(p), tt.args)
		require.Equal(t, tt.lost, OptionsLost(p, tt.spec), tt.args)
	}
}
