//go:build faultpoints

package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/sys"
)

// A file system of the model may lose all that it may lose: the content and the
// attributes of a file until fsync of that file, a name until fsync of its
// directory, the two names of a rename one by one. Real ones lose less (a flush
// of their log covers many calls), so that a missing fsync may go unseen on them
// for years. The model is led through a run of the real program, call by call,
// and tells where recovery would rely on something that may be lost:
//
//   - nothing gets its name, by rename, before all of it is durable;
//   - when the journal says that a step is done, all that the step has left is
//     durable, and nothing is done before what the journal says is durable;
//   - what the run leaves at its end is durable;
//   - files get their names in the order of the program: the one before is
//     durable, and so is the folder that it lies in;
//   - a stage is not removed as long as what may be on disk still needs it, nor
//     a snapshot emptied as long as it may have its name;
//   - no folder is made in a way that nobody can sync.
//
// A link or a device cannot be synced by itself: it is durable with its name.
type model struct {
	known map[string]bool // folders that were there before
	nodes map[string]*node
	state string // the jail's folder in the state folder, once it is known

	rec     journal.Record
	last    map[string]bool // the stages that last.json may name after a cut
	next    string          // the stage that it names without one
	content map[string][]byte
	gone    map[string]name // by where a tree is that was renamed to be removed
	bad     []string
}

// name is one in a directory.
type name struct{ dir, base string }

type node struct {
	path  string
	dirty string // the call whose effect may be lost
	names map[string]string
	kids  map[string]string
}

func newModel(known map[string]bool, last string) *model {
	return &model{known: known, nodes: map[string]*node{}, last: map[string]bool{last: true}, next: last, content: map[string][]byte{}, gone: map[string]name{}}
}

func (m *model) node(id, path string) *node {
	n := m.nodes[id]
	if n == nil {
		n = &node{names: map[string]string{}, kids: map[string]string{}}
		m.nodes[id] = n
	}
	if path != "" {
		n.path = path
	}
	return n
}

func (m *model) blame(format string, args ...any) {
	m.bad = append(m.bad, fmt.Sprintf("in step %q: ", m.rec.Step)+fmt.Sprintf(format, args...))
}

const journalName = "journal"

func (m *model) step(c sys.Call) {
	isSync := c.Op == "fsync" || c.Op == "fdatasync" || c.Op == "fsyncdir" || c.Op == "syncfs"
	if !isSync {
		for _, n := range m.nodes {
			if filepath.Base(n.path) == journalName && n.dirty == "pwrite" {
				m.blame("%s %s%s before the journal is durable", c.Op, c.Path, c.Name)
				n.dirty = "" // once is enough
			}
		}
	}
	if c.Dir != "" && m.nodes[c.Dir] == nil && !m.known[c.Dir] {
		m.blame("%s was made, and nobody syncs its name", c.Path)
		m.known[c.Dir] = true
	}
	switch c.Op {
	case "create", "mkdirat", "symlinkat", "mknodat", "linkat":
		d, n := m.node(c.Dir, c.Path), m.node(c.Ino, filepath.Join(c.Path, c.Name))
		if c.Op == "mkdirat" && !m.private(n.path) {
			m.inOrder(n.path)
		}
		d.add(c.Name, c.Ino, c.Op)
		if c.Op == "create" {
			n.dirty = c.Op
		}
	case "unlinkat":
		m.removing(c)
		d := m.node(c.Dir, c.Path)
		d.remove(c.Name, "unlink")
		if c.Type == unix.S_IFDIR || c.Links <= 1 {
			delete(m.nodes, c.Ino)
		}
	case "rename":
		m.rename(c)
	case "fsync", "fdatasync", "fsyncdir":
		n := m.node(c.Ino, c.Path)
		n.dirty, n.names = "", map[string]string{}
		if m.state != "" && n.path == m.state {
			m.last = map[string]bool{m.next: true}
		}
	case "syncfs":
		// What lies elsewhere may lie on another file system.
		m.node(c.Ino, c.Path)
		for _, n := range m.nodes {
			if n.path == c.Path || strings.HasPrefix(n.path, c.Path+"/") {
				n.dirty, n.names = "", map[string]string{}
			}
		}
	default: // content or attributes
		n := m.node(c.Ino, pathOf(c))
		if c.Op == "fchmodat" && c.Type == unix.S_IFDIR {
			return // mkdirat(2) gave the same, but for the umask
		}
		if c.Type == 0 || c.Type == unix.S_IFREG || c.Type == unix.S_IFDIR {
			n.dirty = c.Op
		}
		m.content[c.Ino] = append(m.content[c.Ino], c.Data...)
		if c.Op == "pwrite" && filepath.Base(c.Path) == journalName {
			m.record(c)
		}
	}
}

