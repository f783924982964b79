package backup

import (
	"fmt"
	"path"
	"strings"
)

// excluder holds the patterns of CopyOptions.Exclude.
type excluder struct {
	names []string   // without a slash: any last name
	paths [][]string // the others, split
}

// newExcluder checks the patterns. nil: nothing is left out.
func newExcluder(patterns []string) (*excluder, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	x := &excluder{}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || strings.Trim(p, "/") == "" {
			return nil, fmt.Errorf("cannot use %q as a pattern of what to leave out: it is malformed", show(p))
		}
		if trimmed := strings.TrimRight(p, "/"); !strings.Contains(trimmed, "/") {
			x.names = append(x.names, trimmed)
		} else {
			x.paths = append(x.paths, strings.Split(strings.Trim(p, "/"), "/"))
		}
	}
	return x, nil
}

// match tells whether name in the directory dir ("" is the root) is left out.
func (x *excluder) match(dir, name string) bool {
	for _, p := range x.names {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
	}
	if len(x.paths) == 0 {
		return false
	}
	parts := strings.Split(strings.TrimPrefix(dir+"/"+name, "/"), "/")
	for _, p := range x.paths {
		if matchParts(p, parts) {
			return true
		}
	}
	return false
}

// matchParts matches by the row-by-row method, so that many "**" cost no more
// than pattern times path.
func matchParts(pattern, parts []string) bool {
	// at[i]: the pattern so far matches the first i parts.
	at := make([]bool, len(parts)+1)
	at[0] = true
	for _, p := range pattern {
		next := make([]bool, len(parts)+1)
		if p == "**" {
			any := false
			for i := range at {
				any = any || at[i]
				next[i] = any
			}
		} else {
			for i := range parts {
				if at[i] {
					next[i+1], _ = path.Match(p, parts[i])
				}
			}
		}
		at = next
	}
	return at[len(parts)]
}
