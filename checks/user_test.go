package checks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/jailup/jailup/internal/webconf"
)

func TestUserConfig(t *testing.T) {
	t.Parallel()
	var c Config
	require.NoError(t, yaml.Unmarshal([]byte(`
checks:
  - name: shop
    url: https://shop.example/health?x=1
    address: 127.0.0.1:8443
    status: 204
    body: ok$
    max-time: 1500ms
  - path: /status
    host: intern.example
  - tcp: "[::1]:6379"
skip: [log, "http 0.0.0.0:80 old.example"]
`), &c))
	require.NoError(t, c.Validate())
	require.Equal(t, 1500*time.Millisecond, c.Checks[0].MaxTime)
	target := Target{
		Listens: []webconf.Listen{{Context: "http", Network: "tcp", Address: "0.0.0.0", Port: 80}},
		VHosts: []webconf.VHost{
			{Names: []string{"a.example"}, Listens: []webconf.Listen{{Context: "http", Network: "tcp", Address: "0.0.0.0", Port: 80}}},
			{Names: []string{"old.example"}, Listens: []webconf.Listen{{Context: "http", Network: "tcp", Address: "0.0.0.0", Port: 80}}},
		},
		ErrorLogs: []ErrorLog{{Path: "/var/log/x"}},
	}
	set, err := Standard(target, c)
	require.NoError(t, err)
	var names []string
	for _, c := range set.Checks() {
		names = append(names, c.Name())
	}
	require.Equal(t, []string{"http 0.0.0.0:80 a.example", "shop", "http intern.example/status", "tcp [::1]:6379"}, names)
	shop := set.Checks()[1].(*httpCheck)
	require.Equal(t, []string{"127.0.0.1:8443", "shop.example", "/health?x=1"}, []string{shop.address, shop.host, shop.path})
	require.True(t, shop.tls)
	require.Empty(t, set.Mark())
}

func TestUserConfigFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{Checks: []UserCheck{{}}}, "checks[0].url: exactly one of url, path and tcp is needed, 0 are given"},
		{Config{Checks: []UserCheck{{TCP: "a:1"}, {URL: "http://a", Path: "/"}}}, "checks[1].url: exactly one"},
		{Config{Checks: []UserCheck{{URL: "ftp://a"}}}, "checks[0].url: \"ftp://a\" does not begin"},
		{Config{Checks: []UserCheck{{URL: "http://"}}}, "checks[0].url: "},
		{Config{Checks: []UserCheck{{URL: "http://a:99999/"}}}, "checks[0].url: "},
		{Config{Checks: []UserCheck{{URL: "http://u:p@a/"}}}, "checks[0].url: a user name"},
		{Config{Checks: []UserCheck{{URL: "http://a\x1b/"}}}, "checks[0].url: "},
		{Config{Checks: []UserCheck{{Path: "x"}}}, "checks[0].path: \"x\" does not begin with /"},
		{Config{Checks: []UserCheck{{TCP: "a"}}}, "checks[0].tcp: \"a\" is not HOST:PORT"},
		{Config{Checks: []UserCheck{{TCP: "a:0"}}}, "checks[0].tcp: "},
		{Config{Checks: []UserCheck{{TCP: "a:1", Status: 200}}}, "checks[0].status: means nothing beside tcp"},
		{Config{Checks: []UserCheck{{Path: "/", Address: "x"}}}, "checks[0].address: "},
		{Config{Checks: []UserCheck{{Path: "/", Host: "a b"}}}, "checks[0].host: "},
		{Config{Checks: []UserCheck{{Path: "/", Status: 99}}}, "checks[0].status: 99 is no HTTP status"},
		{Config{Checks: []UserCheck{{Path: "/", Body: "("}}}, "checks[0].body: \"(\" is no regular expression"},
		{Config{Checks: []UserCheck{{Path: "/", MaxTime: -1}}}, "checks[0].max-time: "},
		{Config{Checks: []UserCheck{{Path: "/"}, {Path: "/"}}}, "checks[1].name: "},
		{Config{Skip: []string{"log", "htpp"}}, "skip[1]: no check is named \"htpp\""},
	} {
		_, err := Standard(Target{}, c.config)
		require.ErrorContains(t, err, c.want)
	}
	_, err := Standard(Target{}, Config{Checks: []UserCheck{{Path: "/"}}})
	require.ErrorContains(t, err, "the server listens nowhere for HTTP; set address")
	_, err = Standard(Target{}, Config{Checks: []UserCheck{{Path: "/", Name: "own"}}, Skip: []string{"own"}})
	require.Error(t, err)
}

