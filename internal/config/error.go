package config

import (
	"strconv"

	"github.com/jailup/jailup/internal/event"
)

// Error says what is wrong in the configuration, the environment or a flag, and
// where. The command line that meets one ends with status 64.
type Error struct {
	File  string // "" where it is not about a file
	Line  int    // from 1; 0 where it is about the file as a whole
	Cause string
	Help  string // what to do about it, "" for nothing that would not be plain
}

// Error returns "cannot read FILE:LINE: cause", or the cause alone.
func (e *Error) Error() string {
	if e.File == "" {
		return e.Cause
	}
	at := clean(e.File)
	if e.Line > 0 {
		at += ":" + strconv.Itoa(e.Line)
	}
	return "cannot read " + at + ": " + e.Cause
}

// Hint returns the text for a "hint:" line, "" for none.
func (e *Error) Hint() string { return e.Help }

// clean makes what stands in a file fit to be shown.
func clean(s string) string { return event.Clean(s, 200) }

func quote(s string) string { return strconv.Quote(event.Clean(s, 80)) }
