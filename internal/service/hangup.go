package service

import (
	"time"

	"golang.org/x/sys/unix"
)

// Apache that ends gracefully has closed its port at once, but waits for clients
// that want nothing any more: a process of one thread for the next request on a
// connection that is kept alive (KeepAliveTimeout, 5 s), each for the client's end
// of a connection that it has ended itself (2 s). All that time nobody is served.
//
// For such connections the server's reading side is shut down, through a
// duplicate of its descriptor: the server sees the end of the connection, and
// goes on. An answer under way is not touched by that, nor is what the server has
// open to a database: only connections to the ports that it listened on count. An
// upload that pauses for longer than a second is broken off.
const (
	hangUpEvery = 4                      // passes
	idleTime    = time.Second            // no word from the client: it waits, or has nothing to say
	lingerTime  = 250 * time.Millisecond // the same, after the server has said all
)

const (
	tcpEstablished = 1 // of enum in linux/tcp.h, as tcp(7) has TCP_INFO say it
	tcpFinWait2    = 5
)

// ports lists the TCP ports that a process listens on.
func (c *ProcessController) ports(pid, pidfd int) map[int]bool {
	ports := map[int]bool{}
	for fd := range c.sockets(pid) {
		inspect(pidfd, fd, func(s int) {
			if on, err := unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && on == 1 {
				if port := localPort(s); port > 0 {
					ports[port] = true
				}
			}
		})
	}
	return ports
}

// hangUp ends the waiting of the server's processes for clients; see above. What
// cannot be done is left: then the server waits as long as it does by itself.
func (d *drain) hangUp(alive []*member, s situation) {
	if s.master == nil || !d.sent(s.master, d.c.spec.Quit) || len(d.ports) == 0 {
		return
	}
	for _, m := range alive {
		if m == s.master || !m.proc.core || m.fd < 0 {
			continue
		}
		single := m.proc.threads == 1
		for fd := range d.c.sockets(m.proc.PID) {
			inspect(m.fd, fd, func(sock int) {
				if d.ports[localPort(sock)] && waits(sock, single) {
					_ = unix.Shutdown(sock, unix.SHUT_RD)
				}
			})
		}
	}
}

// waits tells whether a process has nothing left to do on a connection but wait
// for its client. Where one thread serves one connection that may be in the
// middle of an answer too, which needs no more words of the client.
func waits(sock int, single bool) bool {
	info, err := unix.GetsockoptTCPInfo(sock, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false
	}
	if unread, err := unix.IoctlGetInt(sock, unix.SIOCINQ); err != nil || unread > 0 {
		return false
	}
	silent := time.Duration(info.Last_data_recv) * time.Millisecond
	switch info.State {
	case tcpEstablished:
		return single && silent >= idleTime
	case tcpFinWait2: // the client has all of the answer
		return silent >= lingerTime
	}
	return false
}

// localPort is the port of a TCP socket at our end, or 0.
func localPort(sock int) int {
	if proto, err := unix.GetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		return 0
	}
	addr, err := unix.Getsockname(sock)
	if err != nil {
		return 0
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

// inspect lends f a duplicate of a descriptor of another process.
func inspect(pidfd, fd int, f func(sock int)) {
	dup, err := unix.PidfdGetfd(pidfd, fd, 0) // close-on-exec by itself
	if err != nil {
		return
	}
	defer unix.Close(dup)
	f(dup)
}
