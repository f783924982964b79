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

// matchParts goes back to the last "**" only: what an earlier one could take
// more, the last one can. So it takes no longer than the product of both lengths.
func matchParts(glob, name []string) bool {
	g, star, mark := 0, -1, 0
	for n := 0; n < len(name); {
		if g < len(glob) && glob[g] == "**" {
			star, mark = g, n
			g++
			continue
		}
		if g < len(glob) {
			if ok, err := path.Match(glob[g], name[n]); err == nil && ok {
				g++
				n++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		n, g = mark, star+1
	}
	return g == len(glob)
}
