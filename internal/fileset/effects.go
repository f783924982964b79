package fileset

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jailup/jailup/recipes"
	"golang.org/x/sys/unix"
)

// Finish adds what the packages' maintainer scripts would make of what was
// unpacked, as the recipe tells it: copies that are configuration, and links by
// which things are switched on. It is called once, after the last Unpack. Only
// what the packages really hold has an effect; what they ship themselves at the
// place of an effect stays theirs.
func (w *World) Finish(r *recipes.Recipe) error {
	for _, c := range r.Effects.Copy {
		if err := w.copies(c); err != nil {
			return fmt.Errorf("cannot copy %s to %s: %w", c.From, c.To, err)
		}
	}
	for _, e := range r.Effects.Enable {
		names, err := w.withDepends(e)
		if err != nil {
			return fmt.Errorf("cannot switch on %s: %w", e.From, err)
		}
		e.Names = names
		if err := w.enable(e, off(r.Effects.Enable, e.To)); err != nil {
			return fmt.Errorf("cannot switch on %s: %w", e.From, err)
		}
	}
	return nil
}

// withDepends adds what a name needs: the words behind "# Depends:" in NAME.load,
// as a2enmod(8) reads them.
func (w *World) withDepends(e recipes.Enable) ([]string, error) {
	names := slices.Clone(e.Names)
	for i := 0; i < len(names) && len(names) < maxEnabled; i++ {
		n := w.nodes[path.Join(path.Dir(Canonical(e.From)), names[i]+".load")]
		if n == nil || n.Stage == "" || n.State.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		text, err := w.head(n)
		if err != nil {
			return nil, err
		}
		m := dependsRE.FindSubmatch(text)
		if m == nil {
			continue
		}
		for _, d := range strings.FieldsFunc(string(m[1]), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if !slices.Contains(names, d) {
				names = append(names, d)
			}
		}
	}
	return names, nil
}

// maxEnabled bounds what one entry switches on.
const maxEnabled = 1000

var dependsRE = regexp.MustCompile(`(?m)^#[ \t]*Depends:[ \t]*([A-Za-z0-9_ \t,.-]+)$`)

// off lists what any part switches off in one folder.
func off(all []recipes.Enable, to string) []string {
	var out []string
	for _, e := range all {
		if path.Clean(e.To) == path.Clean(to) {
			out = append(out, e.Not...)
		}
	}
	return out
}

// matching returns the files that a glob fits, by path.
func (w *World) matching(glob string) []*Node {
	var out []*Node
	for _, n := range w.sorted() {
		if !n.Dir && n.Stage != "" && recipes.Match([]string{glob}, n.Path) {
			out = append(out, n)
		}
	}
	return out
}

func (w *World) copies(c recipes.Copy) error {
	for _, n := range w.matching(c.From) {
		to := Canonical(c.To)
		if strings.HasSuffix(c.To, "/") {
			to = path.Join(to, path.Base(n.Path))
		}
		if w.shipped[to] || w.nodes[to] != nil {
			continue
		}
		name, st, err := w.stage.Copy(n.Stage, n.State)
		if err != nil {
			return err
		}
		w.add(&Node{Path: to, Shipped: to, Package: n.Package, Owned: true, Conf: true, Stage: name, State: st, from: n.Path})
	}
	return nil
}

func (w *World) enable(e recipes.Enable, off []string) error {
	for _, n := range w.matching(e.From) {
		base := path.Base(n.Path)
		name := strings.TrimSuffix(base, path.Ext(base))
		if len(e.Names) > 0 && !slices.Contains(e.Names, name) || slices.Contains(off, name) || slices.Contains(e.Not, name) {
			continue
		}
		priority, err := w.priority(n, e.Priority)
		if err != nil {
			return err
		}
		if priority > 0 {
			base = fmt.Sprintf("%02d-%s", priority, base)
		}
		dir := Canonical(e.To)
		link := path.Join(dir, base)
		// An entry before this one may have a place of its own for it.
		if w.shipped[link] || w.nodes[link] != nil || w.linked[path.Join(dir, path.Base(n.Path))] {
			continue
		}
		target := n.Path
		if e.Relative {
			target = relative(dir, n.Path)
		}
		staged, st, err := w.stage.PutLink(target, Meta{MtimeNS: n.State.MtimeNS})
		if err != nil {
			return err
		}
		w.add(&Node{Path: link, Shipped: link, Package: n.Package, Owned: true, Conf: true, Stage: staged, State: st, enable: true})
		w.linked[path.Join(dir, path.Base(n.Path))] = true
	}
	return nil
}

func (w *World) add(n *Node) {
	w.nodes[n.Path] = n
	w.shipped[n.Path] = true
}

// priority is what a file says of its place among others (a line "; priority=NN",
// as phpenmod(8) reads it), else fallback. 0 asks for no number.
func (w *World) priority(n *Node, fallback int) (int, error) {
	if fallback == 0 || n.State.Mode&unix.S_IFMT != unix.S_IFREG {
		return fallback, nil
	}
	text, err := w.head(n)
	if err != nil {
		return 0, err
	}
	m := priorityRE.FindSubmatch(text)
	if m == nil {
		return fallback, nil
	}
	found, err := strconv.Atoi(string(m[1]))
	if err != nil || found == 0 {
		return fallback, nil
	}
	return found, nil
}

var priorityRE = regexp.MustCompile(`(?m)^;[ \t]*priority[ \t]*=[ \t]*([0-9]{1,3})[ \t\r]*$`)

// maxConf bounds what is read of one configuration file.
const maxConf = 1 << 20

// text reads a staged file; one larger than maxConf is an error.
func (w *World) text(n *Node) ([]byte, error) {
	if n.State.Size > maxConf {
		return nil, fmt.Errorf("cannot read %s: it has more than %d bytes", n.Path, maxConf)
	}
	return w.head(n)
}

// head reads what a staged file begins with.
func (w *World) head(n *Node) ([]byte, error) {
	f, err := w.stage.Open(n.Stage)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConf))
}

// relative is the target of a link in dir that leads to p.
func relative(dir, p string) string {
	up, down := strings.Split(strings.Trim(dir, "/"), "/"), strings.Split(strings.Trim(p, "/"), "/")
	for len(up) > 0 && len(down) > 1 && up[0] == down[0] {
		up, down = up[1:], down[1:]
	}
	return strings.Repeat("../", len(up)) + strings.Join(down, "/")
}
