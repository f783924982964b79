package event

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// JSONLines returns a sink that writes each event as one line of JSON with one
// call of w.Write: for standard output, and for a run's events.jsonl.
//
// An error of w is passed over, for a run does not fail because nobody reads its
// story. After one, the next event begins on a line of its own, so that a line
// cut off by a full disk spoils no other.
func JSONLines(w io.Writer) Sink {
	return &jsonLines{w: w}
}

type jsonLines struct {
	mu   sync.Mutex
	w    io.Writer
	torn bool // the last write may have left a part of a line
}

func (j *jsonLines) Emit(e Event) {
	line, err := e.MarshalJSON()
	if err != nil {
		return
	}
	line = append(line, '\n')
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.torn {
		line = append([]byte{'\n'}, line...)
	}
	n, err := j.w.Write(line)
	switch {
	case err == nil && n == len(line):
		j.torn = false
	case n > 0:
		j.torn = true
	}
}

// longestLine bounds one line of a record that Read takes.
const longestLine = 4 << 20

// Read gives the events of a record that JSONLines wrote, in order, to each,
// until that returns false. A line that is no event, as a crash leaves one
// behind, is passed over. The error is that of r, or says that a line is too
// long for an event.
func Read(r io.Reader, each func(Event) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), longestLine)
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if !each(cleaned(e)) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read events: %w", err)
	}
	return nil
}
