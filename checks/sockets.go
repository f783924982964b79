package checks

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/webconf"
)

// socket is a socket that waits for clients.
type socket struct {
	network string // "tcp", "tcp6", "udp", "udp6", "unix"
	addr    netip.AddrPort
	path    string // of a unix socket, as it was bound; "@name" is abstract
	inode   uint64
}

// String is the socket's name in reports and values: one word, clean.
func (s socket) String() string {
	switch s.network {
	case "unix":
		q := strconv.QuoteToASCII(s.path)
		if q == `"`+s.path+`"` && !strings.Contains(s.path, " ") {
			return "unix:" + s.path
		}
		return "unix:" + strings.ReplaceAll(q, " ", `\x20`)
	case "udp", "udp6":
		return "udp:" + s.addr.String()
	}
	return s.addr.String()
}

// is reports whether the socket is the one that a listen asks for.
func (s socket) is(l webconf.Listen) bool {
	switch {
	case l.Network == "unix":
		return s.network == "unix" && s.path == l.Address
	case !strings.HasPrefix(s.network, l.Network) || int(s.addr.Port()) != l.Port:
		return false
	case l.ByName:
		return true
	case l.Any && s.addr.Addr() == netip.IPv4Unspecified():
		return true // there is no IPv6 here
	}
	a, err := netip.ParseAddr(l.Address)
	return err == nil && a == s.addr.Addr()
}

// maxSockets bounds what is kept of one table.
const maxSockets = 100_000

var errTooMany = errors.New("too many sockets")

// listening reads the sockets that wait for clients in the network namespace
// of a process, from proc_pid_net(5): TCP in state LISTEN, UDP that is not
// connected, unix stream sockets that accept. Tables of protocols that the
// kernel does not have are empty.
func listening(pid int) ([]socket, error) {
	var all []socket
	for _, table := range []struct {
		name  string
		parse func(line string) (socket, bool, bool)
	}{
		{"tcp", inet("tcp", "0A", true)},
		{"tcp6", inet("tcp6", "0A", true)},
		{"udp", inet("udp", "07", false)},
		{"udp6", inet("udp6", "07", false)},
		{"unix", unixLine},
	} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table.name))
		if errors.Is(err, fs.ErrNotExist) && table.name != "tcp" {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := readTable(f, table.parse)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", table.name, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// readTable reads lines behind the heading. Parse tells the socket, whether
// there is one, and whether more lines can matter.
func readTable(r io.Reader, parse func(string) (socket, bool, bool)) ([]socket, error) {
	var list []socket
	lines := bufio.NewScanner(r)
	lines.Scan()
	for lines.Scan() {
		s, ok, more := parse(lines.Text())
		if ok {
			list = append(list, s)
		}
		if !more {
			return list, nil
		}
		if len(list) > maxSockets {
			return nil, errTooMany
		}
	}
	return list, lines.Err()
}

// inet parses a line of the tables tcp, tcp6, udp, udp6:
//
//	sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...
//
// The TCP tables list the listening sockets first, so that a server with a
// hundred thousand connections costs no more than an idle one.
func inet(network, state string, first bool) func(string) (socket, bool, bool) {
	return func(line string) (socket, bool, bool) {
		f := strings.Fields(line)
		if len(f) < 10 {
			return socket{}, false, true
		}
		if f[3] != state {
			return socket{}, false, !first
		}
		addr, ok := hexAddr(f[1])
		ino, err := strconv.ParseUint(f[9], 10, 64)
		if !ok || err != nil || ino == 0 {
			return socket{}, false, true
		}
		return socket{network: network, addr: addr, inode: ino}, true, true
	}
}

// hexAddr reads "0100007F:1F90": the address as 32-bit words in the machine's
// byte order, the port as a number.
func hexAddr(s string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(s, ":")
	if !ok || len(host)%8 != 0 {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(n)), ok && err == nil
}

// unixLine parses a line of the table unix:
//
//	Num: RefCount Protocol Flags Type St Inode Path
//
// Flag 0x10000 marks a socket that accepts.
func unixLine(line string) (socket, bool, bool) {
	f := strings.SplitN(strings.Join(strings.Fields(line), " "), " ", 8)
	if len(f) < 8 {
		return socket{}, false, true
	}
	flags, err := strconv.ParseUint(f[3], 16, 64)
	ino, err2 := strconv.ParseUint(f[6], 10, 64)
	if err != nil || err2 != nil || flags&0x10000 == 0 {
		return socket{}, false, true
	}
	// The path ends the line and may hold blanks of its own.
	path := f[7]
	if i := strings.Index(line, " "+f[6]+" "); i >= 0 {
		path = line[i+len(f[6])+2:]
	}
	return socket{network: "unix", path: path, inode: ino}, true, true
}