func pathOf(c sys.Call) string {
	if c.Name != "" {
		return filepath.Join(c.Path, c.Name)
	}
	return c.Path
}

func (d *node) add(name, ino, op string) {
	d.kids[name] = ino
	d.names[name] = op
}

func (d *node) remove(name, op string) {
	delete(d.kids, name)
	if was := d.names[name]; was != "" && was != "unlink" && was != "away" {
		delete(d.names, name) // it came and went, and nobody knows of it
		return
	}
	d.names[name] = op
}

func (m *model) rename(c sys.Call) {
	d, d2 := m.node(c.Dir, c.Path), m.node(c.Dir2, c.Path2)
	trial := c.Flags == unix.RENAME_EXCHANGE && c.Dir == c.Dir2 // two empty files of the stage
	unnamed := strings.Contains(c.Path2, ".jailup-new-")        // a tree that gets its name as a whole
	if !trial && !unnamed {
		m.whole(c.Ino, filepath.Join(c.Path2, c.Name2))
		if c.Flags == unix.RENAME_EXCHANGE {
			m.whole(c.Ino2, filepath.Join(c.Path, c.Name))
		}
	}
	if n := m.nodes[c.Ino]; n != nil {
		n.path = filepath.Join(c.Path2, c.Name2)
	}
	if strings.HasSuffix(c.Name2, ".removed") {
		m.gone[filepath.Join(c.Path2, c.Name2)] = name{c.Dir, c.Name}
	}
	if c.Flags == unix.RENAME_EXCHANGE {
		d.add(c.Name, c.Ino2, "exchange")
		d2.add(c.Name2, c.Ino, "exchange")
		return
	}
	if at := filepath.Join(c.Path2, c.Name2); !m.private(at) {
		m.inOrder(at)
	}
	d.remove(c.Name, "away")
	d2.add(c.Name2, c.Ino, "rename")
	if c.Ino2 != "" && c.Ino2 != c.Ino {
		delete(m.nodes, c.Ino2)
	}
	if c.Name2 == "last.json" {
		m.state = c.Path2
		var l struct{ Stage string }
		if json.Unmarshal(m.content[c.Ino], &l) == nil {
			m.next = filepath.Base(l.Stage)
			m.last[m.next] = true
		}
	}
}

// inOrder holds the promise of the helpers that write files and make folders:
// what they have made is there for good when they return, whatever comes next.
func (m *model) inOrder(at string) {
	for _, n := range m.nodes {
		for name, op := range n.names {
			p := filepath.Join(n.path, name)
			if strings.Contains(p, "/cache/sha256/") && strings.Contains(at, "/cache/sha256/") {
				continue // filled by several hands at once, in no order
			}
			if (op == "rename" || op == "mkdirat" || op == "unlink" && critical[name]) && !m.private(p) {
				m.blame("%s is made while the %s of %s may be lost", at, op, p)
			}
		}
	}
}

// private tells whether a path lies in a tree that is made as a whole.
func (m *model) private(path string) bool {
	return m.inJail(path) || strings.Contains(path, "/.jailup-stage") || strings.Contains(path, ".partial") ||
		strings.Contains(path, ".tmp-") || strings.Contains(path, ".jailup-new-")
}

