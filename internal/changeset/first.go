package changeset

import "slices"

// TakeFirst lets what is removed at these physical paths go out before anything
// else, and so come back last: a program that another one takes the place of, under
// another name, cannot be started then while the files that it loads are changing.
// Paths that the set does not remove are passed over. It is called before the set
// is saved; a second call is fine.
func (s *Set) TakeFirst(paths ...string) {
	slices.SortStableFunc(s.Ops, func(a, b Op) int { return rank(a, paths) - rank(b, paths) })
}

func rank(op Op, paths []string) int {
	if op.Kind == Remove && slices.Contains(paths, op.Path) {
		return 0
	}
	return 1
}
