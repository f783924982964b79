package checks

import (
	"context"
	"errors"
	"time"

	"github.com/jailup/jailup/internal/event"
)

// tcpCheck connects and goes away: for servers whose protocol is not known.
type tcpCheck struct {
	name             string
	network, address string
	dial             DialFunc
	maxTime          time.Duration
}

func (c *tcpCheck) Name() string { return event.Clean(c.name, 300) }

func (c *tcpCheck) Run(ctx context.Context) Observation {
	o := Observation{Kind: KindTCP, Values: map[string]string{}}
	begin := time.Now()
	conn, err := c.dial(ctx, c.network, c.address)
	o.Took = time.Since(begin)
	where := event.Clean(c.address, 200)
	switch {
	case errors.Is(err, errNoWay):
		o.Inconclusive = true
		o.Detail = "cannot ask " + where + ": " + event.Clean(err.Error(), 300)
		return o
	case err != nil:
		o.Pending = true
		o.Detail = "no connection to " + where + ": " + reason(err)
		return o
	}
	conn.Close()
	o.OK = true
	o.Detail = where + " accepts connections"
	if c.maxTime > 0 && o.Took > c.maxTime {
		o.OK = false
		o.Detail = where + " took " + o.Took.Round(time.Millisecond).String() + ", expected is at most " + c.maxTime.String()
	}
	return o
}