// whole tells what of a file or tree may be lost that now gets the name at.
func (m *model) whole(id, at string) {
	n := m.nodes[id]
	if n == nil {
		return
	}
	if n.dirty != "" {
		m.blame("%s gets its name, and its %s may be lost", at, n.dirty)
	}
	for name, op := range n.names {
		if op != "unlink" {
			m.blame("%s gets its name, and the %s of %s in it may be lost", at, op, name)
		}
	}
	for name, kid := range n.kids {
		m.whole(kid, filepath.Join(at, name))
	}
}

var stageOf = regexp.MustCompile(`/\.jailup-stage[^/]*/([0-9]{8}T[0-9]{6}Z-[0-9a-z]+)$`)

// removing holds the order of what is removed.
func (m *model) removing(c sys.Call) {
	if critical[c.Name] {
		m.inOrder(filepath.Join(c.Path, c.Name))
	}
	if c.Name == "last.json" {
		m.state, m.next = c.Path, ""
		m.last[""] = true
	}
	for at, was := range m.gone {
		if (c.Path == at || strings.HasPrefix(c.Path, at+"/")) && m.node(was.dir, "").names[was.base] == "away" {
			m.blame("%s is emptied while %s may still be its name", at, was.base)
			delete(m.gone, at)
		}
	}
	run := stageOf.FindStringSubmatch(c.Path)
	if run == nil || c.Name == "reserve" {
		return
	}
	if m.last[run[1]] && !m.open(run[1]) {
		m.blame("%s of the stage %s is removed while the note of what was installed last may name it", c.Name, run[1])
	}
	needs := slices.Contains([]string{"rehearse", "snapshot", "arm", "stop", "settle", "install", "start", "seal", "verify"}, m.rec.Step)
	if m.rec.Run == run[1] && needs && m.rec.Phase != journal.Ended {
		m.blame("%s of the stage %s is removed while the journal is at %s, %s", c.Name, run[1], m.rec.Phase, m.rec.Step)
	}
}

// open tells whether the stage is that of the run that is being made.
func (m *model) open(run string) bool {
	return m.rec.Run == run && m.rec.Phase != journal.Ended && m.rec.Phase != journal.Committed
}

// record is a write of the journal.
func (m *model) record(c sys.Call) {
	const head = len("JAILUPJ\x01") + 8
	if len(c.Data) < head+4 {
		return
	}
	size := int(binary.LittleEndian.Uint32(c.Data[head:]))
	var rec journal.Record
	if json.Unmarshal(c.Data[head+4:][:size], &rec) != nil {
		m.blame("a journal record that cannot be read")
		return
	}
	was := m.rec
	m.rec = rec
	if was.Step == rec.Step {
		return // in the middle of a step, or on its way back
	}
	m.clean(c.Ino)
}

// clean tells what may be lost now that should not.
func (m *model) clean(but string) {
	for id, n := range m.nodes {
		if id == but {
			continue
		}
		if n.dirty != "" && !m.may(n.path, n.dirty) {
			m.blame("the %s of %s may be lost", n.dirty, n.path)
			n.dirty = ""
		}
		for name, op := range n.names {
			if p := filepath.Join(n.path, name); !m.may(p, op) {
				m.blame("the %s of %s may be lost", op, p)
				delete(n.names, name)
			}
		}
	}
}

var critical = map[string]bool{"last.json": true, "manifest.json": true, "jails.json": true, journalName: true}

// may tells whether something may be lost at this instant.
func (m *model) may(path, op string) bool {
	base := filepath.Base(path)
	inStage := strings.Contains(path, "/.jailup-stage")
	switch {
	case strings.Contains(path, "/snapshots/.") && strings.Contains(path, ".partial"):
		return true // without a name it is dropped
	case strings.Contains(base, ".tmp-"):
		return true
	case inStage && base == "reserve":
		return true // room for the server that starts, and nothing in it
	case op == "utimensat" && strings.Contains(path, "/cache/"):
		return true // when it was last of use
	case op == "unlink" && !critical[base] && !m.inJail(path):
		return true // it is swept when it is found again
	case inStage && m.rec.Phase == journal.Forward && slices.Contains([]string{"", "preflight", "resolve", "fetch", "stage", "choose"}, m.rec.Step):
		return true // a stage that is not whole is removed
	}
	return false
}

