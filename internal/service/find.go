package service

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// A family is one server: a master and the processes from the server's
// executables below it.
//
//	init ─┬─ nginx master ─┬─ worker      one family
//	      │                └─ worker
//	      ├─ nginx master ── worker      another: of the server, or a bystander
//	      └─ worker                      a stray: its master died, or it was forked
//	                                     twice; it goes to the family it came from
type family struct {
	master  *proc
	members []*proc // master included
}

// groups divides the server's processes into families and strays.
func (c *ProcessController) groups(t *table, spec Spec) (families, strays []*family) {
	byMaster := map[int]*family{}
	for _, pid := range t.pids() {
		p := t.byPID[pid]
		if !p.core {
			continue
		}
		m := top(t, p)
		f := byMaster[m.PID]
		if f == nil {
			f = &family{master: m}
			byMaster[m.PID] = f
		}
		f.members = append(f.members, p)
	}
	var all []*family
	for _, f := range byMaster {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool { return older(all[i].master, all[j].master) })
	all = c.merge(all, spec)
	for _, f := range all {
		if c.isStray(t, f, all, spec) {
			strays = append(strays, f)
		} else {
			families = append(families, f)
		}
	}
	return families, strays
}

// merge takes a process that was forked twice, and made itself a session, back
// into the family that it came from: both have a socket open that no two servers
// share. What shows the title of a master, or has children of its own, is another
// server all the same, which took the sockets over.
func (c *ProcessController) merge(all []*family, spec Spec) []*family {
	if len(all) < 2 {
		return all
	}
	var kept []*family
next:
	for _, f := range all {
		_, master, child := title(f.master.args, spec.Name)
		if !master && !child && !f.hasChildren() {
			for _, o := range kept {
				if c.shareSockets(o.master, f.master) {
					o.members = append(o.members, f.members...)
					continue next
				}
			}
		}
		kept = append(kept, f)
	}
	return kept
}

// top follows the parents as long as they run the server's executables too.
func top(t *table, p *proc) *proc {
	for range len(t.byPID) { // a scan is no instant: its parents might form a ring
		parent := t.byPID[p.PPID]
		if parent == nil || !parent.core {
			break
		}
		p = parent
	}
	return p
}

func older(a, b *proc) bool {
	if a.StartTicks != b.StartTicks {
		return a.StartTicks < b.StartTicks
	}
	return a.PID < b.PID
}

// isStray tells whether the top process of f is no master: its title says so, or
// it has no children and lives in the session of one that has some, or of an
// older one with the same command line, or is left over, with others of its
// kind or without root's rights, in a session whose leader has gone. A master
// that is outside the jail leaves nothing but strays in it.
func (c *ProcessController) isStray(t *table, f *family, all []*family, spec Spec) bool {
	_, master, child := title(f.master.args, spec.Name)
	if child || c.outside && !f.master.onHost {
		return true
	}
	if master || f.master.SID == f.master.PID || f.hasChildren() {
		return false
	}
	if t.byPID[f.master.SID] == nil && (f.master.UID > 0 || len(f.members) > 1) {
		return true
	}
	for _, o := range all {
		if o == f || o.master.SID != f.master.SID {
			continue
		}
		forked := older(o.master, f.master) && slices.Equal(o.master.args, f.master.args)
		if o.hasChildren() || o.master.SID == o.master.PID || forked {
			return true
		}
	}
	return false
}

// hasChildren tells whether the master is the parent of any other: they may also
// have come to the family by what they have open.
func (f *family) hasChildren() bool {
	return slices.ContainsFunc(f.members, func(p *proc) bool { return p.PPID == f.master.PID && p != f.master })
}

// choice is what find decided.
type choice struct {
	server     Server
	bystanders []*family
	restless   bool // see table; or it was too early to tell
}

// choose tells the server from its bystanders.
func (c *ProcessController) choose(t *table, spec Spec) (choice, error) {
	families, strays := c.groups(t, spec)
	var candidates []*family
	var ch choice
	for _, f := range families {
		switch {
		case c.bystanders[f.master.key()] || oneShot(f.master.Process, spec):
			ch.bystanders = append(ch.bystanders, f)
		case c.outside && !c.reachesIn(t, f, spec, &ch):
			ch.bystanders = append(ch.bystanders, f)
		default:
			candidates = append(candidates, f)
		}
	}
	strays = c.withoutKnown(strays, &ch)
	chosen, err := c.pick(t, candidates, spec)
	if err != nil {
		return choice{}, err
	}
	for _, f := range candidates {
		if f != chosen {
			ch.bystanders = append(ch.bystanders, f)
		}
	}
	var members []*proc
	if chosen != nil {
		m := chosen.master.Process
		ch.server.Master = &m
		members = chosen.members
	}
	for _, s := range strays {
		if c.belongs(s, chosen, ch.bystanders) {
			members = append(members, s.members...)
		} else {
			ch.bystanders = append(ch.bystanders, s)
		}
	}
	ch.server.Others = c.others(t, ch.server.Master, members, ch.bystanders)
	return ch, nil
}

