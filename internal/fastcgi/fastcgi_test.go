package fastcgi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRequestIsByTheSpecification(t *testing.T) {
	t.Parallel()
	params := map[string]string{"A": "", "NAME": "value", strings.Repeat("N", 127): strings.Repeat("v", 128), strings.Repeat("L", 300): strings.Repeat("w", 100_000)}
	ours, theirs := net.Pipe()
	got := make(chan asked, 1)
	go func() {
		defer theirs.Close()
		got <- readRequest(t, theirs)
		_, _ = io.WriteString(theirs, out("Content-Type: text/plain\r\n\r\nhello")+record(typeStdout, 1, "", 0)+done(7, 0))
	}()
	r, err := Do(t.Context(), ours, params)
	require.NoError(t, err)
	a := <-got
	require.Equal(t, byte(roleResponder), a.role)
	require.Zero(t, a.flags, "the connection is not to be kept")
	require.Equal(t, params, a.params)
	require.Empty(t, a.stdin)
	require.Greater(t, len(a.sizes), 2)
	require.Equal(t, &Response{Status: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("hello"), AppStatus: 7}, r)
	_, err = ours.Write([]byte("x"))
	require.Error(t, err, "the connection is closed")
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 65535)
	for name, test := range map[string]struct {
		answer string
		status int
		body   string
		stderr string
		fault  string
	}{
		"plain":                      {answer: out("A: b\n\nbody") + done(0, 0), status: 200, body: "body"},
		"status":                     {answer: out("Status: 404 Not Found\r\nA: b\r\n\r\nx") + done(0, 0), status: 404, body: "x"},
		"status alone":               {answer: out("status:503\n\n") + done(0, 0), status: 503},
		"redirect":                   {answer: out("Location: /x\n\n") + done(0, 0), status: 302},
		"redirect with status":       {answer: out("Status: 301 Moved\nLocation: /x\n\n") + done(0, 0), status: 301},
		"padding":                    {answer: record(typeStdout, 1, "A: b\n\nbo", 255) + record(typeStdout, 1, "dy", 3) + done(0, 0), status: 200, body: "body"},
		"in pieces":                  {answer: out("A:") + out(" b\r") + out("\n\r\n") + out("x") + done(0, 0), status: 200, body: "x"},
		"errors beside":              {answer: record(typeStderr, 1, "PHP message: no\n", 0) + out("A: b\n\n") + record(typeStderr, 1, "more", 0) + done(0, 0), status: 200, stderr: "PHP message: no\nmore"},
		"about the application":      {answer: record(typeValues, 0, "x", 0) + record(typeUnknown, 0, "12345678", 0) + out("A: b\n\n") + done(0, 0), status: 200},
		"more behind the end":        {answer: out("A: b\n\nx") + done(0, 0) + out("y"), status: 200, body: "x"},
		"nothing":                    {answer: "", fault: "closed before"},
		"cut off":                    {answer: out("A: b\n\nbody"), fault: "closed before"},
		"cut off in a head":          {answer: out("A: b\n\nbody") + "\x01\x03", fault: "closed before"},
		"cut off in a record":        {answer: out("A: b\n\nbody")[:12], fault: "closed before"},
		"cut off in the padding":     {answer: record(typeStdout, 1, "A: b\n\n", 200)[:30], fault: "closed before"},
		"no answer":                  {answer: record(typeStderr, 1, "gone\x1b[2J", 0) + done(255, 0), fault: "status 255 and without an answer: gone"},
		"no header":                  {answer: out("\nbody") + done(0, 0), fault: "no header"},
		"header without an end":      {answer: out("A: b\nbody") + done(0, 0), fault: "no end"},
		"a line that is no field":    {answer: out("A: b\nbody\n\n") + done(0, 0), fault: "no field"},
		"a name that is no name":     {answer: out("A b: b\n\n") + done(0, 0), fault: "no field"},
		"status that is none":        {answer: out("Status: ok\n\n") + done(0, 0), fault: "status"},
		"status too small":           {answer: out("Status: 099\n\n") + done(0, 0), fault: "status"},
		"status too long":            {answer: out("Status: 2000\n\n") + done(0, 0), fault: "status"},
		"long header":                {answer: out("A: "+long[:65000]) + out(long) + out("\n\n") + done(0, 0), fault: "no end"},
		"many fields":                {answer: out(strings.Repeat("A: b\n", 2000)+"\n") + done(0, 0), fault: "no end"},
		"another request":            {answer: record(typeStdout, 2, "A: b\n\n", 0), fault: "request 2"},
		"another request's end":      {answer: record(typeEnd, 2, "12345678", 0), fault: "request 2"},
		"about nobody":               {answer: record(typeStdout, 0, "A: b\n\n", 0), fault: "request 0"},
		"a type of ours":             {answer: record(typeParams, 1, "", 0), fault: "type 4"},
		"a type of nobody":           {answer: record(99, 1, "", 0), fault: "type 99"},
		"another version":            {answer: "\x02" + out("A: b\n\n")[1:], fault: "not FastCGI"},
		"another protocol":           {answer: "HTTP/1.1 400 Bad Request\r\n\r\n", fault: "not FastCGI"},
		"too short an end":           {answer: out("A: b\n\n") + record(typeEnd, 1, "1234567", 0), fault: "too short"},
		"overloaded":                 {answer: done(0, overloaded), fault: "overloaded"},
		"one at a time":              {answer: done(0, noMultiplexing), fault: "one request at a time"},
		"another role":               {answer: done(0, unknownRole), fault: "kind"},
		"an unknown end":             {answer: done(0, 9), fault: "protocol status 9"},
		"too much":                   {answer: out("A: b\n\n") + strings.Repeat(out(long), 20), fault: "more than 1048576 bytes"},
		"too much of errors":         {answer: strings.Repeat(record(typeStderr, 1, long, 0), 3) + out("A: b\n\n") + done(0, 0), status: 200, stderr: strings.Repeat("x", maxStderr)},
		"endless errors":             {answer: strings.Repeat(record(typeStderr, 1, long, 0), 70), fault: "with its padding"},
		"endless padding":            {answer: strings.Repeat(record(typeStdout, 1, "", 255), 20_000), fault: "with its padding"},
		"endless empty records":      {answer: strings.Repeat(out(""), maxRecords+1), fault: "records"},
		"endless about the app":      {answer: strings.Repeat(record(typeValues, 0, "", 0), maxRecords+1), fault: "records"},
		"a body of the largest size": {answer: out("A: b\n\n") + strings.Repeat(out(strings.Repeat("y", 1<<15)), 31) + done(0, 0), status: 200, body: strings.Repeat("y", 31<<15)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := Do(t.Context(), answering(t, test.answer), map[string]string{"A": "b"})
			if test.fault != "" {
				require.ErrorContains(t, err, "cannot ask the FastCGI application: ")
				require.ErrorContains(t, err, test.fault)
				require.NotContains(t, err.Error(), "\x1b")
				require.Nil(t, r)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.status, r.Status)
			require.Equal(t, test.body, string(r.Body))
			require.Equal(t, test.stderr, string(r.Stderr))
			require.Empty(t, r.Header.Get("Status"))
		})
	}
}

