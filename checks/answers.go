package checks

import (
	"context"

	"github.com/jailup/jailup/internal/webconf"
)

// Answers tells whether something accepts a connection at an address: "tcp", or
// "unix" with a path in the jail. It waits no longer than ctx allows, and says
// nothing of what it is that answers.
func Answers(ctx context.Context, parents Parents, network, address string) bool {
	conn, err := dialer(parents)(ctx, network, address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Answered is Answers for an address of a configuration, which may be a wildcard.
func Answered(ctx context.Context, parents Parents, l webconf.Listen) bool {
	return Answers(ctx, parents, l.Network, dialAddress(l))
}
