package checks

import "slices"

// Set is the list of checks for one server, or for several that are joined.
type Set struct {
	checks []Check
	logs   []*logCheck
	notes  []string
}

// Checks returns the checks, the most telling ones of each server first.
func (s *Set) Checks() []Check { return s.checks }

// Notes tells what is not looked at, in words.
func (s *Set) Notes() []string { return s.notes }

// Join makes one set of several, in their order, to be looked at together: by
// one Baseline, one Mark and one Verify. Of checks with the same name the first
// is taken, since reports know them by their names; targets with a Part of
// their own give no such ones. The sets are shared, not copied; nil is empty.
func Join(sets ...*Set) *Set {
	all := &Set{}
	names := map[string]bool{}
	for _, s := range sets {
		if s == nil {
			continue
		}
		for _, c := range s.checks {
			if names[c.Name()] {
				continue
			}
			names[c.Name()] = true
			all.checks = append(all.checks, c)
			if l, ok := c.(*logCheck); ok {
				all.logs = append(all.logs, l)
			}
		}
		for _, n := range s.notes {
			if !slices.Contains(all.notes, n) {
				all.notes = append(all.notes, n)
			}
		}
	}
	return all
}

// Mark notes the ends of the error logs. Called after the stop, before the
// start, and saved with the run.
func (s *Set) Mark() []Mark {
	var marks []Mark
	for _, l := range s.logs {
		marks = append(marks, l.mark())
	}
	return marks
}

// Since has the log checks look at what came after the marks; without it, they
// only record what the logs complain about anyway, for a baseline. Marks of
// other logs are ignored; a log without a mark is read from its begin.
func (s *Set) Since(marks []Mark) {
	for _, l := range s.logs {
		m := Mark{Part: l.part, Path: l.path}
		for _, known := range marks {
			if known.Part == l.part && known.Path == l.path {
				m = known
			}
		}
		l.since(m)
	}
}

// Standard makes the checks for a target: the server's own, then the user's.
// The user's belong to the jail's first server (Part ""), so that a Join has
// them once; what is to be skipped holds for all. The error names the key of the
// configuration that is wrong.
func Standard(t Target, user Config) (*Set, error) {
	if err := user.Validate(); err != nil {
		return nil, err
	}
	if t.Dial == nil {
		t.Dial = dialer(t.Parents)
	}
	set := &Set{}
	add := func(c Check) {
		if user.skips(c.Name()) {
			return
		}
		set.checks = append(set.checks, c)
		if l, ok := c.(*logCheck); ok {
			set.logs = append(set.logs, l)
		}
	}
	if t.Server != nil {
		add(&processCheck{target: t})
		if len(t.Listens) > 0 {
			add(&portCheck{target: t})
		}
	}
	if t.Runtime != nil {
		add(newRuntimeCheck(t))
	}
	for _, c := range t.pools(set) {
		add(c)
	}
	for _, c := range t.network(set) {
		add(c)
	}
	for _, c := range t.pages(set) {
		add(c)
	}
	for _, c := range t.logs() {
		add(c)
	}
	if t.Part != "" {
		return set, nil
	}
	for _, u := range user.Checks {
		c, err := u.check(t)
		if err != nil {
			return nil, err
		}
		add(c)
	}
	return set, nil
}
