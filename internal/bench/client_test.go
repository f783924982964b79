package bench

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// client asks for a page once a millisecond, each time on a new connection, and
// notes which of its questions were answered.
type client struct {
	port int
	stop chan struct{}
	wait sync.WaitGroup

	answers []answer // in order
}

type answer struct {
	at time.Time
	ok bool
}

// watch begins to ask.
func watch(port int) *client {
	c := &client{port: port, stop: make(chan struct{})}
	c.wait.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-c.stop:
				return
			case <-tick.C:
			}
			ok := c.ask()
			c.answers = append(c.answers, answer{time.Now(), ok})
		}
	})
	return c
}

func (c *client) ask() bool {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(c.port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")); err != nil {
		return false
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// down ends the asking and returns the time from the last answer before the
// first failure to the first answer after the last one.
func (c *client) down(b *testing.B) time.Duration {
	b.Helper()
	close(c.stop)
	c.wait.Wait()
	first, last := -1, -1
	for i, a := range c.answers {
		if !a.ok {
			if first < 0 {
				first = i
			}
			last = i
		}
	}
	require.Positive(b, first, "the client saw no stop, or never an answer")
	require.Less(b, last, len(c.answers)-1, "the server does not answer at the end")
	return c.answers[last+1].at.Sub(c.answers[first-1].at)
}
