package webconf

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// Listen is one address that a server is configured to listen on.
type Listen struct {
	// Context is the kind of server: "http", "stream" or "mail".
	Context string `json:"context"`
	// Network is "tcp", "udp" or "unix".
	Network string `json:"network"`
	// Address is "0.0.0.0", "::", another IP address, a host name (ByName),
	// or for "unix" the socket's path as the jail sees it.
	Address string `json:"address"`
	Port    int    `json:"port,omitempty"`
	// ByName tells that Address is a host name, which the server resolves
	// when it starts, perhaps to several addresses.
	ByName bool `json:"by_name,omitempty"`

	// Any tells that one socket takes IPv6 and IPv4 on all addresses. It is
	// "::", or where the machine has no IPv6, "0.0.0.0".
	Any bool `json:"any,omitempty"`

	SSL           bool `json:"ssl,omitempty"`
	HTTP2         bool `json:"http2,omitempty"`
	QUIC          bool `json:"quic,omitempty"`
	ProxyProtocol bool `json:"proxy_protocol,omitempty"`
	ReusePort     bool `json:"reuseport,omitempty"`
	Default       bool `json:"default,omitempty"`
	// Bind tells that the address gets a socket of its own even where a
	// wildcard of the same port exists.
	Bind bool `json:"bind,omitempty"`
	// IPv6Only is what holds for an IPv6 address: true unless switched off.
	IPv6Only bool `json:"ipv6only,omitempty"`

	File string `json:"file"`
	Line int    `json:"line"`
}

// HostPort is the address as a dialer wants it: "127.0.0.1:80", "[::1]:80",
// or the path of a unix socket.
func (l Listen) HostPort() string {
	if l.Network == "unix" {
		return l.Address
	}
	return net.JoinHostPort(l.Address, strconv.Itoa(l.Port))
}

// String is the listen's name in reports: "0.0.0.0:80", "udp [::]:443",
// "unix:/run/x.sock".
func (l Listen) String() string {
	switch l.Network {
	case "unix":
		return "unix:" + l.Address
	case "udp":
		return "udp " + l.HostPort()
	}
	return l.HostPort()
}

// Wildcard reports whether the listen is on all addresses of its family.
func (l Listen) Wildcard() bool {
	return l.Network != "unix" && (l.Address == "0.0.0.0" || l.Address == "::")
}

// IPv6 reports whether the address is of that family.
func (l Listen) IPv6() bool {
	return l.Network != "unix" && strings.Contains(l.Address, ":")
}

// Sockets reduces listens to the sockets that come of them: one for each
// network, address and port, with the flags of all that name it, because
// nginx lets servers share an address and its options. Where a wildcard of
// the same port and family exists, an address without a reason for a socket
// of its own (Bind) is served by the wildcard's. The first listen of a socket
// gives file and line; the order is that of the first listens.
func Sockets(listens []Listen) []Listen {
	type key struct {
		network, address string
		port             int
	}
	merged := make(map[key]int)
	var list []Listen
	for _, l := range listens {
		k := key{l.Network, l.Address, l.Port}
		i, ok := merged[k]
		if !ok {
			merged[k] = len(list)
			list = append(list, l)
			continue
		}
		m := &list[i]
		m.SSL = m.SSL || l.SSL
		m.HTTP2 = m.HTTP2 || l.HTTP2
		m.QUIC = m.QUIC || l.QUIC
		m.ProxyProtocol = m.ProxyProtocol || l.ProxyProtocol
		m.ReusePort = m.ReusePort || l.ReusePort
		m.Default = m.Default || l.Default
		m.Bind = m.Bind || l.Bind
		m.IPv6Only = m.IPv6Only && l.IPv6Only
		m.Any = m.Any || l.Any
	}
	return slices.DeleteFunc(list, func(l Listen) bool {
		if l.Network == "unix" || l.Wildcard() || l.Bind || l.ByName {
			return false
		}
		wild := "0.0.0.0"
		if l.IPv6() {
			wild = "::"
		}
		_, ok := merged[key{l.Network, wild, l.Port}]
		return ok
	})
}
