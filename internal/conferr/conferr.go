// Package conferr has the errors of those who read the configuration in a jail.
// What lies there may have been written by an attacker: the texts of all of them
// are safe to show.
package conferr

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/jailup/jailup/internal/event"
)

// SyntaxError is a fault in a configuration file. Its text is safe to show.
type SyntaxError struct {
	File string // as the jail sees it
	Line int    // from 1
	Msg  string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s:%d: %s", Show(e.File), e.Line, e.Msg)
}

// ReadError is a file or a folder that cannot be read. Its text is safe to show,
// and the cause is kept.
type ReadError struct {
	File  string // as the jail sees it
	Cause error
}

func (e *ReadError) Error() string { return Show(e.File) + ": " + Reason(e.Cause) }

// Unwrap returns the cause.
func (e *ReadError) Unwrap() error { return e.Cause }

// Reason is the text of an error without the path, which the message has already,
// bounded and safe to show.
func Reason(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return event.Clean(err.Error(), 300)
}

// Show makes a string from a jail fit for a message: cut to 200 bytes, and quoted
// where it holds anything but plain text, or nothing.
func Show(s string) string {
	const max = 200
	if len(s) > max {
		s = s[:max] + "..."
	}
	q := strconv.QuoteToASCII(s)
	if q == `"`+s+`"` && s != "" {
		return s
	}
	return q
}
