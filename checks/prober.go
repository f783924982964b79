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

	"github.com/jailup/jailup/internal/webconf"
)

const (
	proberRate    = 20              // probes a second and listen
	proberTimeout = 5 * time.Second // of one probe
	maxProbed     = 32              // listens; more would be a load of their own
	maxInFlight   = 2 * proberRate * int(proberTimeout/time.Second)
	// keptEvents bounds the memory of a listen; older ones are folded into
	// the longest gap so far.
	keptEvents = 20_000
	keptBack   = 30 * time.Second
	// noticeable is how long answers must stay out, with no probe failing,
	// to count as a gap: requests that waited in the queue of a socket.
	noticeable = 250 * time.Millisecond
)

// Prober measures downtime as clients see it: it asks each of the server's
// listens 20 times a second, each time on a new connection, from Start to Stop.
// A probe is answered by any sign of the server: a status of any kind, a
// refused TLS handshake, an orderly close; where the protocol is not HTTP, by
// an accepted connection. Refused, reset and timed out are no answers.
type Prober struct {
	period  time.Duration
	timeout time.Duration
	probes  []*probe

	mu     sync.Mutex
	cancel context.CancelFunc
	wait   sync.WaitGroup
	start  time.Time
}

// ProbeCount is what was counted on one listen.
type ProbeCount struct {
	Listen   string `json:"listen"`
	Sent     int    `json:"sent"`
	Answered int    `json:"answered"`
	Failed   int    `json:"failed"` // some may be on their way: Sent is no sum
}

// NewProber makes a prober for the sockets of a target, of which it takes the
// first 32. UDP is not probed.
func NewProber(t Target) *Prober {
	dial := t.Dial
	if dial == nil {
		dial = dialer(t.Parents)
	}
	p := &Prober{period: time.Second / proberRate, timeout: proberTimeout}
	for _, l := range webconf.Sockets(t.Listens) {
		if l.Network == "udp" || len(p.probes) >= maxProbed {
			continue
		}
		host := ""
		for _, v := range t.VHosts {
			for _, own := range v.Listens {
				if host == "" && own.String() == l.String() {
					host = v.HostName()
				}
			}
		}
		p.probes = append(p.probes, &probe{
			name: l.String(), network: l.Network, address: dialAddress(l), dial: dial,
			http: l.Context == "http" && !(l.HTTP2 && !l.SSL), tls: l.SSL, proxy: l.ProxyProtocol, host: host,
		})
	}
	return p
}

// Start begins to probe. A second call does nothing.
func (p *Prober) Start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.start = cancel, time.Now()
	for _, one := range p.probes {
		p.wait.Go(func() { p.run(ctx, one) })
	}
}

// Stop ends all probing and waits for it. Probes on their way count as never
// sent. A second call does nothing, nor one without Start.
func (p *Prober) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel == nil {
		return
	}
	for _, one := range p.probes {
		one.close(time.Since(p.start))
	}
	p.cancel()
	p.wait.Wait()
}

// run keeps the schedule of one listen: a probe that hangs does not delay the
// next one.
func (p *Prober) run(ctx context.Context, one *probe) {
	tick := time.NewTicker(p.period)
	defer tick.Stop()
	var flight sync.WaitGroup
	defer flight.Wait()
	for {
		if one.flying.Load() < int64(maxInFlight) {
			one.flying.Add(1)
			flight.Go(func() {
				defer one.flying.Add(-1)
				p.once(ctx, one)
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *Prober) once(ctx context.Context, one *probe) {
	limited, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	begin := time.Since(p.start)
	one.depart(begin)
	at, connected, err := one.ask(limited)
	if err != nil && ctx.Err() != nil {
		return // cut off by Stop
	}
	one.enter(begin, at.Sub(p.start), connected, err == nil)
}

// Gap returns the longest time in which probes of a listen got no answer: from
// the last answer before to the first one after, or to now (or Stop) where
// none came. Times before a listen's first answer do not count: it was down
// before. Ok is false where there was nothing to measure: no listen, or none
// that ever answered. Answers that come without a break give 0, true.
func (p *Prober) Gap() (longest time.Duration, ok bool) {
	for _, g := range p.gaps() {
		if g.known {
			longest, ok = max(longest, g.length), true
		}
	}
	return longest, ok
}

// Gaps returns the gap of each listen that ever answered, by its name.
func (p *Prober) Gaps() map[string]time.Duration {
	all := map[string]time.Duration{}
	for _, g := range p.gaps() {
		if g.known {
			all[g.name] = g.length
		}
	}
	return all
}

type gap struct {
	name   string
	length time.Duration
	known  bool
}

func (p *Prober) gaps() []gap {
	p.mu.Lock()
	at := time.Duration(0)
	if p.cancel != nil {
		at = time.Since(p.start)
	}
	p.mu.Unlock()
	var list []gap
	for _, one := range p.probes {
		length, known := one.gap(at)
		list = append(list, gap{one.name, length, known})
	}
	return list
}

// Counts returns what was counted, for each listen that is probed.
func (p *Prober) Counts() []ProbeCount {
	var list []ProbeCount
	for _, one := range p.probes {
		one.mu.Lock()
		list = append(list, ProbeCount{Listen: one.name, Sent: one.sent, Answered: one.answered, Failed: one.failed})
		one.mu.Unlock()
	}
	return list
}

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
			if (errors.As(err, &op) && op.Op == "remote error") || errors.Is(err, io.EOF) {
				err = nil // it spoke
			}
			return time.Now(), true, err
		}
		conn = t
	}
	if !o.http {
		return time.Now(), true, nil
	}
	host := o.host
	if host == "" {
		host = o.address
		if o.network == "unix" {
			host = "localhost"
		}
	}
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nUser-Agent: jailup\r\nConnection: close\r\n\r\n", host); err != nil {
		return time.Now(), true, err
	}
	first := make([]byte, 1)
	_, err = io.ReadFull(conn, first)
	at = time.Now()
	if err != nil && !errors.Is(err, io.EOF) {
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
