package checks

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/webconf"
)

// dialAddress is where to connect for a listen: a wildcard is reached over the
// loopback of its family.
func dialAddress(l webconf.Listen) string {
	switch {
	case l.Network == "unix":
		return l.Address
	case l.Address == "0.0.0.0" || l.Any || (l.ByName && l.Address == "localhost"):
		l.Address = "127.0.0.1"
	case l.Address == "::":
		l.Address = "::1"
	}
	return l.HostPort()
}

// dialer connects from where jailup runs. Paths of unix sockets are the jail's.
func dialer(parents Parents) DialFunc {
	var d net.Dialer
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network != "unix" {
			return d.DialContext(ctx, network, address)
		}
		if parents == nil {
			return nil, errNoWay
		}
		return dialUnix(ctx, parents, address)
	}
}

// errNoWay tells that a check cannot look, which says nothing of the server.
var errNoWay = errors.New("no way to it from here")

// dialUnix connects to a socket of the jail by descriptor: its path, opened as
// a plain one, could lead a link out of the jail.
func dialUnix(ctx context.Context, parents Parents, path string) (net.Conn, error) {
	dir, name, err := parents.OpenParent(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("%w: not a socket", errNoWay)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", fd))
}
