package checks

func (t *Target) pools(set *Set) []Check { return nil }
