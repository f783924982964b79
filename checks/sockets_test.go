package checks

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/webconf"
)

func TestUnixTable(t *testing.T) {
	t.Parallel()
	const head = "Num       RefCount Protocol Flags    Type St Inode Path\n"
	for _, c := range []struct{ line, want string }{
		{"0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x.sock", "unix:/run/x.sock"},
		{"0000000000000000: 00000002 00000000 00010000 0001 01   345 /run/a  b", `unix:"/run/a\x20\x20b"`},
		{"0000000000000000: 00000002 00000000 00010000 0001 01 12345 @abstract", "unix:@abstract"},
		{"0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/\x1b[2J", `unix:"/run/\x1b[2J"`},
		{"0000000000000000: 00000003 00000000 00000000 0001 03 12345 /run/x.sock", ""},
		{"0000000000000000: 00000002 00000000 00010000 0001 01 12345", ""},
		{"rubbish", ""},
		{"", ""},
	} {
		list, err := readTable(strings.NewReader(head+c.line+"\n"), unixLine)
		require.NoError(t, err)
		got := ""
		for _, s := range list {
			got += s.String()
		}
		require.Equal(t, c.want, got, c.line)
	}
}

func TestInetTable(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	const rest = " 00000000:00000000 00:00000000 00000000     0        0 "
	table := head +
		"   0: 00000000:0050 00000000:0000 0A" + rest + "77 1 0000 100 0 0 10 0\n" +
		"   1: rubbish\n" +
		"   2: 00000000:zz50 00000000:0000 0A" + rest + "78 1 0000 100 0 0 10 0\n" +
		"   3: 00000000:0051 00000000:0000 01" + rest + "79 1 0000 100 0 0 10 0\n" +
		"   4: 00000000:0052 00000000:0000 0A" + rest + "80 1 0000 100 0 0 10 0\n"
	list, err := readTable(strings.NewReader(table), inet("tcp", "0A", true))
	require.NoError(t, err)
	require.Len(t, list, 1, "what follows a connection is not read")
	require.Equal(t, "0.0.0.0:80", list[0].String())
	list, err = readTable(strings.NewReader(table), inet("udp", "0A", false))
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.Equal(t, "udp:0.0.0.0:82", list[1].String())
}

// The tables of the kernel, for sockets of this process.
func TestListening(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	path := filepath.Join(t.TempDir(), "s")
	local, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer local.Close()
	want := []string{tcp.Addr().String(), "udp:" + udp.LocalAddr().String(), "unix:" + path}
	if six, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		defer six.Close()
		want = append(want, six.Addr().String())
	}
	client, err := net.Dial("tcp", tcp.Addr().String())
	require.NoError(t, err)
	defer client.Close()

	all, err := listening(os.Getpid())
	require.NoError(t, err)
	owned := map[uint64]int{}
	require.NoError(t, socketInodes(os.Getpid(), 1000, owned))
	var mine []string
	for _, s := range all {
		if _, ok := owned[s.inode]; ok {
			mine = append(mine, s.String())
		}
	}
	for _, w := range want {
		require.Contains(t, mine, w)
	}
	require.NotContains(t, mine, client.LocalAddr().String())
}

func TestComparePort(t *testing.T) {
	t.Parallel()
	type v = map[string]string
	for _, c := range []struct {
		name     string
		was, now v
		want     string
	}{
		{"same", v{"sockets": "a b"}, v{"sockets": "b a"}, ""},
		{"one more", v{"sockets": "a"}, v{"sockets": "a b"}, "the new server listens on b, which the old one did not"},
		{"one less", v{"sockets": "a b"}, v{"sockets": "a"}, "the new server does not listen on b, which the old one did"},
		{"another", v{"sockets": "a"}, v{"sockets": "b"}, "listens on b, which the old one did not; the new server does not listen on a"},
		{"wanted before", v{"sockets": "a", "missing": "b"}, v{"sockets": "a b"}, ""},
		{"many more", v{"sockets": "a"}, v{"sockets": "a b c d e f g h"}, "b, c, d, e, f and 2 more"},
		{"taken", v{"sockets": "a b"}, v{"sockets": "a", "foreign": "b", "missing": "b"}, "now"},
		{"taken before", v{"sockets": "a", "foreign": "b", "missing": "b"}, v{"sockets": "a", "foreign": "b", "missing": "b"}, ""},
		{"unsteady before", v{}, v{"sockets": "a"}, ""},
	} {
		got := comparePort(Observation{Values: c.was}, Observation{Values: c.now, Detail: "now"})
		if c.want == "" {
			require.Empty(t, got, c.name)
			continue
		}
		require.Contains(t, strings.Join(got, "; "), c.want, c.name)
	}
}

func TestSocketIsListen(t *testing.T) {
	t.Parallel()
	parse := func(line string) socket {
		s, ok, _ := inet("tcp6", "0A", true)(line)
		require.True(t, ok)
		return s
	}
	six := parse("0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1")
	require.Equal(t, "[::]:80", six.String())
	require.True(t, six.is(webconf.Listen{Network: "tcp", Address: "::", Port: 80}))
	require.False(t, six.is(webconf.Listen{Network: "tcp", Address: "0.0.0.0", Port: 80}), "IPv4 and IPv6 are two sockets")
	require.False(t, six.is(webconf.Listen{Network: "tcp", Address: "::", Port: 81}))
	require.False(t, six.is(webconf.Listen{Network: "udp", Address: "::", Port: 80}))
	require.True(t, six.is(webconf.Listen{Network: "tcp", Address: "localhost", ByName: true, Port: 80}))
}

func TestChurn(t *testing.T) {
	t.Parallel()
	// Each look names the workers that are active and, behind "/", those that
	// are shutting down.
	for _, c := range []struct {
		name  string
		looks []string
		want  int
	}{
		{"steady", []string{"12", "12", "12"}, 0},
		{"a reload", []string{"12", "1234", "34/12", "34"}, 0},
		{"a reload, the old ones gone at once", []string{"12", "1234", "34"}, 0},
		{"two reloads", []string{"12", "1234", "34", "3456", "56/34", "56"}, 0},
		{"a reload that no look saw", []string{"12", "34", "34"}, 1},
		{"one crash", []string{"12", "2", "23", "23"}, 1},
		{"a crash that no look saw", []string{"12", "32"}, 1},
		{"a loop", []string{"1", "2", "3", "4"}, 3},
		{"a loop with holes", []string{"1", "", "2", "", "3"}, 2},
		{"a reload, then a crash", []string{"12", "1234", "34/12", "34", "4", "45"}, 1},
		{"slow to appear", []string{"", "1", "12"}, 0},
	} {
		check := &processCheck{target: Target{Workers: Workers{Stable: true}}}
		got := 0
		for _, l := range c.looks {
			active, leaving, _ := strings.Cut(l, "/")
			var all, now []proc
			for _, r := range active {
				now = append(now, proc{pid: int(r - '0')})
			}
			all = append(all, now...)
			for _, r := range leaving {
				all = append(all, proc{pid: int(r - '0')})
			}
			got = check.churn("m", all, now)
		}
		require.Equal(t, c.want, got, c.name)
	}
}
