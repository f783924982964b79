package checks

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/webconf"
)

const (
	maxBody = 1 << 20 // bytes read of an answer
	// slowFloor is the time below which no answer is called slow, however
	// fast the old server was, and slowFactor how much slower is too slow.
	slowFloor  = 2 * time.Second
	slowFactor = 10
)

// httpCheck asks for one page on a connection of its own.
type httpCheck struct {
	name             string
	network, address string
	dial             DialFunc
	tls, h2c, proxy  bool
	host, path       string // host "" asks for the address
	expect           expect
	floor            time.Duration // 0 is slowFloor
	asked            atomic.Uint32
}

// expect is what a user wants; the zero value wants what was there before.
type expect struct {
	status  int
	body    *regexp.Regexp
	maxTime time.Duration
}

// newHTTPCheck asks a listen for a host's front page; the name is the caller's.
func newHTTPCheck(l webconf.Listen, host string, dial DialFunc) *httpCheck {
	return &httpCheck{
		network: l.Network, address: dialAddress(l), dial: dial,
		tls: l.SSL, h2c: l.HTTP2 && !l.SSL, proxy: l.ProxyProtocol, host: host, path: "/",
	}
}

func (c *httpCheck) Name() string { return c.name }

func (c *httpCheck) Run(ctx context.Context) Observation {
	o, _ := c.look(ctx)
	return o
}

// look is Run, with the answer; the response in it is nil where there is none.
func (c *httpCheck) look(ctx context.Context) (Observation, page) {
	o := Observation{Kind: KindHTTP, Values: map[string]string{}}
	begin := time.Now()
	answer, err := c.ask(ctx)
	o.Took = time.Since(begin)
	if err != nil {
		return c.silent(o, err), page{}
	}
	c.describe(&o, answer)
	c.meets(&o, answer)
	return o, answer
}

// page is an answer with its body read.
type page struct {
	*http.Response
	body []byte
	cut  bool // longer than maxBody
}

// ask sends the request. No redirect is followed, no proxy is asked, nothing
// is unpacked.
func (c *httpCheck) ask(ctx context.Context) (page, error) {
	scheme := "http"
	if c.tls {
		scheme = "https"
	}
	target, err := url.Parse(scheme + "://server.invalid" + c.path)
	if err != nil {
		return page{}, err
	}
	req := (&http.Request{
		Method: http.MethodGet, URL: target, Host: hostHeader(c.host, c.network, c.address),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {c.agent()}, "Accept": {"*/*"}},
	}).WithContext(ctx)
	dial := func(ctx context.Context) (net.Conn, error) {
		return connect(ctx, c.dial, c.network, c.address, c.proxy)
	}
	if c.h2c {
		return askHTTP2(req, dial)
	}
	conn, err := dial(ctx)
	if err != nil {
		return page{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var state *tls.ConnectionState
	if c.tls {
		t := tls.Client(conn, clientTLS(c.host))
		if err := t.HandshakeContext(ctx); err != nil {
			return page{}, err
		}
		conn = t
		s := t.ConnectionState()
		state = &s
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return page{}, cause(ctx, err)
	}
	resp, err := readResponse(conn, req)
	if err != nil {
		return page{}, cause(ctx, err)
	}
	resp.TLS = state
	p, err := readPage(resp)
	return p, cause(ctx, err)
}

// agent is who asks. A server that is friendly to jailup, and to nobody else,
// is not well: every second look does not say who it is.
func (c *httpCheck) agent() string {
	if c.asked.Add(1)%2 == 0 {
		return "Mozilla/5.0"
	}
	return "jailup"
}

// cause is the context's error where that is what ended the connection.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func hostHeader(host, network, address string) string {
	switch {
	case host != "":
		return host
	case network == "unix":
		return "localhost"
	}
	return address
}

const (
	maxHeader  = 64 << 10 // bytes before the body
	maxInterim = 5        // answers 1xx before the one that counts
)

// readResponse reads the head of an answer. The client of net/http is not used:
// of a server that speaks before it is asked, it would tell on our stderr.
func readResponse(conn net.Conn, req *http.Request) (*http.Response, error) {
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	r := bufio.NewReader(limited)
	for range maxInterim {
		resp, err := http.ReadResponse(r, req)
		if limited.N == maxHeader && ended(err) {
			return nil, errClosed
		}
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			limited.N = 8 * maxBody // chunks of one byte are paid for, too
			return resp, nil
		}
	}
	return nil, errors.New("too many interim answers")
}

// errClosed tells that a request was taken and the connection closed.
var errClosed = errors.New("closed without an answer")

// ended reports an orderly end of a connection, with or without TLS's own.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

func askHTTP2(req *http.Request, dial func(context.Context) (net.Conn, error)) (page, error) {
	t := &http.Transport{
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader, Protocols: new(http.Protocols),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return page{}, err
	}
	return readPage(resp)
}

func readPage(resp *http.Response) (page, error) {
	defer resp.Body.Close()
	p := page{Response: resp}
	var err error
	p.body, err = io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if len(p.body) > maxBody {
		p.body, p.cut = p.body[:maxBody], true
	}
	if err != nil {
		return page{}, fmt.Errorf("the answer breaks off: %w", err)
	}
	return p, nil
}

// clientTLS takes any certificate: whether it is the same as before is the
// question, not whether it is a good one.
func clientTLS(host string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: sni(host), MinVersion: tls.VersionTLS10} //nolint:gosec // looked at, not trusted: the certificate is compared with the old server's
}

