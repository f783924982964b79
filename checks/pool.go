package checks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fastcgi"
	"github.com/jailup/jailup/internal/phpconf"
)

// noScript is a script that cannot be there: FPM says so itself, and no line
// of PHP is run for it. Its name ends in what pools let through.
const noScript = "/.jailup/there-is-no-such-script.php"

// maxPools bounds the pools that are asked.
const maxPools = 100

// poolCheck asks one pool of PHP-FPM through its own socket, as a web server
// would.
type poolCheck struct {
	name string
	pool phpconf.Pool
	dial DialFunc
}

// pools makes one check for each pool.
func (t *Target) pools(set *Set) []Check {
	var list []Check
	for i, p := range t.Pools {
		if i >= maxPools {
			set.notes = append(set.notes, fmt.Sprintf("%d pools are not asked: only the first %d are", len(t.Pools)-i, maxPools))
			break
		}
		if p.Network == "" || p.Address == "" {
			set.notes = append(set.notes, "the pool "+event.Clean(p.Name, 100)+" is not asked: it listens nowhere that is known")
			continue
		}
		list = append(list, &poolCheck{name: t.name(KindFastCGI, p.Name), pool: p, dial: t.Dial})
	}
	return list
}

func (c *poolCheck) Name() string { return c.name }

func (c *poolCheck) Run(ctx context.Context) Observation {
	o := Observation{Kind: KindFastCGI, Values: map[string]string{}}
	begin := time.Now()
	switch {
	case c.pool.PingPath != "":
		c.ping(ctx, &o)
	case c.pool.StatusPath != "":
		c.status(ctx, &o)
	default:
		c.missing(ctx, &o)
	}
	o.Took = time.Since(begin)
	if o.OK && c.pool.PingPath != "" && c.pool.StatusPath != "" {
		c.load(ctx, &o)
	}
	return o
}

// ask sends one request. File is where the script is, as the pool's workers see
// it: below the pool's own root, if it has one.
func (c *poolCheck) ask(ctx context.Context, script, query string) (*fastcgi.Response, error) {
	conn, err := c.dial(ctx, c.pool.Network, c.pool.Address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	uri := script
	if query != "" {
		uri += "?" + query
	}
	return fastcgi.Do(ctx, conn, map[string]string{
		"GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": http.MethodGet, "SCRIPT_FILENAME": script,
		"SCRIPT_NAME": script, "REQUEST_URI": uri, "DOCUMENT_URI": script, "DOCUMENT_ROOT": "/",
		"QUERY_STRING": query, "CONTENT_TYPE": "", "CONTENT_LENGTH": "", "SERVER_PROTOCOL": "HTTP/1.1",
		"SERVER_SOFTWARE": "jailup", "REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "0",
		"SERVER_ADDR": "127.0.0.1", "SERVER_PORT": "80", "SERVER_NAME": "localhost", "REDIRECT_STATUS": "200",
	})
}

func (c *poolCheck) where() string {
	return "the pool " + event.Clean(c.pool.Name, 100) + " at " + event.Clean(c.pool.Address, 200)
}

// silent is what no answer means.
func (c *poolCheck) silent(o *Observation, err error) {
	if errors.Is(err, errNoWay) {
		o.Inconclusive = true
		o.Detail = "cannot ask " + c.where() + ": " + event.Clean(err.Error(), 300)
		return
	}
	o.Pending = true
	o.Detail = "no answer from " + c.where() + ": " + reason(err)
}

// answered notes an answer.
func (c *poolCheck) answered(o *Observation, r *fastcgi.Response) {
	o.Values["status"] = strconv.Itoa(r.Status)
	o.Detail = fmt.Sprintf("%s answers %d", c.where(), r.Status)
}

// ping asks for the page that is there to be asked for.
func (c *poolCheck) ping(ctx context.Context, o *Observation) {
	want := c.pool.PingResponse
	if want == "" {
		want = "pong"
	}
	r, err := c.ask(ctx, c.pool.PingPath, "")
	if err != nil {
		c.silent(o, err)
		return
	}
	c.answered(o, r)
	if got := bytes.TrimSpace(r.Body); r.Status != http.StatusOK || string(got) != want {
		o.Detail += fmt.Sprintf(" to a ping, with %s", quoted(short(got)))
		return
	}
	o.OK = true
	o.Detail = c.where() + " answers a ping"
}

func short(b []byte) string { return string(b[:min(len(b), 80)]) }

// status asks for the page that tells of the pool.
func (c *poolCheck) status(ctx context.Context, o *Observation) {
	r, err := c.ask(ctx, c.pool.StatusPath, "json")
	if err != nil {
		c.silent(o, err)
		return
	}
	c.answered(o, r)
	if r.Status != http.StatusOK || !c.told(o, r.Body) {
		o.Detail += fmt.Sprintf(" for its status, with %s", quoted(short(r.Body)))
		return
	}
	o.OK = true
	o.Detail = c.where() + " tells its status" + o.Detail
}

// load adds what the status page tells to a pool that is well; without it, it
// is as well.
func (c *poolCheck) load(ctx context.Context, o *Observation) {
	if r, err := c.ask(ctx, c.pool.StatusPath, "json"); err == nil && r.Status == http.StatusOK {
		before := o.Detail
		if c.told(o, r.Body) {
			o.Detail = before + o.Detail
		}
	}
}

// told takes what is worth knowing out of a status page; the detail becomes
// what it says.
func (c *poolCheck) told(o *Observation, body []byte) bool {
	var page struct {
		Pool     string `json:"pool"`
		Accepted *int64 `json:"accepted conn"`
		Queue    int64  `json:"listen queue"`
		Active   int64  `json:"active processes"`
		Reached  int64  `json:"max children reached"`
	}
	if json.Unmarshal(body, &page) != nil || page.Accepted == nil {
		return false
	}
	o.Values["accepted_conn"] = strconv.FormatInt(*page.Accepted, 10)
	o.Values["listen_queue"] = strconv.FormatInt(page.Queue, 10)
	o.Detail = fmt.Sprintf(": %d requests so far, %d in the queue", *page.Accepted, page.Queue)
	if page.Reached > 0 {
		o.Detail += fmt.Sprintf(", %d times out of workers", page.Reached)
	}
	return true
}

// missing asks for a script that cannot be there: that FPM says so is health.
func (c *poolCheck) missing(ctx context.Context, o *Observation) {
	r, err := c.ask(ctx, noScript, "")
	if err != nil {
		c.silent(o, err)
		return
	}
	c.answered(o, r)
	switch {
	case r.Status == http.StatusNotFound, r.Status == http.StatusForbidden:
		// By security.limit_extensions it is forbidden, if it is not missing.
		o.OK = true
		o.Detail = fmt.Sprintf("%s answers: it says %d of a script that is not there, as it should", c.where(), r.Status)
	default:
		o.Detail += fmt.Sprintf(" for a script that is not there, with %s", quoted(short(r.Body)))
	}
}
