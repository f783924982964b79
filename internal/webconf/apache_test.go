package webconf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const apacheMain = "/etc/apache2/apache2.conf"

func apache(t *testing.T, files tree, o ApacheOptions) *Apache {
	t.Helper()
	a, err := ReadApache(files, apacheMain, o)
	require.NoError(t, err)
	return a
}

func apacheConf(text string) tree { return tree{apacheMain: text} }

func TestApacheFaults(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("<A>\n", 1_000_000)
	for _, c := range []struct {
		name  string
		files tree
		want  string
	}{
		{"no file", tree{}, apacheMain + ": file does not exist"},
		{"open section", apacheConf("\n<VirtualHost *:80>\n<Directory /x>\n</Directory>\n"), apacheMain + ":2: <VirtualHost> is not closed"},
		{"open section in one that is skipped", apacheConf("<IfModule x>\n<Directory /x>\n"), ":2: <Directory> is not closed"},
		{"closed twice", apacheConf("<Directory /x>\n</Directory>\n</Directory>"), ":3: </Directory> without an open section"},
		{"crossed", apacheConf("<Directory /x>\n<Files x>\n</Directory>\n"), ":3: </Directory> where </Files> is due"},
		{"continued", apacheConf("a \\\n b\n</c>"), ":3: </c> without an open section"},
		{"no bracket", apacheConf("<Directory /x\n"), ":1: <Directory has no closing >"},
		{"nothing", apacheConf("<>\n"), ":1: a section without a name"},
		{"deep", apacheConf(deep), ":100: more than 100 sections in one another"},
		{"deep conditions", apacheConf(strings.Repeat("<IfModule so_module>\n", 1000)), "sections in one another"},
		{"deep and skipped", apacheConf("<IfDefine x>\n" + deep), "sections in one another"},
		{"missing", apacheConf("\nInclude no.conf"), apacheMain + ":2: Include: /etc/apache2/no.conf: file does not exist"},
		{"no match", apacheConf("Include x/*.conf"), apacheMain + ":1: Include: /etc/apache2/x: file does not exist"},
		{"no match in a directory", tree{apacheMain: "Include x/*.conf", "/etc/apache2/x/a": ""}, "/etc/apache2/x/*.conf: nothing matches"},
		{"itself", apacheConf("\n\nInclude apache2.conf"), apacheMain + ":3: more than 50 files include one another"},
		{"ring", tree{apacheMain: "IncludeOptional a*", "/etc/apache2/abc": "\nIncludeOptional a*"}, "/etc/apache2/a"},
		{"a fault elsewhere", tree{apacheMain: "Include x", "/etc/apache2/x": "\n\n</X>"}, "/etc/apache2/x:3: </X>"},
		{"a file of a file", tree{apacheMain: "Include x", "/etc/apache2/x": "\n\nInclude y"}, "/etc/apache2/x:3: Include: /etc/apache2/y: file does not exist"},
		{"NUL", apacheConf("a\nb \x00c\n"), apacheMain + ":2: a NUL byte"},
		{"escapes are not shown raw", apacheConf("</\x1b[31m>"), `:1: "</\x1b[31m>"`},
		{"too large", apacheConf(strings.Repeat("#", maxFile+1)), "larger than"},
		{"a line of many words", apacheConf(strings.Repeat("a ", maxArgs+2)), ":1: more than 10000 arguments"},
		{"a value that grows", apacheConf("Define a xxxxxxxxxxxxxxxx\n" + strings.Repeat("Define a ${a}${a}${a}${a}${a}${a}${a}${a}\n", 20)), "the values of variables are too large"},
		{"values that grow together", apacheConf("Define a " + strings.Repeat("x", maxValue/2) + "\n" + strings.Repeat("b ${a}\n", 1000)), "the values of variables are too large"},
		{"a macro that grows", apacheConf("<Macro m $a>\nb " + strings.Repeat("$a", 100_000) + "\n</Macro>\nUse m " + strings.Repeat("x", 100_000)), ":4: the configuration is larger than"},
		{"macros in macros", apacheConf("<Macro m0>\na\n</Macro>\n" + macroTower(60) + "Use m60\n"), "macros and files in one another"},
		{"a tower of macros", apacheConf("<Macro m0>\na\na\na\na\na\na\na\na\n</Macro>\n" + strings.ReplaceAll(macroTower(20), "Use", "Use m0\nUse")), ""},
		{"too many files", apacheConf(strings.Repeat("Include /dev/null\n", maxFiles)), "files are included"},
		{"asks for too many files", apacheConf(strings.Repeat("<IfFile x>\n</IfFile>\n", maxFiles+1)), "files are asked for"},
		{"too many directives", apacheConf(strings.Repeat("a\n", maxDirectives+1)), fmt.Sprintf(":%d: more than %d directives", maxDirectives+1, maxDirectives)},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			a, err := ReadApache(c.files, apacheMain, ApacheOptions{})
			require.Less(t, time.Since(begin), time.Minute)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.Nil(t, a)
			require.ErrorContains(t, err, "cannot read the configuration of apache: ")
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\x1b")
		})
	}
	_, err := ReadApache(tree{}, "apache2.conf", ApacheOptions{})
	require.Error(t, err)
}

