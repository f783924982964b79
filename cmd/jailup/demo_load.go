package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// The load of the demo: enough that an outage of a few milliseconds is seen, and
// so little that a small machine has time left for the upgrade.
const (
	loadClients  = 8                     // with a connection that they keep
	loadFew      = 4                     // of them, where each takes a process of the server
	loadPause    = 20 * time.Millisecond // of each of them between two requests
	loadNew      = 100                   // connections opened per second besides
	loadInFlight = 100                   // of these at most are waiting for an answer
	loadPatience = 2 * time.Second       // with one request
	loadMost     = 3 * time.Minute       // bound of it all
	loadMaxBody  = 1 << 20
)

// load asks a server for one page, over and over.
type load struct {
	url    string
	page   []byte // the right answer
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu    sync.Mutex
	tally tally
	began time.Time
	good  time.Time // when the last right answer came
	asked time.Time // when the latest of the requests answered rightly was sent
	over  bool
}

// tally is what a load has seen.
type tally struct {
	Served int           // the right page
	Silent int           // no answer
	Wrong  map[int]int   // other answers, by status
	Gap    time.Duration // longest time without a right answer
	Took   time.Duration
}

func (t tally) wrong() int {
	n := 0
	for _, k := range t.Wrong {
		n += k
	}
	return n
}

func (t tally) failed() int { return t.Silent + t.wrong() }

// startLoad begins to ask, with so many clients that keep their connections; page
// is the right answer. It ends by stop, and in any case after three minutes.
func startLoad(ctx context.Context, url string, page []byte, clients int) *load {
	ctx, cancel := context.WithTimeout(ctx, loadMost)
	now := time.Now()
	l := &load{url: url, page: page, cancel: cancel, began: now, good: now, tally: tally{Wrong: map[int]int{}}}
	for range clients {
		l.group.Go(func() { l.client(ctx) })
	}
	l.group.Go(func() { l.newcomers(ctx) })
	return l
}

// stop ends the load and tells what it saw.
func (l *load) stop() tally {
	l.mu.Lock()
	if !l.over {
		l.over = true
		l.tally.Took = time.Since(l.began)
		l.tally.Gap = max(l.tally.Gap, time.Since(l.good))
	}
	out := l.tally
	l.mu.Unlock()
	l.cancel()
	l.group.Wait()
	return out
}

func (l *load) client(ctx context.Context) {
	t := transport(false)
	defer t.CloseIdleConnections()
	for ctx.Err() == nil {
		l.request(ctx, t)
		sleep(ctx, loadPause)
	}
}

func (l *load) newcomers(ctx context.Context) {
	t := transport(true)
	defer t.CloseIdleConnections()
	tick := time.NewTicker(time.Second / loadNew)
	defer tick.Stop()
	room := make(chan struct{}, loadInFlight)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case room <- struct{}{}:
			l.group.Go(func() {
				l.request(ctx, t)
				<-room
			})
		default: // all are waiting for a server that is down
		}
	}
}

// transport is one that asks no proxy and follows nothing.
func transport(once bool) *http.Transport {
	return &http.Transport{DisableKeepAlives: once, DisableCompression: true, MaxIdleConnsPerHost: 1,
		DialContext: (&net.Dialer{Timeout: loadPatience}).DialContext}
}

func (l *load) request(ctx context.Context, t *http.Transport) {
	sent := time.Now()
	status, body, err := ask(ctx, t, l.url)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over || err != nil && ctx.Err() != nil: // it was us who gave up
	case err != nil:
		l.tally.Silent++
	case status != http.StatusOK || !bytes.Equal(body, l.page):
		l.tally.Wrong[status]++
	default:
		now := time.Now()
		l.tally.Served++
		l.tally.Gap = max(l.tally.Gap, now.Sub(l.good))
		l.good = now
		if sent.After(l.asked) {
			l.asked = sent
		}
	}
}

// ask sends one request and reads the answer whole.
func ask(ctx context.Context, t *http.Transport, url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, loadMaxBody))
	return resp.StatusCode, body, err
}

// answered waits until a request that was sent after the time given has got the
// right answer, and returns when it came.
func (l *load) answered(ctx context.Context, after time.Time, within time.Duration) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		l.mu.Lock()
		good, asked := l.good, l.asked
		l.mu.Unlock()
		if asked.After(after) {
			return good, nil
		}
		if !sleep(ctx, 2*time.Millisecond) {
			return time.Time{}, fmt.Errorf("%s gave no right answer within %s", l.url, within)
		}
	}
}

// sleep tells whether the time has passed before ctx was done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// freePort finds a port of 127.0.0.1 below those that the kernel gives to
// outgoing connections: while the server is down, one of the load's own
// connections could otherwise take its place.
func freePort() (int, error) {
	first := 0
	if data, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(data), &first)
	}
	// Not always from the same one: two demos at once seldom meet.
	for port := first - 1 - os.Getpid()%1000; port > max(1024, first-12000); port-- {
		if l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			defer l.Close()
			return port, nil
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("cannot find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
