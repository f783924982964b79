package checks

import (
	"context"
	"sync"
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
