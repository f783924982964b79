package checks

func (t *Target) pages(set *Set) []Check { return nil }
