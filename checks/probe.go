package checks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// probe is one listen.
type probe struct {
	name             string
	network, address string
	dial             DialFunc
	http, tls, proxy bool
	host             string

	flying  atomic.Int64
	shallow atomic.Bool // only connects: it never answered more
	dumb    int         // probes that connected and got nothing, before the first answer

	mu       sync.Mutex
	sent     int
	answered int
	failed   int
	known    bool                  // it answered once
	away     map[time.Duration]int // when the probes on their way were sent
	events   []probeEvent          // in the order of their ends
	folded   time.Duration         // longest gap among events that were dropped
	closed   bool
	end      time.Duration
}

type probeEvent struct {
	begin, end time.Duration // since the prober's start
	answered   bool
}

// ask asks once and tells when the first sign of the server came. Connected
// tells that the connection was made.
func (o *probe) ask(ctx context.Context) (at time.Time, connected bool, err error) {
	conn, err := connect(ctx, o.dial, o.network, o.address, o.proxy)
	if err != nil {
		return time.Now(), false, err
	}
	defer conn.Close()
	if o.shallow.Load() {
		return time.Now(), true, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if o.tls {
		t := tls.Client(conn, clientTLS(o.host))
		if err := t.HandshakeContext(ctx); err != nil {
			var op *net.OpError
			if (errors.As(err, &op) && op.Op == "remote error") || ended(err) {
				err = nil // it spoke
			}
			return time.Now(), true, err
		}
		conn = t
	}
	if !o.http {
		return time.Now(), true, nil
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nUser-Agent: jailup\r\nConnection: close\r\n\r\n",
		hostHeader(o.host, o.network, o.address)); err != nil {
		return time.Now(), true, err
	}
	first := make([]byte, 1)
	_, err = io.ReadFull(conn, first)
	at = time.Now()
	if err != nil && !ended(err) {
		return at, true, err
	}
	// A client that hangs up in the middle would be one more line in the
	// server's log: a little of the rest is read.
	_ = conn.SetDeadline(at.Add(time.Second))
	_, _ = io.CopyN(io.Discard, conn, 64<<10)
	return at, true, nil
}

// depart books a probe that is sent.
func (o *probe) depart(begin time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.away == nil {
		o.away = map[time.Duration]int{}
	}
	o.away[begin]++
}

// enter books a probe that came to its end.
func (o *probe) enter(begin, end time.Duration, connected, answered bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if o.away[begin]--; o.away[begin] <= 0 {
		delete(o.away, begin)
	}
	o.sent++
	if answered {
		o.answered++
		o.known = true
	} else {
		o.failed++
		if connected && !o.known {
			// Listens that take connections and say nothing for their page are
			// measured by the connection alone.
			if o.dumb++; o.dumb >= 3 {
				o.shallow.Store(true)
			}
		}
	}
	// Two probes may finish in one order and be booked in the other.
	i := len(o.events)
	for i > 0 && o.events[i-1].end > end {
		i--
	}
	o.events = append(o.events, probeEvent{})
	copy(o.events[i+1:], o.events[i:])
	o.events[i] = probeEvent{begin, end, answered}
	if len(o.events) > keptEvents {
		o.fold(end - keptBack)
	}
}

// fold drops events that ended before a time, but for the last answer, and
// keeps their longest gap.
func (o *probe) fold(before time.Duration) {
	last := -1
	for i, e := range o.events {
		if e.end >= before {
			break
		}
		if e.answered {
			last = i
		}
	}
	if last <= 0 {
		if len(o.events) > 4*keptEvents {
			o.events = append(o.events[:0], o.events[len(o.events)/2:]...)
		}
		return
	}
	// A probe without an answer belongs to the time at which it was sent, so
	// those still kept count for the dropped ones, too.
	o.folded = max(o.folded, longestGap(o.events[:last+1], o.events[last].end, o.events[last].end))
	o.events = append(o.events[:0], o.events[last:]...)
}

func (o *probe) close(at time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed, o.end = true, at
	}
}

func (o *probe) gap(at time.Duration) (time.Duration, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		at = o.end
	}
	oldest := at
	for begin := range o.away {
		oldest = min(oldest, begin)
	}
	return max(o.folded, longestGap(o.events, at, oldest)), o.known
}

// longestGap finds the longest time between two answers in a row in which a
// probe failed, or in which probes waited noticeably long. The time after the
// last answer, up to the end, is such a time as well; oldest is when the oldest
// probe that is still on its way was sent (end, if there is none).
func longestGap(events []probeEvent, end, oldest time.Duration) time.Duration {
	// A probe that fails at once tells of that moment, one that waits in
	// vain of the moment at which it was sent: others may be answered since.
	var failures []time.Duration
	// For each event, when the oldest probe was sent that is answered by it or
	// by a later one.
	waiting := make([]time.Duration, len(events)+1)
	waiting[len(events)] = oldest
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		waiting[i] = waiting[i+1]
		switch {
		case e.answered:
			waiting[i] = min(waiting[i], e.begin)
		case e.end-e.begin < noticeable:
			failures = append(failures, e.end)
		default:
			failures = append(failures, e.begin)
		}
	}
	slices.Sort(failures)
	failedIn := func(a, b time.Duration) bool {
		i, _ := slices.BinarySearch(failures, a)
		return i < len(failures) && failures[i] <= b
	}
	var longest, last time.Duration
	have := false
	for i, e := range events {
		if !e.answered || e.end > end {
			continue
		}
		if have && e.end-last > longest &&
			(failedIn(last, e.end) || e.end-max(last, waiting[i]) > noticeable) {
			longest = e.end - last
		}
		last, have = e.end, true
	}
	if have && end-last > longest && (failedIn(last, end) || end-max(last, oldest) > noticeable) {
		longest = end - last
	}
	return longest
}
