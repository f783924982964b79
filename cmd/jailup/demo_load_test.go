package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLoadMeasures(t *testing.T) {
	t.Parallel()
	var mode atomic.Int32 // 0 the page, 1 refuses, 2 breaks off, 3 another page
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch mode.Load() {
		case 0:
			_, _ = w.Write([]byte("page"))
		case 1:
			http.Error(w, "no", http.StatusForbidden)
		case 2:
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		case 3:
			_, _ = w.Write([]byte("another page"))
		}
	}))
	defer srv.Close()
	began := time.Now()
	l := startLoad(t.Context(), srv.URL+"/", []byte("page"), loadClients)
	_, err := l.answered(t.Context(), began, 10*time.Second)
	require.NoError(t, err)

	turned := time.Now()
	for m := int32(1); m <= 3; m++ {
		mode.Store(m)
		time.Sleep(150 * time.Millisecond)
	}
	out := time.Since(turned)
	back := time.Now()
	mode.Store(0)
	good, err := l.answered(t.Context(), back, 10*time.Second)
	require.NoError(t, err)
	require.True(t, good.After(back))
	seen := l.stop()
	require.Equal(t, seen, l.stop(), "a second stop changes nothing")

	require.Positive(t, seen.Served)
	require.Positive(t, seen.Silent)
	require.Positive(t, seen.Wrong[http.StatusForbidden])
	require.Positive(t, seen.Wrong[http.StatusOK])
	require.Equal(t, seen.Silent+seen.wrong(), seen.failed())
	// A request that was under way when the page went may have answered later.
	require.Greater(t, seen.Gap, out-100*time.Millisecond)
	require.LessOrEqual(t, seen.Gap, seen.Took)
}

func TestLoadOfNothing(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	url := "http://" + ln.Addr().String() + "/"
	ln.Close()
	began := time.Now()
	l := startLoad(t.Context(), url, []byte("page"), loadClients)
	_, err = l.answered(t.Context(), began, 200*time.Millisecond)
	require.ErrorContains(t, err, "no right answer")
	seen := l.stop()
	require.Zero(t, seen.Served)
	require.Positive(t, seen.Silent)
	require.InDelta(t, seen.Took.Seconds(), seen.Gap.Seconds(), 0.1, "without an answer all of it is a gap")
}

func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	l := startLoad(ctx, "http://127.0.0.1:1/", nil, loadClients)
	cancel()
	done := make(chan struct{})
	go func() { l.stop(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the load goes on")
	}
}

func TestFreePort(t *testing.T) {
	t.Parallel()
	port, err := freePort()
	require.NoError(t, err)
	ln, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(port))
	require.NoError(t, err)
	ln.Close()
	data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	require.NoError(t, err)
	first, err := strconv.Atoi(strings.Fields(string(data))[0])
	require.NoError(t, err)
	if first > 14000 {
		require.Less(t, port, first, "no outgoing connection can take it meanwhile")
	}
}
