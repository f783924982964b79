package webconf

import (
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree is an FS out of a map from path to content.
type tree map[string]string

func (t tree) ReadFile(name string, limit int64) ([]byte, error) {
	data, ok := t[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return []byte(data), nil
}

func (t tree) ReadDir(name string) ([]string, error) {
	set := map[string]bool{}
	for file := range t {
		for dir := path.Dir(file); ; dir = path.Dir(dir) {
			if dir == name {
				rest := strings.TrimPrefix(strings.TrimPrefix(file, name), "/")
				first, _, _ := strings.Cut(rest, "/")
				set[first] = true
			}
			if dir == "/" {
				break
			}
		}
	}
	if len(set) == 0 {
		return nil, fs.ErrNotExist
	}
	var list []string
	for n := range set {
		list = append(list, n)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(list)))
	return list, nil
}

func read(t *testing.T, files tree) *Nginx {
	t.Helper()
	n, err := ReadNginx(files, "/etc/nginx/nginx.conf", "/usr/share/nginx")
	require.NoError(t, err)
	return n
}

func conf(text string) tree { return tree{"/etc/nginx/nginx.conf": text} }

// flat writes a tree on one line: name arg|arg; and name{ ... }.
func flat(list []*Directive) string {
	var b strings.Builder
	for _, d := range list {
		b.WriteString(strings.Join(append([]string{d.Name}, d.Args...), "|"))
		if d.IsBlock {
			b.WriteString("{" + flat(d.Block) + "}")
			continue
		}
		b.WriteString(";")
	}
	return b.String()
}

func TestNginxLanguage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", ""},
		{"comment only", "# nothing", ""},
		{"simple", "user www-data;", "user|www-data;"},
		{"no blank before brace", "http{server{listen 80;}}", "http{server{listen|80;}}"},
		{"comment between arguments", "a b # c;\n d;", "a|b|d;"},
		{"hash within a word", "a b#c;", "a|b#c;"},
		{"quotes", `a "b c" 'd "e"';`, `a|b c|d "e";`},
		{"quotes over lines", "a 'b\nc'; d;", "a|b\nc;d;"},
		{"quote within a word", `a b"c;`, `a|b"c;`},
		{"escapes", `a \"b\" "c\nd\.";`, "a|\"b\"|c\nd\\.;"},
		{"escaped blank and end", `a b\ c\;d;`, `a|b\ c\;d;`},
		{"variable in braces", `a ${b}c $d{e;}`, `a|${b}c|$d{e;}`},
		{"log format", `log_format x '$a - "$b"' '$c';`, `log_format|x|$a - "$b"|$c;`},
		{"if", `if ($a ~ "^b{2}") { return 403; }`, `if|($a|~|^b{2}|){return|403;}`},
		{"closing brace in a word", "a b}c;", "a|b}c;"},
		{"carriage returns", "a b;\r\nc;\r\n", "a|b;c;"},
		{"byte order mark", "\xef\xbb\xbfa;", "a;"},
		{"not utf-8", "a \xff\xfe;", "a|\xff\xfe;"},
		{"tables are read and dropped", "types { a/b c; } geo $x { 1.2.3.4 y; } map $y $z { ~^a b; }", "types{}geo|$x{}map|$y|$z{~^a|b;}"},
		{
			"lua", "content_by_lua_block { local s = \"}\" -- }\n --[[ } ]] x = [==[ }} ]==] if a then t = {1} end } b;",
			"content_by_lua_block{}b;",
		},
		{"unknown modules", "foo_bar x { baz; } quux { { }", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := ReadNginx(conf(c.text), "/etc/nginx/nginx.conf", "")
			if c.name == "unknown modules" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, flat(n.Directives))
		})
	}
}