func TestStandardAsksEverySite(t *testing.T) {
	t.Parallel()
	n, err := webconf.ReadNginx(oneFile(`
stream { server { listen 127.0.0.1:3306; } server { listen 53 udp; } }
http {
	server { listen 80 default_server; listen [::]:80; server_name _; return 444; }
	server { listen 80; listen 127.0.0.1:80; server_name b.example www.b.example; }
	server { listen 443 ssl http2; server_name b.example; }
	server { listen 443; server_name *.c.example; }
	server { listen unix:/run/w.sock; }
	server { listen 443 quic; }
}`), "/c", "")
	require.NoError(t, err)
	var target Target
	target.Nginx(n)
	set, err := Standard(target, Config{})
	require.NoError(t, err)
	var names []string
	for _, c := range set.Checks() {
		names = append(names, c.Name())
		if h, ok := c.(*httpCheck); ok {
			require.Equal(t, h.address == "127.0.0.1:443", h.tls, h.name)
		}
	}
	require.Equal(t, []string{
		"http 0.0.0.0:80", "http [::]:80", "http 0.0.0.0:80 b.example", "http 127.0.0.1:80 b.example",
		"http 0.0.0.0:443 b.example", "http 0.0.0.0:443 www.c.example", "http unix:/run/w.sock", "tcp 127.0.0.1:3306",
	}, names)
	require.Empty(t, set.Notes())
	require.True(t, target.Workers.Stable)

	many := target
	for i := range 300 {
		many.VHosts = append(many.VHosts, webconf.VHost{Listens: []webconf.Listen{{Context: "http", Network: "tcp", Address: "0.0.0.0", Port: 1000 + i}}})
	}
	set, err = Standard(many, Config{})
	require.NoError(t, err)
	require.Len(t, set.Checks(), maxHTTP)
	require.Len(t, set.Notes(), 1)
}

type oneFile string

func (f oneFile) ReadFile(string, int64) ([]byte, error) { return []byte(f), nil }
func (f oneFile) ReadDir(string) ([]string, error)       { return nil, nil }

func TestReadConfig(t *testing.T) {
	t.Parallel()
	read := func(text string) (Config, error) {
		var doc struct{ Checks yaml.Node }
		require.NoError(t, yaml.Unmarshal([]byte(text), &doc))
		return ReadConfig(&doc.Checks)
	}
	none, err := read("other: 1\n")
	require.NoError(t, err)
	require.Equal(t, Config{}, none)
	list, err := read("checks:\n- {path: /a, status: 200}\n")
	require.NoError(t, err)
	require.Equal(t, Config{Checks: []UserCheck{{Path: "/a", Status: 200}}}, list)
	whole, err := read("checks:\n  checks: [{path: /a, status: 200}]\n  skip: [log]\n")
	require.NoError(t, err)
	require.Equal(t, Config{Checks: list.Checks, Skip: []string{"log"}}, whole)
	for text, says := range map[string]string{
		"checks: [{path: /a, statsu: 200}]\n": "statsu", // it would be a check that never fails
		"checks: [{path: /a, status: 99}]\n":  "checks[0].status: 99",
		"checks: {skip: [nothing]}\n":         "skip[0]",
	} {
		_, err := read(text)
		require.ErrorContains(t, err, says)
	}
}
