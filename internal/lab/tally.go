package lab

import (
	"encoding/json"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// The table of `make faults` is made of what each test counted.
const (
	tallyEnv  = "JAILUP_FAULTS_TABLE" // a file: one JSON line a tally
	sampleEnv = "JAILUP_FAULTS"       // "sample": one in eight of the points; "1/N": one in N; else all
)

// Count is what one test adds to the table of the fault catalogue.
type Count struct {
	Class    string         `json:"class"`
	Test     string         `json:"test"`
	Cases    int            `json:"cases"`    // kinds of fault
	Points   int            `json:"points"`   // faults that were injected
	Of       int            `json:"of"`       // faults that there are; more than Points where a sample was taken
	Outcomes map[string]int `json:"outcomes"` // how the runs ended: "old", "new", "refused", ...
	Mixed    int            `json:"mixed"`    // trees that are neither old nor new
	Person   int            `json:"person"`   // ends that needed a person
	Exit     int            `json:"exit"`     // exit statuses that are not true to the disk
	Outside  int            `json:"outside"`  // things touched outside of the jail
}

// Tally counts what a test of the fault catalogue injects and what came of it.
// Each kind of failure is also an error of the test. It is safe for concurrent
// use. What was counted is added to the table when the test ends.
type Tally struct {
	t  testing.TB
	mu sync.Mutex
	c  Count
}

// NewTally begins the count of a test; class is the line of the table.
func NewTally(t testing.TB, class string) *Tally {
	t.Helper()
	y := &Tally{t: t, c: Count{Class: class, Test: t.Name(), Outcomes: map[string]int{}}}
	t.Cleanup(y.write)
	return y
}

func (y *Tally) write() {
	y.mu.Lock()
	defer y.mu.Unlock()
	// Of a test whose subtests run apart each process counts its own: the whole is
	// known to one of them.
	if !strings.HasPrefix(os.Getenv(apartMark), y.c.Test+"/") {
		y.c.Of = max(y.c.Of, y.c.Points)
	}
	y.t.Logf("%s: %d cases, %d of %d points: %v", y.c.Class, y.c.Cases, y.c.Points, y.c.Of, y.c.Outcomes)
	file := os.Getenv(tallyEnv)
	if file == "" {
		return
	}
	line, err := json.Marshal(y.c)
	if err != nil {
		y.t.Error(err)
		return
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		y.t.Error(err)
		return
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		y.t.Error(err)
	}
}

// Cases adds n kinds of fault.
func (y *Tally) Cases(n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.c.Cases += n
}

// Of adds n faults that there are, injected or not.
func (y *Tally) Of(n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.c.Of += n
}

// Point adds one injected fault and how it ended, in a word or two.
func (y *Tally) Point(outcome string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.c.Points++
	y.c.Outcomes[outcome]++
}

// Mixed says that a tree is neither old nor new. It fails the test.
func (y *Tally) Mixed(format string, args ...any) { y.t.Helper(); y.bad(&y.c.Mixed, format, args) }

// Person says that a person was needed. It fails the test.
func (y *Tally) Person(format string, args ...any) { y.t.Helper(); y.bad(&y.c.Person, format, args) }

// WrongExit says that an exit status was not true to the disk. It fails the test.
func (y *Tally) WrongExit(format string, args ...any) { y.t.Helper(); y.bad(&y.c.Exit, format, args) }

// Outside says that something outside of the jail was touched. It fails the test.
func (y *Tally) Outside(format string, args ...any) {
	y.t.Helper()
	y.bad(&y.c.Outside, format, args)
}

func (y *Tally) bad(n *int, format string, args []any) {
	y.t.Helper()
	y.mu.Lock()
	*n++
	y.mu.Unlock()
	y.t.Errorf(format, args...)
}

// OneIn is how many faults there are for one that is injected: 1 is all of them.
func OneIn() int {
	switch v := os.Getenv(sampleEnv); {
	case v == "sample":
		return 8
	case strings.HasPrefix(v, "1/"):
		if n, err := strconv.Atoi(v[2:]); err == nil && n > 0 {
			return n
		}
	}
	return 1
}

// Sampling tells whether only a part of the fault catalogue is asked for.
func Sampling() bool { return OneIn() > 1 }

// Sampled tells whether the i-th fault of a test is injected: each one, or in a
// sample one in so many, taken so that what alternates (before and after a call,
// say) is met in all its forms. The name of the test shifts it, so that tests
// with the same faults take different ones.
func Sampled(t testing.TB, i int) bool {
	n := OneIn()
	if n == 1 {
		return true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(t.Name()))
	return i%n == (i/n+int(h.Sum32()%uint32(n)))%n
}