func TestNginxFaults(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("a {", maxDepth+1) + strings.Repeat("}", maxDepth+1)
	for _, c := range []struct {
		name  string
		files tree
		want  string
	}{
		{"no file", tree{}, "/etc/nginx/nginx.conf: file does not exist"},
		{"open block", conf("http {\n server {\n }\n"), "/etc/nginx/nginx.conf:1: the block of http is not closed"},
		{"open lua", conf("a_by_lua_block { '}' "), ":1: the block of a_by_lua_block is not closed"},
		{"extra brace", conf("a;\n}"), `:2: unexpected "}"`},
		{"no semicolon", conf("a;\nb c"), ":2: unexpected end of file after b"},
		{"no semicolon in a block", conf("a {\nb c\n}"), `:3: unexpected "}" after b`},
		{"lone semicolon", conf("a;;"), `unexpected ";"`},
		{"lone brace", conf("{}"), `unexpected "{"`},
		{"open quote", conf("a;\nb 'c"), ":2: unexpected end of file within quotes"},
		{"glued quote", conf(`a "b"c;`), "unexpected c after a closing quote"},
		{"deep", conf(deep), "more than 100 blocks"},
		{"missing include", conf("\ninclude no.conf;"), "/etc/nginx/nginx.conf:2: include: /etc/nginx/no.conf: file does not exist"},
		{"own include", conf("include nginx.conf;"), ":1: /etc/nginx/nginx.conf includes itself"},
		{"ring of includes", tree{
			"/etc/nginx/nginx.conf": "include /etc/nginx/a/*.conf;", "/etc/nginx/a/x.conf": "include b;", "/etc/nginx/b": "\ninclude a/x.conf;",
		}, "/etc/nginx/b:2: /etc/nginx/a/x.conf includes itself"},
		{"fault in an include", tree{"/etc/nginx/nginx.conf": "include x;", "/etc/nginx/x": "\n\n}"}, `/etc/nginx/x:3: unexpected "}"`},
		{"escapes are not shown raw", conf("\x1b[31m"), `after "\x1b[31m"`},
		{"too large", conf(strings.Repeat("#", maxFile+1)), "larger than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := ReadNginx(c.files, "/etc/nginx/nginx.conf", "/p")
			require.Nil(t, n)
			require.ErrorContains(t, err, "cannot read the configuration of nginx: ")
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := ReadNginx(tree{}, "nginx.conf", "")
	require.Error(t, err)
	_, err = ReadNginx(tree{}, "/nginx.conf", "p")
	require.Error(t, err)
}

func TestNginxIncludes(t *testing.T) {
	t.Parallel()
	n := read(t, tree{
		"/etc/nginx/nginx.conf":            "include modules-enabled/*.conf;\nhttp { include sites-[!x]*/*; include none/*; include mime; include /srv/?/web.conf; }",
		"/etc/nginx/mime":                  "types { a b; }",
		"/etc/nginx/sites-on/b":            "server { listen 2; }",
		"/etc/nginx/sites-on/a":            "\nserver { listen 1; }",
		"/etc/nginx/sites-on/.hidden":      "server { listen 3; }",
		"/etc/nginx/sites-x/c":             "server { listen 4; }",
		"/srv/a/web.conf":                  "server { listen 5; include /etc/nginx/snip; }",
		"/srv/b/other.conf":                "server { listen 6; }",
		"/etc/nginx/snip":                  "root /x;",
		"/etc/nginx/modules-enabled/m.cfg": "load_module no;",
	})
	require.Equal(t, []string{
		"/etc/nginx/nginx.conf", "/etc/nginx/sites-on/a", "/etc/nginx/sites-on/b", "/etc/nginx/mime", "/srv/a/web.conf", "/etc/nginx/snip",
	}, n.Files)
	var got []string
	for _, l := range n.Listens() {
		got = append(got, fmt.Sprintf("%s %s:%d", l, l.File, l.Line))
	}
	require.Equal(t, []string{
		"0.0.0.0:1 /etc/nginx/sites-on/a:2", "0.0.0.0:2 /etc/nginx/sites-on/b:1", "0.0.0.0:5 /srv/a/web.conf:1",
	}, got)
	require.Equal(t, "/x", n.Servers()[2].Root)
}

func TestNginxIncludeAmplification(t *testing.T) {
	t.Parallel()
	files := tree{"/etc/nginx/nginx.conf": strings.Repeat("include a;", 300)}
	files["/etc/nginx/a"] = strings.Repeat("include b;", 300)
	files["/etc/nginx/b"] = strings.Repeat("x;", 300)
	_, err := ReadNginx(files, "/etc/nginx/nginx.conf", "")
	require.ErrorContains(t, err, "more than")
}

func TestNginxListens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"http { server { } }", "http tcp 0.0.0.0:80"},
		{"http { server { listen 8080; } }", "http tcp 0.0.0.0:8080"},
		{"http { server { listen *:8080 default_server; } }", "http tcp 0.0.0.0:8080 default"},
		{"http { server { listen 127.0.0.1; } }", "http tcp 127.0.0.1:80"},
		{"http { server { listen 127.0.0.1:81; } }", "http tcp 127.0.0.1:81"},
		{"http { server { listen [::]:82; } }", "http tcp [::]:82 ipv6only"},
		{"http { server { listen [::1]; } }", "http tcp [::1]:80 ipv6only"},
		{"http { server { listen [0:0::0001]:5; } }", "http tcp [::1]:5 ipv6only"},
		{"http { server { listen [::]:80 ipv6only=off; } }", "http tcp [::]:80 bind"},
		{"http { server { listen localhost:8000; } }", "http tcp localhost:8000 name"},
		{"http { server { listen localhost; } }", "http tcp localhost:80 name"},
		{"http { server { listen my-host; } }", "http tcp my-host:80 name"},
		{"http { server { listen unix:/run/x.sock; } }", "http unix unix:/run/x.sock"},
		{"http { server { listen 443 ssl http2; } }", "http tcp 0.0.0.0:443 ssl http2"},
		{"http { server { listen 443; ssl on; http2 on; } }", "http tcp 0.0.0.0:443 ssl http2"},
		{"http { ssl on; server { listen 443; } server { listen 80; ssl off; } }", "http tcp 0.0.0.0:443 ssl, http tcp 0.0.0.0:80"},
		{"http { server { listen 443 quic reuseport; } }", "http udp udp 0.0.0.0:443 quic reuseport bind"},
		{"http { server { listen 80 proxy_protocol backlog=511; } }", "http tcp 0.0.0.0:80 proxy bind"},
		{"http { server { listen 8000-8002; } }", "http tcp 0.0.0.0:8000, http tcp 0.0.0.0:8001, http tcp 0.0.0.0:8002"},
		{"stream { server { listen 53 udp; } server { listen 127.0.0.1:12345; } server { } }", "stream udp udp 0.0.0.0:53, stream tcp 127.0.0.1:12345"},
		{"mail { server { listen 143; } }", "mail tcp 0.0.0.0:143"},
		{"http { upstream u { server 1.2.3.4:5; } server { listen 1; } }", "http tcp 0.0.0.0:1"},
		{"http { server { listen 0; listen 65536; listen ''; listen [::; listen a:b:c; listen $x; listen :80; listen unix:; listen 9-8; listen; } }", ""},
		{"events { } server { listen 1; }", ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			var got []string
			for _, l := range read(t, conf(c.text)).Listens() {
				s := l.Context + " " + l.Network + " " + l.String()
				for _, f := range []struct {
					on   bool
					name string
				}{
					{l.SSL, "ssl"}, {l.HTTP2, "http2"}, {l.QUIC, "quic"}, {l.ProxyProtocol, "proxy"}, {l.ReusePort, "reuseport"},
					{l.Default, "default"}, {l.Bind, "bind"}, {l.IPv6Only, "ipv6only"}, {l.ByName, "name"},
				} {
					if f.on {
						s += " " + f.name
					}
				}
				got = append(got, s)
			}
			require.Equal(t, c.want, strings.Join(got, ", "))
		})
	}
}

