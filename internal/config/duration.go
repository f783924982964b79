package config

import (
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time as one writes it: "10s", "2m30s", "500ms", "7d".
// It is never negative. It is a value for command-line flags (pflag.Value) as
// well as for configuration files.
type Duration time.Duration

// ParseDuration reads a duration. On top of time.ParseDuration it takes days
// ("7d", of 24 hours). A number without a unit is refused, but for 0: whether 10
// means seconds or minutes is no matter to guess about. The error has a Hint.
func ParseDuration(text string) (Duration, error) {
	bad := func(cause, hint string) (Duration, error) {
		return 0, &Error{Cause: quote(text) + " is no duration" + cause, Help: hint}
	}
	t := strings.TrimSpace(text)
	if t == "" {
		return bad("", "write it with a unit, such as 10s or 2m")
	}
	if _, err := strconv.ParseFloat(t, 64); err == nil && t != "0" {
		if strings.HasPrefix(t, "-") {
			return bad(": it is negative", "")
		}
		return bad(": it has no unit", "write "+clean(t)+"s for seconds, or "+clean(t)+"m for minutes")
	}
	var days time.Duration
	if number, rest, ok := strings.Cut(t, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n > uint64(1<<63-1)/uint64(24*time.Hour) {
			return bad("", "write it with a unit, such as 10s, 2m or 7d")
		}
		days = time.Duration(n) * 24 * time.Hour
		if t = rest; t == "" {
			return Duration(days), nil
		}
	}
	d, err := time.ParseDuration(t)
	switch {
	case err != nil:
		return bad("", "write it with a unit, such as 10s, 2m or 7d")
	case d < 0:
		return bad(": it is negative", "")
	case d > 1<<63-1-days:
		return bad(": it is too long", "")
	}
	return Duration(days + d), nil
}

// D returns d as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String returns d as it would be written: "10s", "2m", "1h30m".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Set makes d what text says.
func (d *Duration) Set(text string) error {
	v, err := ParseDuration(text)
	if err == nil {
		*d = v
	}
	return err
}

// Type is the name of the type in the help of a flag.
func (d *Duration) Type() string { return "duration" }
