package backup

import (
	"maps"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// difference is what compare found at one path; a or b is nil where a side has
// nothing.
type difference struct {
	path string
	a, b *item
	what []string
}

// maxDifferences bounds what a damaged or foreign tree can make jailup hold.
const maxDifferences = 10000

type comparison struct {
	path  []byte
	found []difference
	ab    map[uint32]uint32 // hard-link groups of a to those of b
	ba    map[uint32]uint32
}

// compare walks two trees side by side. Both have been numbered or read from a
// manifest, and are sorted.
func compare(a, b *dir) []difference {
	c := &comparison{ab: map[uint32]uint32{}, ba: map[uint32]uint32{}}
	c.item("/", a.it, b.it)
	c.dirs(a, b)
	return c.found
}

func (c *comparison) add(path string, a, b *item, what []string) {
	if len(c.found) < maxDifferences {
		c.found = append(c.found, difference{path, a, b, what})
	}
}

func (c *comparison) dirs(a, b *dir) {
	i, j := 0, 0
	for i < len(a.kids) || j < len(b.kids) {
		var x, y *item
		if j == len(b.kids) || i < len(a.kids) && a.kids[i].name <= b.kids[j].name {
			x = a.kids[i]
		}
		if i == len(a.kids) || j < len(b.kids) && b.kids[j].name <= a.kids[i].name {
			y = b.kids[j]
		}
		n := len(c.path)
		name := ""
		if x != nil {
			name = x.name
			i++
		}
		if y != nil {
			name = y.name
			j++
		}
		c.path = append(append(c.path, '/'), name...)
		if x == nil || y == nil {
			c.add(string(c.path), x, y, nil)
		} else {
			c.item("", x, y)
			if x.dir != nil && y.dir != nil && !x.mount && !y.mount {
				c.dirs(x.dir, y.dir)
			}
		}
		c.path = c.path[:n]
	}
}

func (c *comparison) item(path string, x, y *item) {
	var what []string
	switch {
	case (x.mode^y.mode)&unix.S_IFMT != 0:
		what = []string{"type"}
	case x.mount || y.mount:
		return // what is mounted, or was, is not compared
	default:
		if x.mode != y.mode {
			what = append(what, "mode")
		}
		if x.uid != y.uid || x.gid != y.gid {
			what = append(what, "owner")
		}
		if x.mode&unix.S_IFMT == unix.S_IFREG && (x.size != y.size || x.sum != y.sum) {
			what = append(what, "content")
		}
		if x.mtime != y.mtime {
			what = append(what, "mtime")
		}
		var xm, ym more
		if x.more != nil {
			xm = *x.more
		}
		if y.more != nil {
			ym = *y.more
		}
		if xm.link != ym.link {
			what = append(what, "target")
		}
		if xm.rdev != ym.rdev {
			what = append(what, "device")
		}
		if !slices.Equal(xm.xattrs, ym.xattrs) {
			what = append(what, "xattrs")
		}
		if !c.sameGroup(x.group, y.group) {
			what = append(what, "hard links")
		}
	}
	if what != nil {
		if path == "" {
			path = string(c.path)
		}
		c.add(path, x, y, what)
	}
}

// sameGroup pairs the groups of both sides as they are met.
func (c *comparison) sameGroup(x, y uint32) bool {
	if x == 0 || y == 0 {
		return x == y
	}
	gx, okx := c.ab[x]
	gy, oky := c.ba[y]
	if !okx && !oky {
		c.ab[x], c.ba[y] = y, x
		return true
	}
	return okx && oky && gx == y && gy == x
}

// explain says a difference between what shall be (a) and what is (b) in words.
func (d *difference) explain(what string) string {
	a, b := d.a, d.b
	switch what {
	case "type":
		return "is a " + string(typeOf(b.mode)) + ", not a " + string(typeOf(a.mode))
	case "mode":
		return "mode is " + octal(b.mode) + ", not " + octal(a.mode)
	case "owner":
		return "owner is " + owner(b) + ", not " + owner(a)
	case "content":
		if a.size != b.size {
			return "size is " + strconv.FormatInt(b.size, 10) + ", not " + strconv.FormatInt(a.size, 10)
		}
		return "content is not what was copied"
	case "target":
		return "link leads to " + show(b.target()) + ", not " + show(a.target())
	case "device":
		return "is another device"
	case "xattrs":
		return "attributes differ: " + show(join(slices.Sorted(maps.Keys(attrDiff(a, b)))))
	case "hard links":
		return "is hard-linked with other files"
	}
	return what + " differs"
}

func (it *item) target() string {
	if it.more == nil {
		return ""
	}
	return it.more.link
}

func attrDiff(a, b *item) map[string]bool {
	d := map[string]bool{}
	for _, p := range [2][2]*item{{a, b}, {b, a}} {
		for _, x := range p[0].attrs() {
			if !slices.Contains(p[1].attrs(), x) {
				d[x.name] = true
			}
		}
	}
	return d
}

func octal(mode uint32) string {
	s := strconv.FormatUint(uint64(mode&0o7777), 8)
	for len(s) < 4 {
		s = "0" + s
	}
	return s
}

func owner(it *item) string {
	return strconv.FormatUint(uint64(it.uid), 10) + ":" + strconv.FormatUint(uint64(it.gid), 10)
}