func (m *model) inJail(path string) bool {
	return strings.Contains(path, "/chroot/") && !strings.Contains(path, "/.jailup-stage")
}

// end is the look at the end of a run; it returns all that was found.
func (m *model) end() []string {
	m.clean("")
	for _, n := range m.nodes {
		if filepath.Base(n.path) == journalName && n.dirty != "" {
			m.blame("the last record of the journal may be lost")
		}
	}
	sort.Strings(m.bad)
	return slices.Compact(m.bad)
}

// A story is one run of the program: what was there before, and all it did.
type story struct {
	name  string
	known map[string]bool
	last  string
	calls []sys.Call
}

func (s story) judge(without int) []string {
	return s.judgeAll(func(n int, _ sys.Call) bool { return n == without })
}

// judgeAll leaves out the syncs that are chosen, by their number from 1 on.
func (s story) judgeAll(without func(int, sys.Call) bool) []string {
	m := newModel(mapsClone(s.known), s.last)
	syncs := 0
	for _, c := range s.calls {
		if strings.HasPrefix(c.Op, "fsync") || c.Op == "fdatasync" || c.Op == "syncfs" {
			if syncs++; without(syncs, c) {
				continue
			}
		}
		m.step(c)
	}
	return m.end()
}

func (s story) syncs() (out []sys.Call) {
	for _, c := range s.calls {
		if strings.HasPrefix(c.Op, "fsync") || c.Op == "fdatasync" || c.Op == "syncfs" {
			out = append(out, c)
		}
	}
	return out
}

// sealed tells whether a copy of the jail got its name.
func (s story) sealed() bool {
	return slices.ContainsFunc(s.calls, func(c sys.Call) bool { return c.Op == "rename" && strings.HasSuffix(c.Name, ".partial") })
}

func mapsClone(in map[string]bool) map[string]bool {
	out := map[string]bool{}
	for k := range in {
		out[k] = true
	}
	return out
}

// begin looks at what is there before a run.
func (h *host) begin(name string, dirs ...string) story {
	h.t.Helper()
	s := story{name: name, known: map[string]bool{}}
	for _, dir := range append(dirs, filepath.Join(h.dir, "x")) {
		top := filepath.Dir(dir)
		for p := filepath.Dir(top); ; p = filepath.Dir(p) {
			s.known[inode(h.t, p)] = true
			if p == "/" {
				break
			}
		}
		require.NoError(h.t, filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				s.known[inode(h.t, p)] = true
			}
			return nil
		}))
	}
	if files, _ := filepath.Glob(filepath.Join(h.dir, "state/*/last.json")); len(files) == 1 {
		var l struct{ Stage string }
		text, err := os.ReadFile(files[0])
		require.NoError(h.t, err)
		require.NoError(h.t, json.Unmarshal(text, &l))
		s.last = filepath.Base(l.Stage)
	}
	return s
}

func inode(t testing.TB, p string) string {
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st), p)
	return fmt.Sprintf("%x:%d", st.Dev, st.Ino)
}

// told runs the program, with a fault, and follows all that it and its children
// change on disk; -1 is the exit status of one that was killed.
func (h *host) told(exit int, s *story, fault string, args ...string) {
	h.t.Helper()
	dir := lab.ShmDir(h.t)
	file, env := filepath.Join(dir, "calls"), h.env
	h.env = append(env[:len(env):len(env)], "JAILUP_FAULT_CALLS="+file, "JAILUP_FAULT_GUARD=off",
		"JAILUP_FAULT="+fault, "JAILUP_FAULT_COUNTER="+filepath.Join(dir, "counter"))
	r := h.run(args...)
	h.env = env
	require.Equal(h.t, exit, r.Exit, "%s: %s", s.name, r.String())
	s.calls = append(s.calls, readCalls(h.t, file)...)
	require.NotEmpty(h.t, s.calls)
}

func readCalls(t testing.TB, file string) []sys.Call {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	var out []sys.Call
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			var c sys.Call
			require.NoError(t, json.Unmarshal(line, &c), string(line))
			out = append(out, c)
		}
		if err != nil {
			return out
		}
	}
}
