package checks

import "context"

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
