package checks

import (
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
}

// expect is what a user wants; the zero value wants what was there before.
type expect struct {
	status  int
	body    *regexp.Regexp
	maxTime time.Duration
}

func newHTTPCheck(l webconf.Listen, host string, dial DialFunc) *httpCheck {
	c := &httpCheck{
		name: "http " + event.Clean(l.String(), 200), network: l.Network, address: dialAddress(l), dial: dial,
		tls: l.SSL, h2c: l.HTTP2 && !l.SSL, proxy: l.ProxyProtocol, host: host, path: "/",
	}
	if host != "" {
		c.name += " " + event.Clean(host, 200)
	}
	return c
}

func (c *httpCheck) Name() string { return c.name }

func (c *httpCheck) Run(ctx context.Context) Observation {
	o := Observation{Kind: KindHTTP, Values: map[string]string{}}
	begin := time.Now()
	var conn atomic.Pointer[watchedConn]
	answer, err := c.ask(ctx, &conn)
	o.Took = time.Since(begin)
	if err != nil {
		return c.silent(o, conn.Load(), err)
	}
	c.describe(&o, answer)
	c.meets(&o, answer)
	return o
}

// page is an answer with its body read.
type page struct {
	*http.Response
	body []byte
	cut  bool // longer than maxBody, or broken off
}

// ask sends the request. No redirect is followed, no proxy is asked, nothing
// is unpacked.
func (c *httpCheck) ask(ctx context.Context, conn *atomic.Pointer[watchedConn]) (page, error) {
	scheme := "http"
	if c.tls {
		scheme = "https"
	}
	host := c.host
	if host == "" {
		host = c.address
		if c.network == "unix" {
			host = "localhost"
		}
	}
	target, err := url.Parse(scheme + "://" + "server.invalid" + c.path)
	if err != nil {
		return page{}, err
	}
	req := (&http.Request{
		Method: http.MethodGet, URL: target, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"User-Agent": {"jailup"}, "Accept": {"*/*"}},
	}).WithContext(ctx)
	t := &http.Transport{
		DisableKeepAlives: !c.h2c, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: clientTLS(c.host),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			raw, err := connect(ctx, c.dial, c.network, c.address, c.proxy)
			if err != nil {
				return nil, err
			}
			watched := &watchedConn{Conn: raw}
			conn.Store(watched)
			return watched, nil
		},
	}
	if c.h2c {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close()
	p := page{Response: resp}
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
	return &tls.Config{InsecureSkipVerify: true, ServerName: sni(host), MinVersion: tls.VersionTLS10} //nolint:gosec
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

// watchedConn notes whether the server said anything before it closed.
type watchedConn struct {
	net.Conn
	got atomic.Bool
	eof atomic.Bool
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.got.Store(true)
	}
	if errors.Is(err, io.EOF) {
		c.eof.Store(true)
	}
	return n, err
}

// Ways of a server to answer without a status.
const (
	statusClosed = "closed"    // took the request and closed, as nginx's "return 444"
	statusAlert  = "tls-alert" // refused the handshake, as ssl_reject_handshake
)

func noStatus(s string) bool { return s == statusClosed || s == statusAlert }

// silent is what no answer means.
func (c *httpCheck) silent(o Observation, conn *watchedConn, err error) Observation {
	var op *net.OpError
	switch {
	case errors.Is(err, errNoWay):
		o.Inconclusive = true
		o.Detail = "cannot ask " + c.where() + ": " + event.Clean(err.Error(), 300)
		return o
	case errors.As(err, &op) && op.Op == "remote error":
		o.Values["status"] = statusAlert
		o.Detail = c.where() + " refuses the TLS handshake"
	case conn != nil && conn.eof.Load() && !conn.got.Load():
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

var titleTag = regexp.MustCompile(`(?is)<title[^>]*>(.{0,400}?)</title>`)

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
	o.Detail = fmt.Sprintf("%s answers %d, %s, in %s", c.where(), p.StatusCode, size(p), o.Took.Round(time.Millisecond))
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

// compareHTTP tells what is worse than it was. Pages change by themselves, so
// only what tells another page, or none, counts.
func compareHTTP(was, now Observation) []string {
	b, a := was.Values, now.Values
	if b["status"] == "" {
		return nil // it did not answer before
	}
	if a["status"] == "" {
		if now.Pending || !now.OK {
			return []string{now.Detail}
		}
		return nil
	}
	if b["expected"] != "" || a["expected"] != "" {
		return slower(was, now)
	}
	brokenBefore, brokenNow := serverError(b["status"]), serverError(a["status"])
	switch {
	case brokenBefore:
		if noStatus(a["status"]) {
			return []string{now.Detail + ", and answered " + b["status"] + " before"}
		}
		return nil // not worse, whatever it is
	case brokenNow || a["status"] != b["status"]:
		return []string{fmt.Sprintf("%s; the old one answered %s", now.Detail, describeStatus(b["status"]))}
	}
	var list []string
	if a["status"][0] == '2' {
		list = compareBodies(b, a)
	}
	if b["certificate_for_host"] == "yes" && a["certificate_for_host"] == "no" {
		list = append(list, "its certificate is not for the host, and was before")
	}
	if len(list) > 0 {
		list[0] = now.Detail + ": " + list[0]
	}
	return append(list, slower(was, now)...)
}

func describeStatus(s string) string {
	switch s {
	case statusClosed:
		return "by closing the connection"
	case statusAlert:
		return "by refusing the TLS handshake"
	}
	return s
}

func serverError(status string) bool { return len(status) == 3 && status[0] == '5' }

func slower(was, now Observation) []string {
	limit, err := strconv.ParseInt(was.Values["limit_ms"], 10, 64)
	if err != nil || limit <= 0 || now.Took.Milliseconds() <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%s; the old one took %s", now.Detail, was.Took.Round(time.Millisecond))}
}

// compareBodies compares two answers of the same good status. A file (it has
// a date or a tag, and every look at the old server gave the same bytes) that
// has another title or size is another file. What is made anew for each
// request must only keep its order of magnitude.
func compareBodies(b, a map[string]string) []string {
	var list []string
	if b["type"] != "" && a["type"] != b["type"] {
		list = append(list, fmt.Sprintf("its type was %s, is %s", b["type"], orNone(a["type"])))
	}
	before, errB := strconv.Atoi(b["length"])
	after, errA := strconv.Atoi(a["length"])
	if errA != nil || errB != nil {
		return list
	}
	factor := 4.0
	file := b["static"] != "" && b["body"] != ""
	if file {
		factor = 1.5
	}
	small, large := float64(min(before, after)), float64(max(before, after))
	switch {
	case b["body"] != "" && a["body"] == b["body"]:
	case before > 0 && after == 0:
		list = append(list, fmt.Sprintf("the page is empty, and had %d bytes", before))
	case before == 0 && after > 0:
		list = append(list, fmt.Sprintf("the page has %d bytes, and was empty", after))
	case large > factor*small && large > 64:
		list = append(list, fmt.Sprintf("the page has %d bytes, and had %d", after, before))
	case file && b["title"] != "" && a["title"] != b["title"]:
		list = append(list, fmt.Sprintf("the page's title was %q, is %q", b["title"], a["title"]))
	}
	return list
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// numeric tells values that are measures: a baseline keeps the largest.
func numeric(key string) bool { return key == "length" || key == "limit_ms" }

func larger(a, b string) string {
	x, _ := strconv.ParseInt(a, 10, 64)
	y, _ := strconv.ParseInt(b, 10, 64)
	return strconv.FormatInt(max(x, y), 10)
}