func TestSockets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"server { listen 80; } server { listen 80 ssl; }", "0.0.0.0:80 ssl"},
		{"server { listen 127.0.0.1:80; } server { listen *:80; }", "0.0.0.0:80"},
		{"server { listen 127.0.0.1:80 bind; } server { listen *:80; }", "127.0.0.1:80, 0.0.0.0:80"},
		{"server { listen 127.0.0.1:81; } server { listen *:80; }", "127.0.0.1:81, 0.0.0.0:80"},
		{"server { listen [::1]:80; } server { listen *:80; }", "[::1]:80, 0.0.0.0:80"},
		{"server { listen [::1]:80; listen [::]:80; }", "[::]:80"},
		{"server { listen 443 quic; listen 443 ssl; }", "udp 0.0.0.0:443, 0.0.0.0:443 ssl"},
		{"server { listen unix:/a; } server { listen unix:/a; }", "unix:/a"},
	} {
		t.Run(c.text, func(t *testing.T) {
			var got []string
			for _, l := range Sockets(read(t, conf("http {"+c.text+"}")).Listens()) {
				s := l.String()
				if l.SSL {
					s += " ssl"
				}
				got = append(got, s)
			}
			require.Equal(t, c.want, strings.Join(got, ", "))
		})
	}
}

func TestNginxSettings(t *testing.T) {
	t.Parallel()
	n := read(t, conf(`
user web staff;
pid run/nginx.pid;
daemon off; master_process off;
load_module modules/ngx_a.so;
load_module /usr/lib/b.so;
error_log logs/error.log warn;
error_log stderr;
http {
	error_log syslog:server=log.example:514,tag=x;
	access_log off;
	access_log /var/log/a.log combined;
	access_log /var/log/$host.log;
	upstream app { server one.example:8080 weight=2; server 10.0.0.1; server unix:/run/app.sock; server [::1]:3; }
	resolver 8.8.8.8 ns.example valid=30s;
	server {
		server_name _ ~^x *.shop.example plain.example;
		root html;
		ssl_certificate certs/a.pem; ssl_certificate_key /k.pem;
		return 301 https://$host$request_uri;
		error_log stderr;
		location / { proxy_pass http://app/x; }
		location /b { proxy_pass https://Two.example/y; fastcgi_pass three.example:9000; }
		location /c { proxy_pass http://$backend; grpc_pass grpc://four.example; proxy_pass http://five.example$request_uri; }
		set_real_ip_from 10.0.0.0/8;
	}
}`))
	require.Equal(t, "/usr/share/nginx/run/nginx.pid", n.PIDFile())
	user, group := n.User()
	require.Equal(t, []string{"web", "staff", "web"}, []string{user, group, n.WorkerUser()})
	require.False(t, n.Daemon())
	require.False(t, n.Master())
	var modules []string
	for _, m := range n.Modules() {
		modules = append(modules, fmt.Sprintf("%s %s %s:%d", m.Name, m.Path, m.File, m.Line))
	}
	require.Equal(t, []string{
		"ngx_a /usr/share/nginx/modules/ngx_a.so /etc/nginx/nginx.conf:5", "b /usr/lib/b.so /etc/nginx/nginx.conf:6",
	}, modules)
	require.Equal(t, []string{"/usr/share/nginx/logs/error.log", "stderr", "syslog:server=log.example:514,tag=x"}, n.ErrorLogs())
	require.Equal(t, []string{"/var/log/a.log", "/var/log/$host.log"}, n.AccessLogs())
	require.Equal(t, []string{"one.example", "two.example", "three.example", "four.example", "ns.example", "log.example"}, sorted(n.HostNames(),
		"one.example", "two.example", "three.example", "four.example", "ns.example", "log.example"))
	v := n.Servers()[0]
	require.Equal(t, "/usr/share/nginx/html", v.Root)
	require.Equal(t, []string{"/etc/nginx/certs/a.pem"}, v.Certificates)
	require.Equal(t, []string{"/k.pem"}, v.Keys)
	require.Equal(t, []string{"301", "https://$host$request_uri"}, v.Return)
	require.Equal(t, "www.shop.example", v.HostName())

	n = read(t, conf(""))
	require.Equal(t, "", n.PIDFile())
	require.Equal(t, "", n.WorkerUser())
	require.True(t, n.Daemon())
	require.True(t, n.Master())
	require.Empty(t, n.Listens())
}

