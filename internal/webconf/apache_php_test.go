package webconf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestApachePHP(t *testing.T) {
	t.Parallel()
	const mod = "LoadModule php_module x/libphp.so\n"
	const set = "SetHandler application/x-httpd-php\n"
	site := func(inside string) string {
		return "Listen 80\n<VirtualHost *:80>\nDocumentRoot /srv/www\n" + inside + "</VirtualHost>\n"
	}
	for _, c := range []struct {
		text string
		php  bool
		want string
	}{
		{site(""), false, ""},
		{mod + site(""), false, ""},
		{set + site(""), false, ""},
		{mod + set + site(""), true, ""},
		{"LoadModule php7_module x/libphp7.4.so\n" + set + site(""), true, ""},
		{mod + "<FilesMatch \".+\\.ph(?:ar|p|tml)$\">\n" + set + "</FilesMatch>\n" + site(""), true, ""},
		{mod + "<FilesMatch \".+\\.phps$\">\nSetHandler application/x-httpd-php-source\n</FilesMatch>\n" + site(""), false, ""},
		{mod + "<FilesMatch \"\\.html$\">\n" + set + "</FilesMatch>\n" + site(""), false, ""},
		{mod + site("<Files *.php>\n"+set+"</Files>\n"), true, ""},
		{mod + site("<Files ~ \"\\.inc$\">\n"+set+"</Files>\n"), false, ""},
		{mod + site("<Directory /srv/www/app>\n"+set+"</Directory>\n"), true, ""},
		{mod + site("<Directory /opt/app>\n"+set+"</Directory>\n"), false, ""},
		{mod + site("AddHandler php-script .php .inc\n"), true, ""},
		{mod + site("AddType application/x-httpd-php .phtml\n"), false, ""},
		{mod + site("AddType application/x-httpd-php php\n"), true, ""},
		{mod + set + site("php_admin_flag engine off\n"), false, ""},
		{mod + set + "php_flag engine off\n" + site("php_flag engine on\n"), true, ""},
		{mod + set + "php_flag engine off\n" + site(""), false, ""},
		{mod + site("") + "<VirtualHost *:81>\n" + set + "</VirtualHost>\n", false, ""},
		{site("AddHandler fcgid-script .php\n"), true, ""},
		{"<FilesMatch \\.php$>\nSetHandler \"proxy:unix:/run/php.sock|fcgi://localhost\"\n</FilesMatch>\n" + site(""), true, "unix /run/php.sock /srv/www 2"},
		{"DefaultRuntimeDir /run\n" + site("AddHandler \"proxy:unix:php.sock|fcgi://localhost/\" .php\n"), true, "unix /run/php.sock /srv/www 5"},
		{site("SetHandler proxy:fcgi://127.0.0.1:9000\n"), true, "tcp 127.0.0.1:9000 /srv/www 4"},
		{site("SetHandler proxy:fcgi://[::1]/\n"), true, "tcp [::1]:8000 /srv/www 4"},
		{site("ProxyPassMatch ^/(.*\\.php)$ fcgi://127.0.0.1:9000/srv/www/$1\n"), true, "tcp 127.0.0.1:9000 /srv/www 4"},
		{site("ProxyPassMatch ^/app.pl$ fcgi://127.0.0.1:9000/srv/www\n"), false, "tcp 127.0.0.1:9000 /srv/www 4"},
		{site("ProxyPass / unix:/run/a.sock|fcgi://localhost/srv\n"), true, "unix /run/a.sock /srv/www 4"},
		{site("ProxyPass / http://127.0.0.1:9000/\nProxyPass /x !\n"), false, ""},
		{site("<Location /app>\nProxyPass fcgi://127.0.0.1:9000/x\n</Location>\n"), true, "tcp 127.0.0.1:9000 /srv/www 5"},
		{site("<LocationMatch \\.php$>\nSetHandler proxy:fcgi://127.0.0.1:9000\n</LocationMatch>\n"), true, "tcp 127.0.0.1:9000 /srv/www 5"},
		{site("RewriteRule ^/(.*\\.php)$ fcgi://127.0.0.1:9000/srv/$1 [P]\n"), true, "tcp 127.0.0.1:9000 /srv/www 4"},
		{site("<Proxy balancer://App/>\nBalancerMember fcgi://127.0.0.1:1\nBalancerMember fcgi://127.0.0.1:2\nBalancerMember http://127.0.0.1:3\n</Proxy>\nProxyPass / balancer://app/\n"), true, "tcp 127.0.0.1:1 /srv/www 5, tcp 127.0.0.1:2 /srv/www 6"},
		{site("FastCgiExternalServer /x -socket /run/x.sock\nFastCgiExternalServer /y -host a:1\n"), false, "unix /run/x.sock /srv/www 4, tcp a:1 /srv/www 5"},
		{site("<If \"%{REQUEST_URI} =~ /x/\">\nSetHandler proxy:fcgi://a:1\n</If>\n"), true, "tcp a:1 /srv/www 5"},
		{site("SetHandler proxy:fcgi://$1:9000/\nSetHandler proxy:unix:/run/x|http://x\nSetHandler proxy:unix:|fcgi://x\nSetHandler\n"), false, ""},
		{site("<Directory /usr/share/app>\nSetHandler proxy:fcgi://a:1\n</Directory>\n"), false, "tcp a:1  5"},
		{
			site("") + "<VirtualHost *:80>\nDocumentRoot /srv/two\nSetHandler proxy:fcgi://b:1\n</VirtualHost>\nSetHandler proxy:fcgi://a:1\n", true,
			"tcp a:1 /srv/www 9, tcp b:1 /srv/two 7, tcp a:1 /srv/two 9",
		},
		{"DocumentRoot /srv\nListen 80\nSetHandler proxy:fcgi://a:1\n", true, "tcp a:1 /srv 3"},
	} {
		t.Run(c.text, func(t *testing.T) {
			a := apache(t, apacheConf(c.text), ApacheOptions{})
			require.Equal(t, c.php, a.Servers()[0].PHP)
			var got []string
			for _, f := range a.FastCGI() {
				require.Equal(t, apacheMain, f.File)
				got = append(got, fmt.Sprintf("%s %s %s %d", f.Network, f.Address, f.Root, f.Line))
			}
			require.Equal(t, c.want, strings.Join(got, ", "))
		})
	}
}

