package changeset

// Reverse returns the set that leads from the new state to the old one, out of
// the same stage: what rollback installs.
func (s *Set) Reverse() *Set {
	out := &Set{Version: s.Version, FSID: s.FSID}
	for i := len(s.Ops) - 1; i >= 0; i-- {
		op := s.Ops[i]
		op.Old, op.New = op.New, op.Old
		switch op.Kind {
		case Add:
			op.Kind = Remove
		case Remove:
			op.Kind = Add
		case Mkdir:
			op.Kind = Rmdir
		case Rmdir:
			op.Kind = Mkdir
		}
		out.Ops = append(out.Ops, op)
	}
	for _, d := range s.Dirs {
		out.Dirs = append(out.Dirs, Dir{Path: d.Path, OldMtimeNS: d.NewMtimeNS, NewMtimeNS: d.OldMtimeNS})
	}
	return out
}
