package webconf

import (
	"strings"
	"testing"
)

func FuzzApache(f *testing.F) {
	f.Add("Define a b\nInclude x*/[a-z]\n<IfModule !m>\nListen ${a}:80\n</IfModule>", "<VirtualHost *:80>\nServerName a\n</VirtualHost>\n", "export A=${B:-c}")
	f.Add("<Macro m $a @b>\nListen $a\nUse m\n</Macro>\nUse m 80 'x\\'y'", "<IfVersion > 2.4.1>\n", "if [ a = b ]; then A=1; fi")
	f.Add("LoadModule ssl_module x\nSSLEngine on\nListen 80\nListen [::1]:81\n<VirtualHost [::1]:* a:81 _default_>\nSetHandler proxy:unix:x|fcgi://y\n</VirtualHost>", "\\", "`")
	f.Add("Use \\\n\"\\\"\"\r\n<Files ~ \"(\">\nProxyPass balancer://a\n</Files>\n<Proxy balancer://a>\nBalancerMember fcgi://b", "Include /etc/b", "A='")
	f.Fuzz(func(t *testing.T, main, other, env string) {
		files := tree{apacheMain: main, "/etc/b": other, "/etc/apache2/xy/z": other, envvarsPath: env}
		vars, err := ReadEnvVars(files, envvarsPath)
		if err != nil {
			t.Fatal(err)
		}
		for name := range vars {
			if !variableName(name) {
				t.Fatalf("a variable called %q", name)
			}
		}
		a, err := ReadApache(files, apacheMain, ApacheOptions{Env: vars, Defines: []string{"D"}})
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Fatalf("raw control character in %q", err)
			}
			return
		}
		for _, l := range a.Listens() {
			if l.Port < 1 || l.Port > 65535 || l.Address == "" || l.Line < 1 {
				t.Fatalf("listen %+v", l)
			}
		}
		Sockets(a.Listens())
		for _, s := range a.Servers() {
			s.HostName()
			for _, l := range s.Listens {
				if l.Port < 1 || l.Address == "" {
					t.Fatalf("listen %+v of %+v", l, s)
				}
			}
		}
		for _, p := range append(a.ErrorLogs(), a.ChrootDir(), a.PIDFile()) {
			if p != "" && p[0] != '/' {
				t.Fatalf("the path %q is not absolute", p)
			}
		}
		for _, g := range a.FastCGI() {
			if g.Network == "unix" && !strings.HasPrefix(g.Address, "/") || g.Address == "" || g.Line < 1 {
				t.Fatalf("FastCGI %+v", g)
			}
		}
		for _, w := range a.Warnings() {
			if strings.ContainsFunc(w, func(r rune) bool { return r < ' ' }) {
				t.Fatalf("raw control character in %q", w)
			}
		}
		a.Modules()
		walk(a.Directives, nil, func(d, _ *Directive) {
			if d.Line < 1 || d.File == "" {
				t.Fatalf("no position: %+v", d)
			}
		})
	})
}
