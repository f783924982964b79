package fileset

import (
	"fmt"
	"path"
	"strings"
)

// AsideFile is a file that was not laid into the jail, because a server would have
// read it there. It is in the stage, in no wish, and gone after Stage.Keep: it is
// to be copied before.
type AsideFile struct {
	// Path is where it would have been laid, physical.
	Path string
	// Name is a name for it that no other one of the selection has, as Conf.Aside
	// has it: letters, digits, ".", "_" and "-" only.
	Name string
	// Stage is its name in the stage, always that of a regular file: where the
	// jail has a link, the text says where it leads.
	Stage string
}

// layBeside lays a file at p and returns p; or, where a server would read it
// there, keeps it for the run's folder and returns its name there. canonical is
// the path of the file that it lies beside, with another ending than p has.
func (s *selector) layBeside(p, canonical string, n *Node) (beside, aside string, err error) {
	if !s.readThere(p, canonical+path.Ext(p)) {
		return p, "", s.lay(p, n)
	}
	f := AsideFile{Path: p, Name: s.asideName(p), Stage: n.Stage}
	if n.State.Link != "" {
		text := "link to " + n.State.Link + "\n"
		if f.Stage, _, err = s.in.Stage.Put(strings.NewReader(text), int64(len(text)), Meta{Perm: 0o600, MtimeNS: n.State.MtimeNS}); err != nil {
			return "", "", err
		}
	}
	s.out.Aside = append(s.out.Aside, f)
	return "", f.Name, nil
}

func (s *selector) readThere(names ...string) bool {
	for _, p := range names {
		if s.in.ReadByServer != nil && s.in.ReadByServer(p) {
			return true
		}
	}
	return false
}

// asideName makes a name out of a path.
func (s *selector) asideName(p string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r == '.', r == '_', r == '-':
			return r
		}
		return '_'
	}, strings.TrimPrefix(p, "/"))
	const most = 200 // NAME_MAX is 255
	plain = "aside-" + plain[max(0, len(plain)-most):]
	name := plain
	for i := 2; ; i++ {
		taken := false
		for _, f := range s.out.Aside {
			taken = taken || f.Name == name
		}
		if !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", plain, i)
	}
}
