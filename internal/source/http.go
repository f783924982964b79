package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// HTTPOptions bounds what a mirror may cost. The zero value means the defaults,
// under which a mirror that misbehaves is given up within 10 s.
type HTTPOptions struct {
	Connect   time.Duration // to look up and connect, default 4 s
	Header    time.Duration // from the request to the end of the answer's header, default 4 s; redirects included, an attempt has both together
	Stall     time.Duration // in which MinRate bytes a second must come, default 4 s
	MinRate   int64         // bytes a second, default 1024
	Lost      time.Duration // spent on attempts that failed; then no more, default 5 s
	Attempts  int           // for one file, default 4
	Parallel  int           // downloads at once, default 4
	Redirects int           // default 5

	// Proxy overrides the proxy of the environment (HTTP_PROXY, HTTPS_PROXY,
	// NO_PROXY); nil and no error mean none.
	Proxy func(*url.URL) (*url.URL, error)

	lookup func(ctx context.Context, host string) ([]netip.Addr, error) // tests
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
}

func (o HTTPOptions) withDefaults() HTTPOptions {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Connect, 4*time.Second)
	set(&o.Header, 4*time.Second)
	set(&o.Stall, 4*time.Second)
	set(&o.Lost, 5*time.Second)
	if o.MinRate <= 0 {
		o.MinRate = 1024
	}
	if o.Attempts <= 0 {
		o.Attempts = 4
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Redirects <= 0 {
		o.Redirects = 5
	}
	if o.Proxy == nil {
		o.Proxy = func(u *url.URL) (*url.URL, error) { return http.ProxyFromEnvironment(&http.Request{URL: u}) }
	}
	if o.lookup == nil {
		o.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return o
}

var (
	errRedirect = errors.New("refused redirect")
	errNoAnswer = errors.New("no answer in time")
	errSlow     = errors.New("the answer comes too slowly")
	errTooLong  = errors.New("the answer is longer than it may be")
	errNoRange  = errors.New("the server did not send the part that was asked for")
)

// newClient makes the one client through which everything is downloaded.
func newClient(o HTTPOptions) *http.Client {
	dialer := &net.Dialer{Timeout: o.Connect, KeepAlive: 15 * time.Second}
	dial := o.dial
	if dial == nil {
		dial = dialer.DialContext
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) { return o.Proxy(r.URL) },
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := dial(ctx, network, addr)
				if least, ok := ctx.Value(leastReach{}).(reach); ok && err == nil && reachOf(remoteAddr(c)) < least {
					c.Close()
					return nil, fmt.Errorf("%w to the private address %s", errRedirect, c.RemoteAddr())
				}
				return c, err
			},
			TLSHandshakeTimeout:    o.Connect,
			ResponseHeaderTimeout:  o.Header,
			ExpectContinueTimeout:  time.Second,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    o.Parallel,
			DisableCompression:     true, // sizes and digests are those of the file
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error { return checkRedirect(o, r, via) },
	}
}

// leastReach marks the context of a request that was redirected: its connection
// must not end further in than where it began, whatever the name server says by
// then.
type leastReach struct{}

// reach tells from how far away an address can be reached.
type reach int

const (
	fromNowhere reach = iota // by link-local means only, where clouds keep their secrets; or no host's address at all
	fromHere                 // loopback
	fromInside               // private networks
	fromAll
)

func reachOf(a netip.Addr) reach {
	a = a.Unmap()
	switch {
	case a.IsLoopback():
		return fromHere
	case !a.IsGlobalUnicast():
		return fromNowhere
	case !isPublic(a):
		return fromInside
	}
	return fromAll
}

// checkRedirect lets a redirect pass that stays in the open: to http or https,
// never from https back to http, in few hops, and not further in than where it
// began: from a public host to one of this network's or this machine's, which a
// stranger could not reach himself, or from any to a link-local address.
func checkRedirect(o HTTPOptions, r *http.Request, via []*http.Request) error {
	from := via[len(via)-1].URL
	switch {
	case len(via) > o.Redirects:
		return fmt.Errorf("%w: more than %d in a row", errRedirect, o.Redirects)
	case r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return fmt.Errorf("%w to a %s: address", errRedirect, r.URL.Scheme)
	case from.Scheme == "https" && r.URL.Scheme != "https":
		return fmt.Errorf("%w from https to http", errRedirect)
	case r.URL.Hostname() == "":
		return fmt.Errorf("%w to an address without a host", errRedirect)
	case r.URL.Host == via[0].URL.Host:
		return nil
	}
	if proxy, err := o.Proxy(r.URL); err == nil && proxy != nil {
		// The proxy looks names up and connects; only what is written can be judged.
		if host := r.URL.Hostname(); isInside(host) {
			return fmt.Errorf("%w to the private address %s", errRedirect, host)
		}
		return nil
	}
	least := fromAll // also of a host that only a proxy can look up
	if list := o.addrs(r.Context(), via[0].URL.Hostname()); len(list) > 0 {
		least = fromNowhere
		for _, a := range list {
			least = max(least, reachOf(a))
		}
	}
	for _, a := range o.addrs(r.Context(), r.URL.Hostname()) {
		if reachOf(a) < least {
			return fmt.Errorf("%w from %s to the private address %s", errRedirect, via[0].URL.Hostname(), a)
		}
	}
	*r = *r.WithContext(context.WithValue(r.Context(), leastReach{}, least))
	return nil
}

