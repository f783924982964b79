package recipes

import (
	"path"
	"strings"
)

func checkGlob(pattern string) error {
	for part := range strings.SplitSeq(pattern, "/") {
		if part == "**" {
			continue
		}
		if _, err := path.Match(part, ""); err != nil {
			return err
		}
	}
	return nil
}

// Match tells whether a path fits one of the globs. "*" and the rest are those
// of path.Match and stay within one name; "**" stands for any number of names,
// so that "/run/**" fits all below /run, but not /run itself.
func Match(globs []string, p string) bool {
	for _, g := range globs {
		if matchParts(strings.Split(g, "/"), strings.Split(p, "/")) {
			return true
		}
	}
	return false
}

func matchParts(glob, name []string) bool {
	for len(glob) > 0 {
		if glob[0] == "**" {
			if len(glob) == 1 {
				return len(name) > 0
			}
			for i := range name {
				if matchParts(glob[1:], name[i:]) {
					return true
				}
			}
			return false
		}
		if len(name) == 0 {
			return false
		}
		if ok, err := path.Match(glob[0], name[0]); err != nil || !ok {
			return false
		}
		glob, name = glob[1:], name[1:]
	}
	return len(name) == 0
}
