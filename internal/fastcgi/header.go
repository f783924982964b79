package fastcgi

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/jailup/jailup/internal/event"
)

const (
	maxHeader = 64 << 10 // bytes of the header
	maxFields = 1000
)

// response parts header and body (RFC 3875, section 6.3). Lines end in LF or
// CR LF. An answer without a header is none: a CGI answer has one field at
// least, and PHP sends Content-Type.
func (a *answer) response() (*Response, error) {
	r := &Response{Status: http.StatusOK, Header: http.Header{}, Stderr: a.stderr, AppStatus: a.appStatus}
	rest := a.out
	status := ""
	for fields := 0; ; fields++ {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 || len(a.out)-len(rest)+end > maxHeader || fields > maxFields {
			if len(bytes.TrimSpace(a.out)) == 0 {
				return nil, a.empty()
			}
			return nil, errors.New("the header of the answer has no end")
		}
		line := strings.TrimSuffix(string(rest[:end]), "\r")
		rest = rest[end+1:]
		if line == "" {
			if fields == 0 {
				return nil, errors.New("the answer has no header")
			}
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, errors.New("the header of the answer has a line that is no field")
		}
		value = strings.Trim(value, " \t")
		if strings.EqualFold(name, "Status") {
			status = value
			continue
		}
		r.Header.Add(textproto.CanonicalMIMEHeaderKey(name), value)
	}
	r.Body = rest
	switch {
	case status != "":
		code, ok := statusCode(status)
		if !ok {
			return nil, errors.New("the status of the answer is no number of three digits")
		}
		r.Status = code
	case r.Header.Get("Location") != "":
		r.Status = http.StatusFound
	}
	return r, nil
}

// empty tells an application that said nothing, and what it wrote instead.
func (a *answer) empty() error {
	said := ""
	if text := event.Clean(string(a.stderr), 300); text != "" {
		said = ": " + text
	}
	return fmt.Errorf("the application ended with status %d and without an answer%s", a.appStatus, said)
}

func statusCode(status string) (int, bool) {
	if len(status) < 3 || len(status) > 3 && status[3] != ' ' && status[3] != '\t' {
		return 0, false
	}
	code := 0
	for _, c := range []byte(status[:3]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		code = code*10 + int(c-'0')
	}
	return code, code >= 100
}

// isToken tells the name of a field, RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}
