// Command faulttable prints the table of the fault catalogue out of what its
// tests have counted, and fails where a class is missing or a promise is broken.
//
//	go run ./internal/lab/faulttable FILE
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/lab"
)

// classes are those of docs/reliability.md, in its order: a table without one of
// them is not the catalogue.
var classes = []string{
	"crash", "power cut", "boot", "call fails", "disk", "hostile files", "hostile processes",
	"two walls", "hostile mirror", "concurrency", "lying health",
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "faulttable: one file, please")
		os.Exit(64)
	}
	f, err := os.Open(os.Args[1])
	if err == nil {
		defer f.Close()
		err = table(f, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faulttable:", err)
		os.Exit(1)
	}
}

func table(in io.Reader, out io.Writer) error {
	sums := map[string]*lab.Count{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c lab.Count
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return fmt.Errorf("cannot read what was counted: %w", err)
		}
		if !slices.Contains(classes, c.Class) {
			return fmt.Errorf("%s counts for %q, which is no class of the catalogue", c.Test, c.Class)
		}
		s := sums[c.Class]
		if s == nil {
			s = &lab.Count{Class: c.Class, Outcomes: map[string]int{}}
			sums[c.Class] = s
		}
		s.Cases, s.Points, s.Of = s.Cases+c.Cases, s.Points+c.Points, s.Of+c.Of
		s.Mixed, s.Person, s.Exit, s.Outside = s.Mixed+c.Mixed, s.Person+c.Person, s.Exit+c.Exit, s.Outside+c.Outside
		for k, n := range c.Outcomes {
			s.Outcomes[k] += n
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	var wrong []error
	row := func(c, cases, points, mixed, person, exit, outside, outcomes any) {
		fmt.Fprintf(out, "%-18v %6v %14v %6v %7v %6v %8v  %v\n", c, cases, points, mixed, person, exit, outside, outcomes)
	}
	row("class", "cases", "points", "mixed", "person", "exit", "outside", "outcomes")
	total := lab.Count{}
	for _, class := range classes {
		s := sums[class]
		if s == nil {
			wrong = append(wrong, fmt.Errorf("nothing was injected for %q", class))
			continue
		}
		var ends []string
		for k := range s.Outcomes {
			ends = append(ends, k)
		}
		slices.SortFunc(ends, func(a, b string) int {
			if d := s.Outcomes[b] - s.Outcomes[a]; d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		for i, k := range ends {
			ends[i] = fmt.Sprintf("%s %d", k, s.Outcomes[k])
		}
		row(class, s.Cases, fmt.Sprintf("%d/%d", s.Points, s.Of), s.Mixed, s.Person, s.Exit, s.Outside, strings.Join(ends, ", "))
		total.Cases, total.Points, total.Of = total.Cases+s.Cases, total.Points+s.Points, total.Of+s.Of
		total.Mixed, total.Person, total.Exit, total.Outside = total.Mixed+s.Mixed, total.Person+s.Person, total.Exit+s.Exit, total.Outside+s.Outside
		if n := s.Mixed + s.Person + s.Exit + s.Outside; n > 0 {
			wrong = append(wrong, fmt.Errorf("%s: %d promises broken", class, n))
		}
		// Some tests thin out by themselves what is alike.
		if n := lab.OneIn(); s.Points*n*4 < s.Of {
			wrong = append(wrong, fmt.Errorf("%s: %d of %d points are too few for one in %d", class, s.Points, s.Of, n))
		}
	}
	row("all", total.Cases, fmt.Sprintf("%d/%d", total.Points, total.Of), total.Mixed, total.Person, total.Exit, total.Outside, "")
	return errors.Join(wrong...)
}