func macroTower(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&b, "<Macro m%d>\nUse m%d\n</Macro>\n", i, i-1)
	}
	return b.String()
}

// Sites without number, each with what makes a reader look at all others. Time
// of the processor counts, since the machine may be busy with something else;
// so no other test may run beside this one.
func TestApacheOfManySites(t *testing.T) {
	var b strings.Builder
	b.WriteString("LoadModule php_module modules/libphp.so\n")
	for i := range 1500 {
		fmt.Fprintf(&b, "Listen %d\nSetHandler proxy:fcgi://127.0.0.1:%d\n", 1000+i, 1000+i)
	}
	for i := range 10_000 {
		fmt.Fprintf(&b, "<VirtualHost *:* *:%d>\nServerName h%d\nSSLEngine on\n</VirtualHost>\n", 1000+i, i)
	}
	begin := processorTime(t)
	a := apache(t, apacheConf(b.String()), ApacheOptions{})
	require.Len(t, a.Servers(), 10_000)
	require.Len(t, a.Listens(), maxApacheListens)
	require.NotEmpty(t, a.FastCGI())
	a.ErrorLogs()
	require.Less(t, processorTime(t)-begin, 20*time.Second)
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestApacheSettings(t *testing.T) {
	t.Parallel()
	a := apache(t, tree{
		apacheMain: `
ServerRoot "/srv/apache"
ChrootDir /srv/jail/../jail/
PidFile run/${NAME}.pid
User web
User www
Group #44
ErrorLog logs/err.log
LoadModule mpm_prefork_module modules/mod_mpm_prefork.so
LoadModule php_module /usr/lib/php.so
LoadFile /usr/lib/libx.so.1 liby.so.2
LoadFile libz.so.3
DocumentRoot htdocs
Listen 80
<VirtualHost *:80>
	ServerName https://One.Example:443
	ServerAlias www.one.example *.one.example
	DocumentRoot /srv/one/
	ErrorLog "|/usr/bin/rotate /var/log/x"
	Listen 9
</VirtualHost>
<VirtualHost *:80>
	ErrorLog /srv/two.log
</VirtualHost>
<VirtualHost *:99>
	ErrorLog syslog:local1
</VirtualHost>
<VirtualHost *:80>
	ErrorLog /dev/stderr
	ErrorLog ../logs/three.log
</VirtualHost>
<VirtualHost *:80>
	ErrorLog /dev/null
</VirtualHost>
IfNothing ${UNKNOWN} ${int:x}
Listen nowhere
<VirtualHost a:b:c>
</VirtualHost>
<IfVersion >= 2.4.30>
</IfVersion>
<IfVersion < 2.4>
	Listen 81
</IfVersion>
<IfDirective Foo>
	Listen 82
</IfDirective>
<IfModule so_module>
	Listen 83
`,
		"/srv/apache/liby.so.2": "",
	}, ApacheOptions{Env: map[string]string{"NAME": "a"}})
	require.Equal(t, "/srv/apache", a.ServerRoot())
	require.Equal(t, "/srv/jail", a.ChrootDir())
	require.Equal(t, "/srv/apache/run/a.pid", a.PIDFile())
	require.Equal(t, "www", a.User())
	require.Equal(t, "#44", a.Group())
	require.Equal(t, "prefork", a.MPM())
	require.Equal(t, []string{"/srv/apache/logs/err.log", "/srv/two.log", "/srv/logs/three.log"}, a.ErrorLogs())
	require.Equal(t, []string{apacheMain}, a.Files())
	var modules []string
	for _, m := range a.Modules() {
		modules = append(modules, fmt.Sprintf("%s %s %d %v", m.Name, m.Path, m.Line, m.LoadFile))
	}
	require.Equal(t, []string{
		"mpm_prefork_module /srv/apache/modules/mod_mpm_prefork.so 9 false", "php_module /usr/lib/php.so 10 false",
		"libx.so.1 /usr/lib/libx.so.1 11 true", "liby.so.2 /srv/apache/liby.so.2 11 true", "libz.so.3 libz.so.3 12 true",
	}, modules)
	var listens []string
	for _, l := range a.Listens() {
		require.True(t, l.Any && l.Bind && !l.IPv6Only && l.Context == "http")
		listens = append(listens, fmt.Sprintf("%s:%d", l, l.Line))
	}
	require.Equal(t, []string{"[::]:80:14", "[::]:82:45", "[::]:83:48"}, listens)
	sites := a.Servers()
	require.Len(t, sites, 7)
	require.Equal(t, []string{"One.Example", "www.one.example", "*.one.example"}, sites[0].Names)
	require.Equal(t, "One.Example", sites[0].HostName())
	require.Equal(t, "/srv/one", sites[0].Root)
	require.Equal(t, "/srv/apache/htdocs", sites[1].Root)
	require.Empty(t, sites[2].Listens)
	require.Len(t, sites[6].Listens, 2, "the main server answers on what no host names")
	require.Equal(t, []string{
		apacheMain + `:35: the variable UNKNOWN is not defined`,
		apacheMain + `:39: <IfVersion >= 2.4.30> is taken to hold`,
		apacheMain + `:44: <IfDirective Foo> is taken to hold`,
		apacheMain + `:47: <IfModule> is not closed`,
		apacheMain + `:36: the address nowhere is not one to listen on`,
		apacheMain + `:37: the address a:b:c is not one of a virtual host`,
	}, a.Warnings())

	a = apache(t, apacheConf(""), ApacheOptions{})
	require.Equal(t, []string{"/etc/apache2/logs/error_log"}, a.ErrorLogs())
	require.Empty(t, a.PIDFile()+a.User()+a.Group()+a.MPM()+a.ChrootDir())
	require.Empty(t, a.Listens())
	require.Empty(t, a.Servers())
	require.Empty(t, a.FastCGI())
}

func TestApacheVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ test, want string }{
		{">= 2.4", "yes"}, {"< 2.4", "no"}, {"!< 2.4", "yes"}, {"> 2.4", "yes"}, {"<= 2.4", "no"}, {"2.4", "no"}, {"= 2.2", "no"}, {"!= 2.2", "yes"},
		{">= 2.5", "no"}, {">= 2.4.10", "maybe"}, {"= 2.4.10", "maybe"}, {"!= 2.4.10", "maybe"}, {"2.4.10", "maybe"}, {"< 2.4.10", "maybe"},
		{"~ 2.4.5", "maybe"}, {"~ ^2\\.4", "yes"}, {"= /^2\\.4\\./", "yes"}, {"~ ^2\\.4\\.5", "maybe"}, {"!~ ^2\\.4", "no"}, {"~ (", "maybe"}, {"= a", "maybe"}, {"? 1", "maybe"}, {"> 1.2.3.4", "maybe"},
	} {
		a, err := readApache(apacheConf("<IfVersion "+c.test+">\nListen 80\n</IfVersion>"), apacheMain, ApacheOptions{}, func(*apacheReader) {})
		require.NoError(t, err)
		got := map[bool]string{true: "yes", false: "no"}[len(a.Listens()) == 1]
		if len(a.Warnings()) > 0 {
			require.Equal(t, "yes", got, c.test)
			got = "maybe"
		}
		require.Equal(t, c.want, got, c.test)
	}
	a := apache(t, apacheConf("<IfVersion 2.4.10>\nListen 80\n</IfVersion>"), ApacheOptions{Version: "2.4.10"})
	require.Len(t, a.Listens(), 1)
	require.Empty(t, a.Warnings())
}

