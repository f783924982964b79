package phpconf

import "strconv"

// show makes a string from a jail fit for a message: bounded, and quoted
// where it holds anything but plain text.
func show(s string) string {
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