func TestTimeIsBounded(t *testing.T) {
	t.Parallel()
	// It reads nothing and says nothing.
	silent := func() net.Conn {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { theirs.Close() })
		return ours
	}
	// It talks and never comes to an end.
	endless := func() net.Conn {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			for {
				if _, err := io.WriteString(theirs, out("")); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}()
		t.Cleanup(func() { theirs.Close() })
		return ours
	}
	for name, open := range map[string]func() net.Conn{"silent": silent, "endless": endless} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		start := time.Now()
		_, err := Do(ctx, open(), map[string]string{"A": "b"})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.Less(t, time.Since(start), 10*time.Second, name)

		why := errors.New("no longer wanted")
		stopped, stop := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { stop(why) })
		_, err = Do(stopped, open(), map[string]string{"A": "b"})
		require.ErrorIs(t, err, why, name)
		_, err = Do(stopped, open(), map[string]string{"A": "b"})
		require.ErrorIs(t, err, why, name)
	}
}

// It answers and closes before it has read what is asked.
func TestAnswerBeforeTheQuestionIsRead(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		_, _ = io.WriteString(theirs, out("Status: 500 no\n\n")+done(0, 0))
	}()
	r, err := Do(t.Context(), ours, map[string]string{"A": strings.Repeat("b", 200_000)})
	require.NoError(t, err)
	require.Equal(t, 500, r.Status)
}

func TestTooMuchIsNotAsked(t *testing.T) {
	t.Parallel()
	for _, params := range []map[string]string{{"": "x"}, {"A": strings.Repeat("x", maxParams)}} {
		_, err := Do(t.Context(), answering(t, ""), params)
		require.ErrorContains(t, err, "parameter")
	}
}

// Whatever comes, an answer is in bounds or an error.
func FuzzResponse(f *testing.F) {
	f.Add([]byte(out("A: b\n\nbody") + done(0, 0)))
	f.Add([]byte(record(typeStderr, 1, "x", 7) + out("Status: 404 Not Found\r\nX: y\r\n\r\n") + done(1, 0)))
	f.Add([]byte(record(typeValues, 0, "", 3) + done(0, overloaded)))
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Do(t.Context(), answering(t, string(text)), map[string]string{"A": "b"})
		if err != nil {
			require.Nil(t, r)
			return
		}
		require.GreaterOrEqual(t, r.Status, 100)
		require.Less(t, r.Status, 1000)
		require.LessOrEqual(t, len(r.Body), maxOutput)
		require.LessOrEqual(t, len(r.Stderr), maxStderr)
		require.LessOrEqual(t, len(r.Body)+len(r.Stderr), len(text))
	})
}
