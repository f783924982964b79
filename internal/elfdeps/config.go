package elfdeps

import (
	"path"
	"slices"
	"strings"
)

const (
	pathCache   = "/etc/ld.so.cache"
	pathConf    = "/etc/ld.so.conf"
	pathPreload = "/etc/ld.so.preload"

	maxConfFile  = 1 << 20
	maxConfFiles = 512
	maxConfDirs  = 4096
	maxPreload   = 256
)

// config reads what of ld.so's configuration the tree has, once. A file that
// cannot be read, or is larger than any real one, counts as empty: ld.so and
// ldconfig go on without it too.
func (r *Resolver) config() (dirs, preload []string) {
	r.confOnce.Do(func() {
		if at, err := r.resolve(pathCache); err == nil && at.regular() {
			c := confReader{r: r, seen: make(map[string]bool)}
			c.file(pathConf)
			r.conf = c.dirs
		}
		r.preload = parsePreload(r.small(pathPreload))
	})
	return r.conf, r.preload
}

// small reads a configuration file, "" if that is not possible.
func (r *Resolver) small(name string) string {
	at, err := r.resolve(name)
	if err != nil || !at.regular() {
		return ""
	}
	f, err := r.fs.Open(at.path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if f.Size() > maxConfFile {
		return ""
	}
	b := make([]byte, max(f.Size(), 0))
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

// parsePreload takes /etc/ld.so.preload apart: names between white space and
// colons, with comments from # to the end of the line (ld.so(8)).
func parsePreload(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		for _, name := range strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(" \t\n:", c) }) {
			if len(name) < maxPath && len(out) < maxPreload {
				out = append(out, name)
			}
		}
	}
	return out
}

// confReader reads ld.so.conf(5) as ldconfig(8) does.
type confReader struct {
	r    *Resolver
	dirs []string
	seen map[string]bool // files, so that an include of itself ends
}

func (c *confReader) file(name string) {
	if c.seen[name] || len(c.seen) >= maxConfFiles {
		return
	}
	c.seen[name] = true
	for line := range strings.Lines(c.r.small(name)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		fields := strings.Fields(line)
		switch {
		case fields[0] == "include" && len(fields) > 1:
			for _, pattern := range fields[1:] {
				c.include(name, pattern)
			}
		case fields[0] == "hwcap" && len(fields) > 1:
		default:
			dir, _, _ := strings.Cut(line, "=") // DIR=libc6, of long ago
			dir = strings.TrimRight(strings.TrimSpace(dir), "/")
			if strings.HasPrefix(dir, "/") && len(c.dirs) < maxConfDirs && !slices.Contains(c.dirs, dir) {
				c.dirs = append(c.dirs, dir)
			}
		}
	}
}

// include reads the files that a pattern matches, sorted. A relative pattern
// begins at the directory of the file that holds it.
func (c *confReader) include(from, pattern string) {
	if len(pattern) >= maxPath {
		return
	}
	if !strings.HasPrefix(pattern, "/") {
		pattern = path.Join(path.Dir(from), pattern)
	}
	found := []string{"/"}
	parts := components(path.Clean(pattern))
	slices.Reverse(parts)
	for _, part := range parts {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(part, `*?[\`) {
				next = append(next, join(dir, part))
				continue
			}
			at, err := c.r.resolve(dir)
			if err != nil || !at.dir() {
				continue
			}
			names, err := c.r.fs.ReadDir(at.path)
			if err != nil {
				continue
			}
			slices.Sort(names)
			for _, name := range names {
				// As glob(3) does: a leading dot is matched by a dot only.
				if name[0] == '.' && part[0] != '.' {
					continue
				}
				if ok, err := path.Match(part, name); err == nil && ok && len(next) < maxConfFiles {
					next = append(next, join(dir, name))
				}
			}
		}
		found = next
	}
	for _, name := range found {
		c.file(name)
	}
}
