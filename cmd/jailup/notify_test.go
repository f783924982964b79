package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/event"
)

// Not parallel: it sets the environment.
func TestTheManagerIsTold(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", addr)
	s := event.New("run", nil, notify{})
	s.Progress("fetch", event.Bytes, 1, 2) // of no interest
	s.StepStart("stop")
	s.StepUndo("stop", "why")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 512)
	for _, want := range []string{"STATUS=stop\nEXTEND_TIMEOUT_USEC=600000000", "STATUS=undo stop\nEXTEND_TIMEOUT_USEC=600000000"} {
		n, err := conn.Read(buf)
		require.NoError(t, err)
		require.Equal(t, want, string(buf[:n]))
	}
}