// sorted puts the elements of got into the order of want, what is unknown last.
func sorted(got []string, want ...string) []string {
	rank := func(s string) int {
		for i, w := range want {
			if w == s {
				return i
			}
		}
		return len(want)
	}
	sort.SliceStable(got, func(i, j int) bool { return rank(got[i]) < rank(got[j]) })
	return got
}

func TestHostName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ names, want string }{
		{"", ""}, {"_", ""}, {"a.example b.example", "a.example"}, {"~^(.*)$ b.example", "b.example"}, {".a.example", "a.example"},
		{"*.a.example", "www.a.example"}, {"mail.*", "mail.invalid"}, {"$hostname", ""}, {"a/b c.example", "c.example"}, {"\x1b[2J", ""}, {"a:b", ""},
	} {
		require.Equal(t, c.want, VHost{Names: strings.Fields(c.names)}.HostName(), c.names)
	}
}

func FuzzNginx(f *testing.F) {
	f.Add("http { include /etc/nginx/b; server { listen [::]:80 ssl; server_name *.a; } }", "listen 80-90 udp; x_by_lua_block { [=[ }")
	f.Add("include *;", "a 'b\\")
	f.Add("a \"b\" ${c} \\", "types { }")
	f.Add("stream { server { listen unix:x; proxy_pass $a:1; } }", "}")
	f.Fuzz(func(t *testing.T, main, other string) {
		files := tree{"/etc/nginx/nginx.conf": main, "/etc/nginx/b": other, "/etc/nginx/[x": other}
		n, err := ReadNginx(files, "/etc/nginx/nginx.conf", "/p")
		if err != nil {
			for _, r := range err.Error() {
				if r < ' ' {
					t.Fatalf("raw control character in %q", err)
				}
			}
			return
		}
		for _, l := range n.Listens() {
			if l.Network != "unix" && (l.Port < 1 || l.Port > 65535 || l.Address == "") {
				t.Fatalf("listen %+v", l)
			}
		}
		Sockets(n.Listens())
		for _, s := range n.Servers() {
			s.HostName()
		}
		n.HostNames()
		n.ErrorLogs()
		n.AccessLogs()
		n.Modules()
		walk(n.Directives, nil, func(d, _ *Directive) {
			if d.Line < 1 || d.File == "" {
				t.Fatalf("no position: %+v", d)
			}
		})
	})
}
