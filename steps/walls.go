package steps

// StagesOf are the folders in which the last run, and one that was cut off, have
// their stages, as they were noted. What cannot be read notes none.
func StagesOf(stateDir string) []string {
	var out []string
	if last, err := LoadLast(stateDir); err == nil && last != nil && last.Stage != "" {
		out = append(out, last.Stage)
	}
	if f, ok := cutOff(stateDir); ok && f.Stage != "" {
		out = append(out, f.Stage)
	}
	return out
}

// SnapshotsOf is the folder of snapshots of a run that was cut off: another one
// than today's, perhaps.
func SnapshotsOf(stateDir string) []string {
	if f, ok := cutOff(stateDir); ok && f.Snapshots != "" {
		return []string{f.Snapshots}
	}
	return nil
}

func cutOff(stateDir string) (Facts, bool) {
	rec, open, err := Interrupted(stateDir)
	if err != nil || !open {
		return Facts{}, false
	}
	f, err := FactsOf(rec)
	return f, err == nil
}
