package checks

// Finding is something in a jail that will bite, and its cure.
type Finding struct {
	Name string // a word that scripts may rely on ("no-resolver")
	Text string // what is wrong, clean
	Hint string // what to do about it, clean
}