func TestApacheListenFlags(t *testing.T) {
	t.Parallel()
	head := "LoadModule ssl_module x/mod_ssl.so\nLoadModule http2_module x/mod_http2.so\nLoadModule remoteip_module x/mod_remoteip.so\n"
	for _, c := range []struct{ text, want string }{
		{"Listen 80", "[::]:80"},
		{"SSLEngine on\nListen 80", "[::]:80 ssl"},
		{"SSLEngine on\nProtocols h2 http/1.1\nListen [::1]:80", "[::1]:80 ssl http2 ipv6only"},
		{"SSLEngine on\nProtocols h2 http/1.1\nLoadModule mpm_prefork_module x/mod_mpm_prefork.so\nListen 10.0.0.1:80", "10.0.0.1:80 ssl"},
		{"Protocols h2c http/1.1\nListen 80", "[::]:80"},
		{"RemoteIPProxyProtocol On\nListen 80 http", "[::]:80 proxy"},
		{"Listen 21 ftp", "[::]:21 stream"},
		{"Listen 80 options=reuseport", "[::]:80"},
		{"Listen www.example:80", "www.example:80 name"},
		{"Listen [fe80::1%lo]:80", "[fe80::1%lo]:80 ipv6only"},
		{"Listen 80\nListen 80\nListen 0.0.0.0:80\nListen 0.0.0.0:81", "[::]:80, 0.0.0.0:81"},
		{"Listen 0\nListen 65536\nListen\nListen ''\nListen [::1]\nListen 1.2.3.4\nListen :80\nListen a b:1\nListen 80a\nListen [::\nListen ${x}:1\nListen a/b:1\nListen 1.2.3.4:", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			var got []string
			for _, l := range Sockets(apache(t, apacheConf(head+c.text), ApacheOptions{}).Listens()) {
				s := l.String()
				for _, f := range []struct {
					on   bool
					name string
				}{{l.SSL, "ssl"}, {l.HTTP2, "http2"}, {l.ProxyProtocol, "proxy"}, {l.IPv6Only, "ipv6only"}, {l.ByName, "name"}, {l.Context == "stream", "stream"}} {
					if f.on {
						s += " " + f.name
					}
				}
				got = append(got, s)
			}
			require.Equal(t, c.want, strings.Join(got, ", "))
		})
	}
	require.False(t, apache(t, apacheConf("SSLEngine on\nListen 80"), ApacheOptions{}).Listens()[0].SSL, "no module, no TLS")
}