func TestNginxFastCGI(t *testing.T) {
	t.Parallel()
	n := read(t, conf(`
http {
	root /srv;
	fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
	upstream php { server unix:/run/a.sock; server 10.0.0.1:9000 weight=2; server host; }
	server {
		root html;
		location ~ \.php$ { fastcgi_pass unix:/run/php.sock; }
		location ~ \.pl$ { fastcgi_param A b; fastcgi_pass 127.0.0.1:1; }
		location /app {
			alias /opt/app;
			fastcgi_param SCRIPT_FILENAME /opt/app/index.php;
			location ~* ^/app/.*\.PHP { fastcgi_pass [::1]:2; }
			if ($x) { root /x$y; fastcgi_param B c; fastcgi_pass php; }
		}
		location /v { fastcgi_pass $upstream; fastcgi_pass nowhere; }
	}
	server { location = /x.php { fastcgi_pass localhost:3; } }
	server { location ~ ^/(status|ping)$ { fastcgi_pass unix:/run/php.sock; } location =/y { fastcgi_pass a:1; } }
	server { location @php { fastcgi_pass b:1; } }
	server { location ~(a { fastcgi_pass c:1; } }
}
stream { server { listen 1; proxy_pass a:1; } }`))
	var got []string
	for _, f := range n.FastCGI() {
		require.Equal(t, "/etc/nginx/nginx.conf", f.File)
		got = append(got, fmt.Sprintf("%d %s %s %q %q", f.Line, f.Network, f.Address, f.ScriptFilename, f.Root))
	}
	const script = "$document_root$fastcgi_script_name"
	require.Equal(t, []string{
		`8 unix /run/php.sock "` + script + `" "/usr/share/nginx/html"`,
		`9 tcp 127.0.0.1:1 "" "/usr/share/nginx/html"`,
		`13 tcp [::1]:2 "/opt/app/index.php" "/opt/app"`,
		`14 unix /run/a.sock "" ""`,
		`14 tcp 10.0.0.1:9000 "" ""`,
		`14 tcp host:80 "" ""`,
		`18 tcp localhost:3 "` + script + `" "/srv"`,
		`19 unix /run/php.sock "` + script + `" "/srv"`,
		`19 tcp a:1 "` + script + `" "/srv"`,
		`20 tcp b:1 "` + script + `" "/srv"`,
		`21 tcp c:1 "` + script + `" "/srv"`,
	}, got)
	var php []bool
	var roots []string
	for _, s := range n.Servers() {
		php = append(php, s.PHP)
		roots = append(roots, s.Root)
	}
	require.Equal(t, []bool{true, true, false, true, true, false}, php)
	require.Equal(t, []string{"/usr/share/nginx/html", "/srv", "/srv", "/srv", "/srv", ""}, roots)
}