func (c *ProcessController) withoutKnown(strays []*family, ch *choice) []*family {
	var rest []*family
	for _, s := range strays {
		if c.bystanders[s.master.key()] {
			ch.bystanders = append(ch.bystanders, s)
		} else {
			rest = append(rest, s)
		}
	}
	return rest
}

// pick finds the server among several masters; nil if it is none of them.
func (c *ProcessController) pick(t *table, candidates []*family, spec Spec) (*family, error) {
	if len(candidates) == 0 {
		return nil, nil
	}
	named := c.named(candidates, spec)
	var fitting, possible []*family
	for _, f := range candidates {
		if c.chosen == f.master.key() {
			return f, nil // it was the server before, and it is the same process
		}
		switch fit(f.master.Process, spec) {
		case fits:
			fitting = append(fitting, f)
			possible = append(possible, f)
		case unknown:
			possible = append(possible, f)
		}
	}
	if spec.Exact {
		if len(fitting) > 0 {
			possible = fitting
		}
		if len(possible) <= 1 {
			return first(possible), nil
		}
		if both := common(possible, named); len(both) == 1 {
			return both[0], nil
		}
		return nil, c.ambiguous(possible, named)
	}
	switch {
	case len(fitting) == 1 && (len(named) == 0 || common(fitting, named) != nil):
		return fitting[0], nil
	case len(fitting) == 0 && len(named) == 1:
		return named[0], nil
	case len(fitting) == 0 && len(candidates) == 1 && len(possible) == 1:
		return possible[0], nil
	case len(fitting) > 1:
		if both := common(fitting, named); len(both) == 1 {
			return both[0], nil
		}
		// Whoever took over a worker can show any title, but not become root.
		if root := rootOwned(fitting); len(root) == 1 && len(named) == 0 {
			return root[0], nil
		}
	}
	return nil, c.ambiguous(candidates, named)
}

func first(f []*family) *family {
	if len(f) == 0 {
		return nil
	}
	return f[0]
}

func common(a, b []*family) []*family {
	var both []*family
	for _, x := range a {
		for _, y := range b {
			if x == y {
				both = append(both, x)
			}
		}
	}
	return both
}

func rootOwned(all []*family) []*family {
	var root []*family
	for _, f := range all {
		if f.master.UID == 0 {
			root = append(root, f)
		}
	}
	return root
}

func (c *ProcessController) ambiguous(all, named []*family) error {
	var which []string
	for _, f := range all {
		if len(which) == 5 {
			which = append(which, "...")
			break
		}
		s := f.master.String()
		if common([]*family{f}, named) != nil {
			s += ", which its PID file names"
		}
		which = append(which, s)
	}
	err := ErrAmbiguous
	if len(all) == 1 {
		return fmt.Errorf("cannot tell whether this is %s: process %s: its command line is another and no PID file names it: %w",
			c.spec.Name, which[0], err)
	}
	return fmt.Errorf("cannot tell which process is %s: %s: %w", c.spec.Name, strings.Join(which, "; "), err)
}

// named returns the families whose master a PID file names.
func (c *ProcessController) named(all []*family, spec Spec) []*family {
	var named []*family
	for _, p := range spec.PIDFiles {
		b, err := c.readPID(p)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil || pid <= 1 {
			continue
		}
		for _, f := range all {
			// A server in a PID namespace writes the number it has there.
			if (f.master.PID == pid || f.master.nspid == pid) && common([]*family{f}, named) == nil {
				named = append(named, f)
			}
		}
	}
	return named
}

// belongs tells whether a stray came from the chosen family, or, where there is
// none, from a server whose master died; in any case not from a bystander.
func (c *ProcessController) belongs(s, chosen *family, bystanders []*family) bool {
	if len(bystanders) == 0 {
		return true
	}
	related := func(f *family) bool {
		return f != nil && (f.master.PID == s.master.SID || f.master.SID == s.master.SID || c.shareSockets(f.master, s.master))
	}
	if related(chosen) {
		return true
	}
	for _, b := range bystanders {
		if related(b) {
			return false
		}
	}
	// Nothing of it hints at any master: it is the leftover of a dead one. If our
	// server runs, it is not known whose, and left alone.
	return chosen == nil
}

// others are the members but the master, and all that descends from one of them,
// whatever it runs.
func (c *ProcessController) others(t *table, master *Process, members []*proc, bystanders []*family) []Process {
	in := map[int]bool{}
	for _, p := range members {
		in[p.PID] = true
	}
	out := map[int]bool{}
	for _, f := range bystanders {
		for _, p := range f.members {
			out[p.PID] = true
		}
	}
	descend(t, in, out, ancestors(c.procRoot))
	var others []Process
	for _, pid := range t.pids() {
		if in[pid] && (master == nil || pid != master.PID) {
			others = append(others, t.byPID[pid].Process)
		}
	}
	return others
}

// descend adds to in all descendants of its processes, but those in out or self
// and what is below them only.
func descend(t *table, in, out, self map[int]bool) {
	for changed := true; changed; {
		changed = false
		for pid, p := range t.byPID {
			if in[p.PPID] && !in[pid] && !out[pid] && !self[pid] && pid != 1 {
				in[pid] = true
				changed = true
			}
		}
	}
}
