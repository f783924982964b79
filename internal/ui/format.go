package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/jailup/jailup/internal/event"
)

// maxCell bounds, in runes, one cell of a table: room for a path of PATH_MAX.
const maxCell = 4096

// Table writes rows in aligned columns, below header if there is one, with two
// spaces between columns and none at the end of a line. Cells are cleaned (see
// event.Clean); rows may be of different lengths. Nothing is written where there
// are no rows. The error is that of w.
func Table(w io.Writer, header []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	var lines [][]string
	if len(header) > 0 {
		lines = append(lines, header)
	}
	lines = append(lines, rows...)
	var widths []int
	cells := make([][]string, len(lines))
	for i, line := range lines {
		for j, cell := range line {
			cell = event.Clean(cell, maxCell)
			cells[i] = append(cells[i], cell)
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], width(cell))
		}
	}
	var b strings.Builder
	for _, line := range cells {
		var row strings.Builder
		for j, cell := range line {
			if j > 0 {
				row.WriteString("  ")
			}
			row.WriteString(pad(cell, widths[j]))
		}
		b.WriteString(strings.TrimRight(row.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Document writes v as one JSON document, indented, with a line end: what a verb
// that lists prints with --output json.
func Document(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Bytes returns a size for people, in powers of 1000 as disks and networks count:
// "999 B", "12.3 MB". What is negative is 0.
func Bytes(n int64) string {
	n = max(n, 0)
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n)/1000, 0
	for f >= 999.95 && unit < 5 {
		f /= 1000
		unit++
	}
	return fmt.Sprintf("%.1f %cB", f, "kMGTPE"[unit])
}

// Duration returns a length of time for people, in its two largest units:
// "84 ms", "3.2 s", "42 s", "2 min 5 s", "3 d 4 h". What is negative is 0.
func Duration(d time.Duration) string {
	d = max(d, 0)
	two := func(big time.Duration, bigName string, small time.Duration, smallName string) string {
		d = d.Round(small)
		s := fmt.Sprintf("%d %s", d/big, bigName)
		if rest := d % big / small; rest > 0 {
			s += fmt.Sprintf(" %d %s", rest, smallName)
		}
		return s
	}
	switch {
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 59500*time.Millisecond:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour-time.Second/2:
		return two(time.Minute, "min", time.Second, "s")
	case d < 24*time.Hour-time.Minute/2:
		return two(time.Hour, "h", time.Minute, "min")
	}
	return two(24*time.Hour, "d", time.Hour, "h")
}

// Age returns how long before now t was, for people: "just now", "5 min ago",
// "3 d ago", "in 2 h". The zero time is "never".
func Age(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := now.Sub(t)
	about := func(d time.Duration) string {
		switch {
		case d < time.Minute:
			return fmt.Sprintf("%d s", d/time.Second)
		case d < time.Hour:
			return fmt.Sprintf("%d min", d/time.Minute)
		case d < 48*time.Hour:
			return fmt.Sprintf("%d h", d/time.Hour)
		}
		return fmt.Sprintf("%d d", d/(24*time.Hour))
	}
	switch {
	case d <= -time.Second:
		return "in " + about(-d)
	case d < time.Second:
		return "just now"
	}
	return about(d) + " ago"
}

// width returns the columns that s takes on a terminal: two for the wide letters
// of East Asia and for pictures, none for marks that stand on the letter before.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f, r >= 0xff01 && r <= 0xff60,
		r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// pad fills s with spaces up to n columns.
func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(n-width(s), 0))
}

// fit cuts s to n columns, with end for what was cut off.
func fit(s string, n int, end string) string {
	if width(s) <= n {
		return s
	}
	room := n - width(end)
	if room < 0 {
		return ""
	}
	for i, r := range s {
		if room -= runeWidth(r); room < 0 {
			return s[:i] + end
		}
	}
	return s
}
