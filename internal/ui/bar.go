package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
)

// bar is the progress of one step: of all that it does in one unit, summed up,
// for several downloads go on at once.
type bar struct {
	unit  string
	parts []part
	since time.Time // of the first event
	base  int64     // what was done already then, as after a resumed download
}

type part struct {
	what        string
	done, total int64
}

// mostParts bounds what is remembered of a step that does very many things.
const mostParts = 1000

func (b *bar) add(p event.Progress, at time.Time) {
	if p.Unit != b.unit {
		*b = bar{unit: p.Unit, since: at}
	}
	for i := range b.parts {
		if b.parts[i].what == p.What {
			b.parts[i].done, b.parts[i].total = p.Done, p.Total
			return
		}
	}
	if len(b.parts) < mostParts {
		b.parts = append(b.parts, part{p.What, p.Done, p.Total})
		b.base += p.Done
	}
}

// sum returns how far all is; a total of 0 is not known. What is the first part
// that is not done.
func (b *bar) sum() (done, total int64, what string) {
	known := true
	for _, p := range b.parts {
		done += p.done
		total += max(p.total, p.done)
		known = known && p.total > 0
		if what == "" && (p.total == 0 || p.done < p.total) {
			what = p.what
		}
	}
	if !known {
		total = 0
	}
	return done, total, what
}

// numbers returns the progress in words: how much of how much, the rate and the
// time that is left.
func (b *bar) numbers(s style, now time.Time) string {
	if len(b.parts) == 0 {
		return ""
	}
	done, total, _ := b.sum()
	amount := func(n int64) string {
		if b.unit == event.Bytes {
			return Bytes(n)
		}
		return fmt.Sprintf("%d", n)
	}
	text := amount(done)
	if total > 0 {
		text += " of " + amount(total)
	}
	if b.unit != event.Bytes {
		text += " " + s.clean(b.unit)
	}
	// Before half a second has passed the rate says nothing.
	passed := now.Sub(b.since)
	if rate := float64(done-b.base) / passed.Seconds(); passed >= time.Second/2 && rate > 0 {
		text += "  " + amount(int64(rate)) + "/s"
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		if total > done && left >= 0 && left < 100*24*time.Hour {
			text += "  " + strings.Replace(Duration(max(left.Round(time.Second), time.Second)), ".0 s", " s", 1) + " left"
		}
	}
	return text
}

// draw returns the progress in at most columns: bar, numbers, and what is under
// way (if that is not the step itself), as far as there is room. It is empty where
// nothing was told.
func (b *bar) draw(s style, now time.Time, step string, columns int) string {
	numbers := b.numbers(s, now)
	if numbers == "" {
		return ""
	}
	done, total, what := b.sum()
	numbers = "  " + numbers
	room := columns - width(numbers)
	out := ""
	if total > 0 && room >= 10 {
		cells := min(room-4, 20)
		full := min(int(float64(done)/float64(total)*float64(cells)), cells)
		out = "  [" + strings.Repeat(s.full, full) + strings.Repeat(s.empty, cells-full) + "]"
		room -= cells + 4
	}
	out += numbers
	if what = s.clean(what); what != "" && what != s.clean(step) && room >= 10 {
		out += "  " + fit(what, room-2, s.cutoff)
	}
	return fit(out, columns, s.cutoff)
}
