package checks

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestLongestGap(t *testing.T) {
	t.Parallel()
	yes := func(begin, end int) probeEvent { return probeEvent{ms(begin), ms(end), true} }
	no := func(begin, end int) probeEvent { return probeEvent{ms(begin), ms(end), false} }
	for _, c := range []struct {
		name   string
		events []probeEvent
		end    int
		oldest int // 0: none
		want   int
	}{
		{"nothing", nil, 1000, 0, 0},
		{"never an answer", []probeEvent{no(0, 1), no(50, 51)}, 100, 0, 0},
		{"steady", []probeEvent{yes(0, 1), yes(50, 51), yes(100, 101)}, 120, 0, 0},
		{"down between", []probeEvent{yes(0, 1), no(50, 51), no(100, 101), yes(150, 151)}, 160, 0, 150},
		{"down before", []probeEvent{no(0, 1), no(50, 51), yes(100, 101)}, 120, 0, 0},
		{"down at the end", []probeEvent{yes(0, 1), no(50, 51)}, 400, 0, 399},
		{"the longest", []probeEvent{yes(0, 1), no(50, 51), yes(100, 101), no(150, 151), no(200, 201), yes(250, 252)}, 260, 0, 151},
		{"we stood still, not the server", []probeEvent{yes(0, 1), yes(2000, 2001)}, 2010, 0, 0},
		{"waited in the queue", []probeEvent{yes(0, 1), yes(50, 1200), yes(100, 1201)}, 1210, 0, 1199},
		{"slow, as always", []probeEvent{yes(0, 300), yes(50, 350), yes(100, 400), yes(150, 450)}, 460, 0, 0},
		{"one hangs, the others do not", []probeEvent{yes(0, 1), yes(50, 51), yes(100, 101), yes(150, 151), no(60, 5060)}, 151, 0, 50},
		{"cut short", []probeEvent{yes(0, 100), no(50, 101), yes(102, 103)}, 110, 0, 3},
		{"hangs to the end", []probeEvent{yes(0, 1)}, 900, 50, 899},
		{"on its way at the end", []probeEvent{yes(0, 1), yes(50, 51)}, 110, 100, 0},
	} {
		oldest := c.oldest
		if oldest == 0 {
			oldest = c.end
		}
		require.Equal(t, ms(c.want), longestGap(c.events, ms(c.end), ms(oldest)), c.name)
	}
}

func listenOn(port int) []webconf.Listen {
	return []webconf.Listen{{Context: "http", Network: "tcp", Address: "127.0.0.1", Port: port}}
}

func fast(p *Prober) *Prober {
	p.period = 10 * time.Millisecond
	return p
}

func answered(p *Prober) int { return p.Counts()[0].Answered }

func TestProberMeasuresTheGap(t *testing.T) {
	t.Parallel()
	port := lab.FreePort(t)
	up := func() *http.Server {
		l, err := net.Listen("tcp", listenOn(port)[0].HostPort())
		require.NoError(t, err)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway) // any status is an answer
		}), ErrorLog: quietLog()}
		go func() { _ = s.Serve(l) }()
		return s
	}
	p := fast(NewProber(Target{Listens: listenOn(port)}))
	_, ok := p.Gap()
	require.False(t, ok)
	p.Start()
	p.Start()
	lab.Eventually(t, 10*time.Second, "a probe fails", func() bool { return p.Counts()[0].Failed > 0 })
	_, ok = p.Gap()
	require.False(t, ok, "down before is no downtime")

	s := up()
	lab.Eventually(t, 10*time.Second, "probes are answered", func() bool { return answered(p) > 3 })
	failed := p.Counts()[0].Failed
	down := time.Now()
	require.NoError(t, s.Close())
	time.Sleep(200 * time.Millisecond)
	s = up()
	defer s.Close()
	was := answered(p)
	lab.Eventually(t, 10*time.Second, "probes are answered again", func() bool { return answered(p) > was+2 })
	most := time.Since(down) + 200*time.Millisecond
	p.Stop()
	p.Stop()
	gap, ok := p.Gap()
	require.True(t, ok)
	require.GreaterOrEqual(t, gap, 200*time.Millisecond)
	require.Less(t, gap, most)
	require.Greater(t, p.Counts()[0].Failed, failed)
	require.Equal(t, gap, p.Gaps()["127.0.0.1:"+itoa(port)])
	time.Sleep(30 * time.Millisecond)
	again, _ := p.Gap()
	require.Equal(t, gap, again, "time after Stop does not count")
}

func itoa(n int) string { return webconf.Listen{Network: "tcp", Port: n}.HostPort()[1:] }

func TestProberWithoutDowntime(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	p := fast(NewProber(Target{Listens: listenOn(s.Listener.Addr().(*net.TCPAddr).Port)}))
	p.Start()
	lab.Eventually(t, 10*time.Second, "probes are answered", func() bool { return answered(p) > 10 })
	p.Stop()
	gap, ok := p.Gap()
	require.True(t, ok)
	require.Less(t, gap, 2*time.Second) // 0, unless this machine stood still
	require.Zero(t, p.Counts()[0].Failed)
}

func TestProberHasNothingToProbe(t *testing.T) {
	t.Parallel()
	p := NewProber(Target{Listens: []webconf.Listen{{Context: "http", Network: "udp", Address: "0.0.0.0", Port: 443}}})
	p.Stop()
	p.Start()
	p.Stop()
	_, ok := p.Gap()
	require.False(t, ok)
	require.Empty(t, p.Counts())
}

// A server that takes connections and says nothing must not stop the schedule,
// nor pile up probes without end.
func TestProberKeepsItsSchedule(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	p := fast(NewProber(Target{Listens: listenOn(l.Addr().(*net.TCPAddr).Port)}))
	p.timeout = 100 * time.Millisecond
	p.Start()
	// It never answered as HTTP: connections are what is measured then.
	lab.Eventually(t, 10*time.Second, "connections count", func() bool { return answered(p) > 3 })
	begin := time.Now()
	p.Stop()
	require.Less(t, time.Since(begin), 2*time.Second)
	_, ok := p.Gap()
	require.True(t, ok)
}

func TestProberStopsWithProbesOnTheirWay(t *testing.T) {
	t.Parallel()
	var once sync.Once
	started := make(chan struct{})
	p := fast(NewProber(Target{Listens: listenOn(1), Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		once.Do(func() { close(started) })
		<-ctx.Done()
		return nil, ctx.Err()
	}}))
	p.Start()
	<-started
	begin := time.Now()
	p.Stop()
	require.Less(t, time.Since(begin), 2*time.Second)
	require.Zero(t, p.Counts()[0].Sent)
}

// Memory stays bounded, and the longest gap is kept.
func TestProberForgetsOldEvents(t *testing.T) {
	t.Parallel()
	o := &probe{}
	at := time.Duration(0)
	enter := func(answered bool) {
		at += 50 * time.Millisecond
		o.depart(at)
		o.enter(at, at+time.Millisecond, true, answered)
	}
	enter(true)
	for range 10 {
		enter(false)
	}
	for range 3 * keptEvents {
		enter(true)
	}
	gap, ok := o.gap(at)
	require.True(t, ok)
	require.Equal(t, 550*time.Millisecond, gap)
	require.LessOrEqual(t, len(o.events), keptEvents+1)
}
