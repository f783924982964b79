package phpconf

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"syscall"
)

// glob names the files that match a pattern, in the order of glob(3) in the C
// locale. A leading dot must be asked for. Nothing matching is no error; a
// folder to look in that is not there is one, as FPM calls glob(3).
func glob(fsys Files, pattern string) ([]string, error) {
	found := []string{""}
	looked := 0
	for _, part := range strings.Split(strings.Trim(path.Clean(pattern), "/"), "/") {
		if !strings.ContainsAny(part, "*?[\\") {
			for i := range found {
				found[i] += "/" + part
			}
			continue
		}
		// glob(3) takes [!a] for what Go writes as [^a].
		goPart := strings.ReplaceAll(part, "[!", "[^")
		var next []string
		for _, dir := range found {
			names, err := fsys.ReadDir(dir + "/")
			if errors.Is(err, syscall.ENOTDIR) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if looked += len(names); looked > maxNames {
				return nil, fmt.Errorf("more than %d directory entries", maxNames)
			}
			names = slices.Clone(names)
			slices.Sort(names)
			for _, name := range names {
				match, err := path.Match(goPart, name)
				if err == nil && match && (name[0] != '.' || part[0] == '.') {
					next = append(next, dir+"/"+name)
				}
			}
		}
		found = next
	}
	return found, nil
}
