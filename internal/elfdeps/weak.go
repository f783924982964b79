package elfdeps

// Weakly tells whether all that the file wants of a version of a library is weak:
// where it is not there, ld.so goes on without.
func (o Object) Weakly(lib, version string) bool {
	weak := false
	for _, n := range o.needs {
		if n.lib == lib && n.version == version {
			if !n.weak {
				return false
			}
			weak = true
		}
	}
	return weak
}
