// Package fastcgi asks a FastCGI application one question: a client for health
// checks. It speaks as much of the protocol as one request needs (FastCGI
// Specification 1.0, role responder, no keep-alive), and trusts nothing of the
// answer: whatever the other side sends, an answer is bounded in size and a
// request in time.
package fastcgi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"time"
)

// Response is the answer to one request.
type Response struct {
	// Status is that of the CGI header "Status:", 302 where there is none but
	// a Location, else 200 (RFC 3875, section 6).
	Status int
	Header http.Header // of the answer, without Status
	Body   []byte
	// Stderr is what the application wrote to its error stream: PHP-FPM says
	// "Primary script unknown" there.
	Stderr []byte
	// AppStatus is the exit status of the application.
	AppStatus uint32
}

// Bounds of an answer and of what is asked.
const (
	maxOutput  = 1 << 20   // bytes of header and body together
	maxStderr  = 64 << 10  // bytes of the error stream
	maxTotal   = 4 << 20   // bytes of all records with their padding
	maxRecords = 50_000    // records, empty ones counted
	maxParams  = 256 << 10 // bytes of what is asked
	fallback   = 30 * time.Second
)

// The protocol, as the specification names it.
const (
	version1 = 1

	typeBegin      = 1
	typeEnd        = 3
	typeParams     = 4
	typeStdin      = 5
	typeStdout     = 6
	typeStderr     = 7
	typeValues     = 10
	typeUnknown    = 11
	roleResponder  = 1
	requestID      = 1
	maxContent     = 65535
	requestDone    = 0
	noMultiplexing = 1
	overloaded     = 2
	unknownRole    = 3
)

// Do sends one request with those parameters and an empty body over conn, reads
// the answer to its end, and closes conn: the application is told not to keep
// it. ctx bounds the whole of it, 30 seconds do where it has no deadline.
//
// Parameters go as they are given: SCRIPT_FILENAME, REQUEST_METHOD and their
// kin are the caller's. An application that says no in its own words (status
// 404, 500) is an answer, no error. An error is a connection that ends too
// early, an answer that is none or too large, a refusal of the protocol.
func Do(ctx context.Context, conn net.Conn, params map[string]string) (*Response, error) {
	defer conn.Close()
	r, err := do(ctx, conn, params)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			err = context.DeadlineExceeded // by a moment before ctx itself
		}
		return nil, fmt.Errorf("cannot ask the FastCGI application: %w", err)
	}
	return r, nil
}

func do(ctx context.Context, conn net.Conn, params map[string]string) (*Response, error) {
	request, err := encode(params)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(fallback)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	// A deadline in the past wakes reads and writes that wait.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	// Sent beside the reading: an application that answers before it has read
	// all must not stand against us who have not read yet.
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = conn.Write(request) // what fails here fails there, too
	}()
	a := answer{in: bufio.NewReader(conn)}
	err = a.read()
	_ = conn.SetWriteDeadline(time.Unix(1, 0))
	<-sent
	if err != nil {
		return nil, err
	}
	return a.response()
}

// encode makes the request: begin, parameters, an empty body.
func encode(params map[string]string) ([]byte, error) {
	var pairs []byte
	for _, name := range slices.Sorted(maps.Keys(params)) {
		value := params[name]
		if name == "" || len(name)+len(value) > maxParams-len(pairs) {
			return nil, errors.New("a parameter without a name, or too many of them")
		}
		pairs = appendLength(appendLength(pairs, len(name)), len(value))
		pairs = append(append(pairs, name...), value...)
	}
	out := appendRecord(nil, typeBegin, []byte{0, roleResponder, 0, 0, 0, 0, 0, 0})
	for len(pairs) > 0 {
		n := min(len(pairs), maxContent)
		out = appendRecord(out, typeParams, pairs[:n])
		pairs = pairs[n:]
	}
	out = appendRecord(out, typeParams, nil)
	return appendRecord(out, typeStdin, nil), nil
}

// appendLength writes a length of a name or a value: one byte, or four with the
// highest bit set.
func appendLength(b []byte, n int) []byte {
	if n < 128 {
		return append(b, byte(n))
	}
	return binary.BigEndian.AppendUint32(b, uint32(n)|1<<31) //nolint:gosec // bounded by maxParams
}

// appendRecord pads to eight bytes, as the specification advises.
func appendRecord(b []byte, kind byte, content []byte) []byte {
	padding := -len(content) & 7
	b = append(b, version1, kind, 0, requestID, byte(len(content)>>8), byte(len(content)), byte(padding), 0)
	b = append(b, content...)
	return append(b, make([]byte, padding)...)
}

// answer is what has come of one so far.
type answer struct {
	in        *bufio.Reader
	out       []byte
	stderr    []byte
	appStatus uint32
	total     int
}

// read takes records until the application ends the request.
func (a *answer) read() error {
	for range maxRecords {
		kind, id, content, err := a.record()
		if err != nil {
			return err
		}
		switch {
		case id == 0 && (kind == typeValues || kind == typeUnknown):
			// About the application itself. Nobody has asked, nobody minds.
		case id != requestID:
			return fmt.Errorf("a record of request %d came, which was never begun", id)
		case kind == typeStdout:
			if len(a.out)+len(content) > maxOutput {
				return fmt.Errorf("the answer has more than %d bytes", maxOutput)
			}
			a.out = append(a.out, content...)
		case kind == typeStderr:
			// What is too much of it is dropped: it is told, not judged.
			a.stderr = append(a.stderr, content[:min(len(content), maxStderr-len(a.stderr))]...)
		case kind == typeEnd:
			return a.end(content)
		default:
			return fmt.Errorf("a record of type %d came, which no application sends", kind)
		}
	}
	return fmt.Errorf("the answer has more than %d records", maxRecords)
}

func (a *answer) record() (kind byte, id uint16, content []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(a.in, head[:]); err != nil {
		return 0, 0, nil, ended(err)
	}
	if head[0] != version1 {
		return 0, 0, nil, fmt.Errorf("what came is not FastCGI: version %d", head[0])
	}
	length, padding := int(binary.BigEndian.Uint16(head[4:])), int(head[6])
	if a.total += len(head) + length + padding; a.total > maxTotal {
		return 0, 0, nil, fmt.Errorf("the answer has more than %d bytes with its padding", maxTotal)
	}
	content = make([]byte, length+padding)
	if _, err := io.ReadFull(a.in, content); err != nil {
		return 0, 0, nil, ended(err)
	}
	return head[1], binary.BigEndian.Uint16(head[2:]), content[:length], nil
}

// ended tells an end in the middle of an answer from other errors.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the connection was closed before the answer was complete: %w", io.ErrUnexpectedEOF)
	}
	return err
}

func (a *answer) end(content []byte) error {
	if len(content) < 8 {
		return errors.New("the record that ends the request is too short")
	}
	a.appStatus = binary.BigEndian.Uint32(content)
	switch content[4] {
	case requestDone:
		return nil
	case noMultiplexing:
		return errors.New("the application refuses: it takes one request at a time")
	case overloaded:
		return errors.New("the application refuses: it is overloaded")
	case unknownRole:
		return errors.New("the application refuses: it does not answer requests of this kind")
	}
	return fmt.Errorf("the application ended the request with protocol status %d", content[4])
}
