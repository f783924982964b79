package steps

import (
	"errors"
	"fmt"

	"github.com/jailup/jailup/internal/event"
)

// Kinds of errors that callers tell apart with errors.Is. The map from these to
// exit statuses is in cmd.
var (
	// ErrCurrent: there is nothing to do.
	ErrCurrent = errors.New("nothing to do")
	// ErrStale: the jail is no longer what the stage was made from.
	ErrStale = errors.New("stale")
	// ErrSkipped: not now (held, a mirror that is behind).
	ErrSkipped = errors.New("skipped")
	// ErrUsage: the command line or the configuration is wrong.
	ErrUsage = errors.New("wrong usage")
	// ErrStuck: a person is needed.
	ErrStuck = errors.New("stuck")
	// ErrUnhealthy: the server does not pass its checks, or too little of it could
	// be seen (checks.ErrInconclusive as well).
	ErrUnhealthy = errors.New("unhealthy")
)

// Error is an error with a kind and a hint: the next command to type.
type Error struct {
	Kind error // may be nil
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Kind, e.Err}
}

// fail makes an Error. Arguments of type string are cleaned: they may come from
// jail, mirror or package.
func fail(kind error, hint, format string, args ...any) error {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = event.Clean(s, 300)
		}
	}
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...), Hint: hint}
}

// HintOf returns the hint of the outermost error that has one.
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// counted is "1 file" or "2 files".
func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
