package pkgs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxControlFiles is far above what any package has: a dozen names are defined,
// and debconf and others add a few.
const maxControlFiles = 256

// readControl reads the whole control part: plain files side by side, of which
// "control" must be one.
func (d *Deb) readControl(m arMember, format Format) error {
	lim := d.lim
	lim.Output = lim.Control + 1<<20 // headers, padding and the end
	lim.Entries = maxControlFiles
	tree := newLayout(lim)
	d.files = make(map[string][]byte)
	var total int64
	err := d.walk(m, format, lim, func(h *tarHeader, c io.Reader) error {
		e, err := d.entry(h)
		if err == nil {
			err = tree.add(e.Path, e.Type, e.Link)
		}
		if err != nil {
			return fmt.Errorf("member %s: %w", quote(h.name), err)
		}
		if e.Path == "/" {
			return nil
		}
		name := e.Path[1:]
		if e.Type != TypeRegular || strings.Contains(name, "/") {
			return fmt.Errorf("member %s: only plain files belong here", quote(h.name))
		}
		if total += e.Size; total > lim.Control {
			return fmt.Errorf("the files take more than %d bytes", lim.Control)
		}
		data, err := io.ReadAll(c)
		if err != nil {
			return err
		}
		d.files[name] = data
		return nil
	})
	if err != nil {
		return err
	}
	if d.stanza, err = parseControlFile(d.files, lim); err != nil {
		return err
	}
	return d.readConffiles()
}

// parseControlFile takes the one paragraph of the control file.
func parseControlFile(files map[string][]byte, lim Limits) (Stanza, error) {
	data, ok := files["control"]
	if !ok {
		return Stanza{}, errors.New("the file control is missing")
	}
	var s Stanza
	n := 0
	err := ReadParagraphs(bytes.NewReader(data), lim, func(p Paragraph) (err error) {
		if n++; n > 1 {
			return errors.New("the file control has more than one paragraph")
		}
		s, err = ParseStanza(p)
		return err
	})
	if err != nil {
		return Stanza{}, err
	}
	if n == 0 {
		return Stanza{}, errors.New("the file control is empty")
	}
	// What only an index may tell is not believed from inside.
	s.Filename, s.SHA256, s.Size = "", "", 0
	return s, nil
}

// readConffiles reads the list as deb-conffiles(5) describes it: an absolute
// path a line, perhaps with the flag remove-on-upgrade before it.
func (d *Deb) readConffiles() error {
	seen := make(map[string]bool)
	for line := range bytes.Lines(d.files["conffiles"]) {
		text := strings.TrimRight(string(line), " \t\r\n")
		if text == "" {
			continue
		}
		path, list := text, &d.conffiles
		if rest, ok := strings.CutPrefix(text, "remove-on-upgrade"); ok && rest != "" && strings.ContainsAny(rest[:1], " \t") {
			path, list = strings.TrimLeft(rest, " \t"), &d.removed
		}
		clean := ""
		if rel, ok := strings.CutPrefix(path, "/"); ok {
			clean, _ = cleanPath(rel, false, d.lim)
		}
		if clean != path {
			return fmt.Errorf("conffiles: %s is no plain absolute path", quote(path))
		}
		if seen[path] {
			return fmt.Errorf("conffiles: %s twice", quote(path))
		}
		if len(seen) >= d.lim.Entries {
			return fmt.Errorf("conffiles: more than %d lines", d.lim.Entries)
		}
		seen[path] = true
		*list = append(*list, path)
	}
	d.conffiles, d.removed = slices.Clip(d.conffiles), slices.Clip(d.removed)
	return nil
}