// sni is the name to ask for in a handshake; addresses are not sent there.
func sni(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if net.ParseIP(host) != nil {
		return ""
	}
	return host
}

// connect dials, and introduces itself where the server expects the PROXY
// protocol.
func connect(ctx context.Context, dial DialFunc, network, address string, proxy bool) (net.Conn, error) {
	conn, err := dial(ctx, network, address)
	if err != nil || !proxy {
		return conn, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "PROXY UNKNOWN\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, nil
}

// Ways of a server to answer without a status.
const (
	statusClosed = "closed"    // took the request and closed, as nginx's "return 444"
	statusAlert  = "tls-alert" // refused the handshake, as ssl_reject_handshake
)

func noStatus(s string) bool { return s == statusClosed || s == statusAlert }

// silent is what no answer means.
func (c *httpCheck) silent(o Observation, err error) Observation {
	var op *net.OpError
	switch {
	case errors.Is(err, errNoWay):
		o.Inconclusive = true
		o.Detail = "cannot ask " + c.where() + ": " + event.Clean(err.Error(), 300)
		return o
	case errors.As(err, &op) && op.Op == "remote error":
		o.Values["status"] = statusAlert
		o.Detail = c.where() + " refuses the TLS handshake"
	case errors.Is(err, errClosed):
		o.Values["status"] = statusClosed
		o.Detail = c.where() + " closes the connection without an answer"
	default:
		o.Pending = true
		o.Detail = "no answer from " + c.where() + ": " + reason(err)
		return o
	}
	// Some servers are meant to do so: with a baseline it is compared, and
	// without one nobody can tell.
	o.OK = !c.expects()
	if !o.OK {
		o.Values["expected"] = "yes"
	}
	return o
}

func (c *httpCheck) where() string {
	w := event.Clean(c.address, 200)
	if c.host != "" && !strings.HasPrefix(c.address, c.host) {
		w += " (" + event.Clean(c.host, 200) + ")"
	}
	return w
}

func (c *httpCheck) expects() bool {
	return c.expect.status != 0 || c.expect.body != nil
}

// reason shortens the errors of the net package, which tell the address again.
func reason(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		if op.Timeout() {
			return "timeout"
		}
		return event.Clean(op.Err.Error(), 200)
	}
	return event.Clean(err.Error(), 200)
}

var titleTag = lazyregexp.New(`(?is)<title[^>]*>(.{0,400}?)</title>`)

// describe takes down what is compared.
func (c *httpCheck) describe(o *Observation, p page) {
	v := o.Values
	v["status"] = strconv.Itoa(p.StatusCode)
	v["length"] = strconv.Itoa(len(p.body))
	sum := sha256.Sum256(p.body)
	v["body"] = hex.EncodeToString(sum[:8])
	if media, _, err := mime.ParseMediaType(p.Header.Get("Content-Type")); err == nil {
		v["type"] = event.Clean(media, 100)
	}
	if m := titleTag.FindSubmatch(p.body); m != nil {
		v["title"] = event.Clean(strings.TrimSpace(string(m[1])), 100)
	}
	if p.StatusCode == http.StatusOK && (p.Header.Get("Last-Modified") != "" || p.Header.Get("ETag") != "") {
		v["static"] = "yes"
	}
	if p.TLS != nil && len(p.TLS.PeerCertificates) > 0 {
		cert := p.TLS.PeerCertificates[0]
		sum := sha256.Sum256(cert.Raw)
		v["certificate"] = hex.EncodeToString(sum[:16])
		if name := sni(c.host); name != "" {
			v["certificate_for_host"] = "no"
			if cert.VerifyHostname(name) == nil {
				v["certificate_for_host"] = "yes"
			}
		}
	}
	floor := c.floor
	if floor == 0 {
		floor = slowFloor
	}
	v["limit_ms"] = strconv.FormatInt(max(floor, slowFactor*o.Took).Milliseconds(), 10)
	o.Detail = fmt.Sprintf("%s answers %d, %s, in %s", c.where(), p.StatusCode, size(p), took(o.Took))
	o.OK = p.StatusCode < 500
	// RFC 9110, 15.6.4: "temporarily", as said by what is still starting.
	o.Pending = p.StatusCode == http.StatusServiceUnavailable
}

func size(p page) string {
	if p.cut {
		return fmt.Sprintf("more than %d bytes", maxBody)
	}
	return fmt.Sprintf("%d bytes", len(p.body))
}

// meets applies what the user expects.
func (c *httpCheck) meets(o *Observation, p page) {
	e := c.expect
	if c.expects() {
		o.Values["expected"] = "yes"
		o.OK = true
	}
	defer func() { o.Pending = o.Pending && !o.OK }()
	switch {
	case e.status != 0 && p.StatusCode != e.status:
		o.OK = false
		o.Detail += fmt.Sprintf("; expected is %d", e.status)
	case e.status == 0 && e.body != nil && p.StatusCode >= 500:
		o.OK = false
	case e.body != nil && !e.body.Match(p.body):
		o.OK = false
		o.Detail += fmt.Sprintf("; the body does not match %q", e.body)
	}
	if e.maxTime > 0 && o.Took > e.maxTime {
		o.OK = false
		o.Detail += fmt.Sprintf("; expected is at most %s", e.maxTime)
	}
}

// took is a duration for a person: no answer comes in no time.
func took(d time.Duration) string {
	if d < time.Millisecond {
		return "less than 1ms"
	}
	return d.Round(time.Millisecond).String()
}
