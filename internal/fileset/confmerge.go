package fileset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/phpconf"
	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sys/unix"
)

// ConfDiff holds unified diffs from the old package's text: to the new package's,
// and to the administrator's. A diff is empty where nothing differs, where the old
// text is not known, and for what is no text or larger than 64 KiB. They are text
// of the jail and of packages: show them only through event.Clean.
type ConfDiff struct {
	Package string `json:"package,omitempty"`
	Yours   string `json:"yours,omitempty"`
}

// maxDiff bounds the texts that are compared.
const maxDiff = 64 << 10

// diff tells what the package has changed and what the administrator has.
func (s *selector) diff(n *Node, st stand) ConfDiff {
	var d ConfDiff
	old, ok := s.pristineText(n, st)
	if !ok {
		return d
	}
	if yours, ok := s.textAt(st.path, st.cur); ok {
		d.Yours = unified(st.canonical, old, yours)
	}
	if n == nil || n.State.Mode&unix.S_IFMT != unix.S_IFREG {
		return d
	}
	if st.moved {
		old = s.rewrite(old) // what only follows the move is no change
	}
	if theirs, err := s.in.World.text(n); err == nil {
		d.Package = unified(n.Path, old, theirs)
	}
	return d
}

// pristineText is what the old package shipped. n is nil for what the new ones do
// not ship.
func (s *selector) pristineText(n *Node, st stand) ([]byte, bool) {
	if n != nil && st.recorded && st.rec.SHA256 != "" && st.rec.SHA256 == n.State.SHA256 {
		text, err := s.in.World.text(n)
		return text, err == nil
	}
	if s.in.Pristine == nil {
		return nil, false
	}
	names := []string{st.canonical}
	if n != nil && n.from != "" {
		names = append(names, n.from)
		if old, ok := s.oldName(n.from); ok && st.moved {
			names = append(names, old)
		}
	}
	for _, name := range names {
		text, ok := s.in.Pristine(name)
		if !ok {
			continue
		}
		if sum := sha256.Sum256(text); !st.recorded || hex.EncodeToString(sum[:]) == st.rec.SHA256 {
			return text, true
		}
	}
	return nil, false
}

// textAt reads a file of the jail, which is not trusted to be one still.
func (s *selector) textAt(p string, cur *changeset.State) ([]byte, bool) {
	if cur == nil || cur.Mode&unix.S_IFMT != unix.S_IFREG || cur.Size > maxConf {
		return nil, false
	}
	text, err := s.in.Root.ReadFile(p, maxConf)
	return text, err == nil
}

func unified(name string, from, to []byte) string {
	for _, text := range [][]byte{from, to} {
		if len(text) > maxDiff || !isText(text) {
			return ""
		}
	}
	return string(diff.Diff("a"+name, from, "b"+name, to))
}

func isText(b []byte) bool { return utf8.Valid(b) && !bytes.ContainsRune(b, 0) }

// adapt makes the package's version of an unchanged pool listen where it must:
// where a web server's configuration expects it, or where an earlier run has let
// it listen. It returns nil where nothing is to be adapted.
func (s *selector) adapt(p string, n *Node, st stand) (*Node, error) {
	if n.State.Mode&unix.S_IFMT != unix.S_IFREG || n.State.Size > maxConf {
		return nil, nil
	}
	value, ok := "", false
	if s.in.KeepListen != nil {
		value, ok = s.in.KeepListen(n.Path)
	}
	if !ok && st.recorded && st.rec.Adapted != "" && st.rec.Adapted == st.cur.SHA256 {
		if text, readable := s.textAt(st.path, st.cur); readable {
			_, value, _ = phpconf.ListenLine(text)
			ok = value != ""
		}
	}
	if !ok {
		return nil, nil
	}
	text, err := s.in.World.text(n)
	if err != nil {
		return nil, err
	}
	pool, _, _ := phpconf.ListenLine(text)
	changed, ok := phpconf.SetListen(text, pool, value)
	if !ok || bytes.Equal(changed, text) {
		return nil, nil
	}
	m := Meta{Perm: n.State.Mode & 0o7777, UID: int(n.State.UID), GID: int(n.State.GID), MtimeNS: n.State.MtimeNS}
	out := *n
	out.Stage, out.State, err = s.in.Stage.Put(bytes.NewReader(changed), int64(len(changed)), m)
	return &out, err
}

// switchedOff tells whether an administrator has removed the link under another
// number.
func (s *selector) switchedOff(n *Node) bool {
	for _, dir := range s.foldersOf(n.Path) {
		for p, rec := range s.old {
			if rec.Link == "" || path.Dir(p) != dir || plain(p) != plain(n.Path) {
				continue
			}
			if cur, err := s.read(p); err == nil && cur == nil {
				return true
			}
		}
	}
	return false
}

// switchedOn tells whether an administrator has made a link of his own to the
// same file.
func (s *selector) switchedOn(n *Node) bool {
	for _, dir := range s.foldersOf(n.Path) {
		names, err := s.in.Root.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, name := range names[:min(len(names), maxBelow)] {
			st, err := s.standAt(path.Join(dir, name))
			if err != nil || st.cur == nil || st.cur.Link == "" || st.recorded || strings.HasSuffix(name, besideOld) || path.Ext(name) != path.Ext(n.Path) {
				continue
			}
			st.moved = dir != path.Dir(n.Path)
			if s.leadsTo(st, n) {
				return true
			}
		}
	}
	return false
}

// foldersOf are the folder of a path and the one that it was in before.
func (s *selector) foldersOf(p string) []string {
	dirs := []string{path.Dir(p)}
	if old, ok := s.oldName(p); ok {
		dirs = append(dirs, path.Dir(old))
	}
	return dirs
}

// plain is the name of a link without the number before it.
func plain(p string) string {
	base := path.Base(p)
	number, name, ok := strings.Cut(base, "-")
	if !ok || strings.Trim(number, "0123456789") != "" {
		return base
	}
	return name
}
