package webconf

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A running server says which of its hosts answers where, and which sockets
// it has: as this package has told.
func TestApacheServesWhereItIsSaidTo(t *testing.T) {
	t.Parallel()
	a := newRealApache(t)
	cert, key := selfSigned(t)
	a.write(t, "etc/t/c.pem", cert)
	a.write(t, "etc/t/k.pem", key)
	for i, c := range []struct{ text, want string }{
		// @A and @B are ports; every host tells its name in a 404.
		{"Listen @A\n" + host("*:@A", "one") + host("*:@A", "two"), "one [::]:@A default, two [::]:@A"},
		{"Listen 127.0.0.1:@A\n" + host("*:@A", "wild") + host("127.0.0.1:@A", "exact"), "wild, exact 127.0.0.1:@A default"},
		{"Listen 127.0.0.1:@A\nListen 127.0.0.1:@B\n" + host("*:@A", "one") + host("127.0.0.2:@B", "two"), "one 127.0.0.1:@A default, two, main.example 127.0.0.1:@B default"},
		{"Listen @A\n" + host("*:@A", "wild") + host("127.0.0.2:@A", "exact") + host("127.0.0.2:*", "late"), "wild [::]:@A default, exact 127.0.0.2:@A default, late"},
		{"Listen @A\n" + host("*:*", "any") + host("*:@A", "port"), "any, port [::]:@A default"},
		{"Listen 127.0.0.1:@A\n" + host("*:@A", "wild") + host("127.0.0.1", "any") + host("127.0.0.1", "more"), "wild, any 127.0.0.1:@A default, more 127.0.0.1:@A"},
		{"Listen 127.0.0.1:@A\n" + host("127.0.0.1:*", "any") + host("127.0.0.1:@A", "port"), "any, port 127.0.0.1:@A default"},
		{"Listen @A\n" + host("*:@A", "port") + host("*:*", "any") + host("[::]:@A", "six"), "port [::]:@A default, any, six [::]:@A"},
		{"Listen 0.0.0.0:@A\n" + host("127.0.0.1:@A [::1]:@A", "four"), "four 127.0.0.1:@A default, main.example 0.0.0.0:@A default"},
		{"Listen 0.0.0.0:@A\nListen [::]:@A\n" + host("_default_:@A", "both"), "both [::]:@A default"},
		{"Listen localhost:@A\n" + host("localhost:@A", "named"), "named localhost:@A default"},
		{"Listen 127.0.0.1:@A https\n" + host("*:@A", "plain"), "plain 127.0.0.1:@A default"},
		{"Listen 127.0.0.1:@A\n" + host("*:@A", "tls", "SSLEngine on") + host("*:@A", "second"), "tls 127.0.0.1:@A ssl default, second 127.0.0.1:@A ssl"},
		{"Listen 127.0.0.1:@A\nSSLEngine on\n" + host("*:@A", "inherits"), "inherits 127.0.0.1:@A ssl default"},
		{"Listen 127.0.0.1:@A\nSSLEngine on\n" + host("*:@A", "off", "SSLEngine off"), "off 127.0.0.1:@A default"},
		{"Listen 127.0.0.1:@A\nErrorDocument 404 main.example\n", "main.example 127.0.0.1:@A default"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			fill := strings.NewReplacer("@A", fmt.Sprint(lab.FreePort(t)), "@B", fmt.Sprint(lab.FreePort(t)))
			main := fmt.Sprintf("/etc/t/run%d.conf", i)
			a.write(t, main, fill.Replace(apacheHead+`LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so
SSLCertificateFile /etc/t/c.pem
SSLCertificateKeyFile /etc/t/k.pem
DocumentRoot /srv/www
ErrorDocument 404 main.example
PidFile `+main+".pid\n"+c.text))
			conf := a.read(t, main, ApacheOptions{ServerRoot: "/etc/apache2"})
			var told []string
			for _, v := range conf.Servers() {
				s := v.Names[0]
				for _, l := range v.Listens {
					s += " " + l.String()
					if l.SSL {
						s += " ssl"
					}
					if l.Default {
						s += " default"
					}
				}
				told = append(told, s)
			}
			require.Equal(t, fill.Replace(c.want), strings.Join(told, ", "))

			pid := a.start(t, main)
			for _, l := range conf.Listens() {
				require.True(t, listensOn(t, pid, l), "%s", l)
			}
			for _, v := range conf.Servers() {
				for _, l := range v.Listens {
					require.Equal(t, v.Names[0], get(t, l, v.Names[0]), "%s on %s", v.Names[0], l)
					if l.Default {
						require.Equal(t, v.Names[0], get(t, l, "unknown.example"), "the default on %s", l)
					}
				}
			}
		})
	}
}

func host(addr, name string, more ...string) string {
	return fmt.Sprintf("<VirtualHost %s>\nServerName %s\nErrorDocument 404 %s\n%s\n</VirtualHost>\n", addr, name, name, strings.Join(more, "\n"))
}

// start runs the server until the test ends, and tells its process.
func (a *realApache) start(t *testing.T, main string) int {
	t.Helper()
	cmd := a.command(nil, "-f", main, "-X")
	log, err := os.Create(t.TempDir() + "/out")
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		done := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		done.Stop()
	})
	lab.Eventually(t, 20*time.Second, "apache has written its pid", func() bool {
		text, err := os.ReadFile(a.dir + main + ".pid")
		return err == nil && len(text) > 0
	})
	return cmd.Process.Pid
}

// listensOn looks the address up in the kernel's tables of listening sockets.
func listensOn(t *testing.T, pid int, l Listen) bool {
	t.Helper()
	addrs := []string{l.Address}
	if l.ByName {
		addrs = []string{"127.0.0.1"}
	} else if l.Any {
		addrs = append(addrs, "0.0.0.0") // of a machine without IPv6
	}
	for _, addr := range addrs {
		table, name := "tcp", ""
		ip := net.ParseIP(addr)
		if ip4 := ip.To4(); ip4 != nil {
			name = fmt.Sprintf("%02X%02X%02X%02X", ip4[3], ip4[2], ip4[1], ip4[0])
		} else if table = "tcp6"; ip.IsUnspecified() {
			name = strings.Repeat("0", 32)
		}
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if os.IsNotExist(err) && table == "tcp6" {
			continue
		}
		require.NoError(t, err)
		found := false
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			found = found || len(f) > 3 && f[3] == "0A" && f[1] == fmt.Sprintf("%s:%04X", name, l.Port)
		}
		if found {
			return true
		}
	}
	return false
}

// get asks an address for a page of a host.
func get(t *testing.T, l Listen, host string) string {
	t.Helper()
	if l.Wildcard() {
		l.Address = "127.0.0.99" // of which no host is said to be
	}
	scheme := "http"
	if l.SSL {
		scheme = "https"
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: host},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.HostPort())
		},
	}}
	resp, err := client.Get(scheme + "://" + host + "/none")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, resp.StatusCode, "%s", body)
	return string(body)
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &private.PublicKey, private)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(private)
	require.NoError(t, err)
	block := func(kind string, data []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
	}
	return block("CERTIFICATE", der), block("EC PRIVATE KEY", raw)
}