// isInside tells whether a host is written as an address that is not public, as
// this machine, or as a number that inet_aton(3) would make such an address of:
// "127.1", "2852039166", "0xa9fea9fe".
func isInside(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		return !isPublic(a)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	last := host[strings.LastIndexByte(host, '.')+1:]
	digits := strings.Trim(last, "0123456789") == ""
	return host == "localhost" || last == "localhost" || digits || strings.HasPrefix(last, "0x")
}

func (o HTTPOptions) addrs(ctx context.Context, host string) []netip.Addr {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}
	}
	ctx, cancel := context.WithTimeout(ctx, o.Connect)
	defer cancel()
	list, _ := o.lookup(ctx, host)
	return list
}

// isPublic tells whether an address is one of the open Internet.
func isPublic(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range []string{"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "240.0.0.0/4", "64:ff9b:1::/48"} {
		if netip.MustParsePrefix(p).Contains(a) {
			return false
		}
	}
	return true
}

func remoteAddr(c net.Conn) netip.Addr {
	if t, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		a, _ := netip.AddrFromSlice(t.IP)
		return a
	}
	return netip.Addr{}
}

// guard does the requests of one download. It holds each answer to a length
// and a least rate, and to the part of the file that was asked for. It is the
// HTTPClient of grab, which checks none of these.
type guard struct {
	client *http.Client
	o      HTTPOptions
	size   int64         // of the whole file; below 0: unknown
	limit  int64         // of an answer, in bytes
	wait   time.Duration // for the headers of all answers together
	cancel context.CancelCauseFunc
	read   atomic.Int64 // bytes so far
}

// Do is the Do of http.Client.
func (g *guard) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", "jailup")
	start := time.Now()
	timer := time.AfterFunc(g.wait, func() { g.cancel(errNoAnswer) })
	resp, err := g.client.Do(req)
	timer.Stop()
	g.wait -= time.Since(start)
	if err != nil {
		return nil, err
	}
	if req.Method == http.MethodHead {
		return resp, nil
	}
	limit := g.limit
	if asked := req.Header.Get("Range"); asked != "" {
		var from int64
		_, _ = fmt.Sscanf(asked, "bytes=%d-", &from)
		want := fmt.Sprintf("bytes %d-%d/%d", from, g.size-1, g.size)
		if resp.StatusCode != http.StatusPartialContent || resp.Header.Get("Content-Range") != want {
			resp.Body.Close()
			return nil, errNoRange
		}
		limit = g.size - from
	} else if resp.StatusCode == http.StatusPartialContent {
		resp.Body.Close()
		return nil, errNoRange
	}
	if resp.ContentLength > limit {
		resp.Body.Close()
		return nil, fmt.Errorf("%w (%d bytes)", errTooLong, resp.ContentLength)
	}
	b := &guardedBody{ReadCloser: resp.Body, g: g, left: limit}
	b.timer = time.AfterFunc(time.Hour, b.look)
	b.timer.Reset(g.o.Stall) // only now, so that look finds the timer
	resp.Body = b
	return resp, nil
}

// guardedBody is the body of an answer under guard.
type guardedBody struct {
	io.ReadCloser
	g     *guard
	left  int64
	since atomic.Int64 // bytes since the last look
	timer *time.Timer
}

func (b *guardedBody) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.since.Add(int64(n))
	b.g.read.Add(int64(n))
	if b.left < 0 {
		return n, errTooLong
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}

// look runs every Stall and cancels the request if too little came.
func (b *guardedBody) look() {
	if float64(b.since.Swap(0)) < float64(b.g.o.MinRate)*b.g.o.Stall.Seconds() {
		b.g.cancel(errSlow)
		return
	}
	b.timer.Reset(b.g.o.Stall)
}
