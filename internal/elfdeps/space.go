package elfdeps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// maxLoaded bounds the objects of one process.
	maxLoaded = 4096
	// maxHeld bounds the text of all objects of one result, in bytes.
	maxHeld = 128 << 20
	// maxMissing bounds what is reported.
	maxMissing = 10_000
	// baseWork and rootWork bound the look-ups of one call.
	baseWork = 1_000_000
	rootWork = 20_000
)

// limitError says that the work was given up. It is never a finding.
type limitError struct{ err error }

func (e *limitError) Error() string { return e.err.Error() }
func (e *limitError) Unwrap() error { return e.err }

// build gathers the result of one call over its processes.
type build struct {
	ctx    context.Context
	r      *Resolver
	out    *Closure
	paths  map[string]bool
	shown  map[string]bool // findings, so that each is told once
	left   int             // look-ups
	weight int64
	brief  bool // only what is missing is wanted
}

func newBuild(ctx context.Context, r *Resolver, roots int) *build {
	return &build{
		ctx:   ctx,
		r:     r,
		out:   &Closure{Objects: make(map[string]Object)},
		paths: make(map[string]bool),
		shown: make(map[string]bool),
		left:  baseWork + roots*rootWork,
	}
}

func (b *build) addMissing(m Missing) {
	key := m.By + "\x00" + m.Name + "\x00" + m.Reason
	if !b.shown[key] && len(b.out.Missing) < maxMissing {
		b.shown[key] = true
		b.out.Missing = append(b.out.Missing, m)
	}
}

// node is an object as loaded into a process.
type node struct {
	obj    *Object
	opened string // the path by which ld.so opened it, links not resolved
	loader *node
	main   bool
	hw     bool // one of several variants of a library
}

// origin is $ORIGIN: of the program where the file lies (ld.so asks
// /proc/self/exe), of a library the directory by which it was found.
func (n *node) origin() string {
	p := n.opened
	if n.main {
		p = n.obj.Path
	}
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	return parent(p)
}

func (n *node) chain() []string {
	var out []string
	for l := n; l != nil; l = l.loader {
		out = append(out, l.obj.Path)
	}
	slices.Reverse(out)
	return out
}

// space is one process: what it has loaded, in ld.so's order.
type space struct {
	*build
	r       *Resolver
	ld      *dialect
	main    *node
	secure  bool             // a set-user-ID or set-group-ID program
	order   []*node          // in the order of loading, variants behind the file they stand for
	byName  map[string]*node // by every name that ld.so would take for it
	lost    map[string]bool  // names that some loader did not find
	byPath  map[string]*node // by physical path
	lookups map[*node][]searchList
	twins   map[*node][]*node // the variants of a library
	weight  int64
	// askedProc: $ORIGIN of the program was expanded.
	askedProc bool
	done      int // nodes whose needs are loaded
	tested    int // nodes whose versions are compared
	missing   []Missing
	ignored   []Missing
}

func (b *build) newSpace(at place, obj *Object) *space {
	s := &space{
		build:   b,
		r:       b.r,
		ld:      b.r.dialect(obj),
		main:    &node{obj: obj, opened: at.path, main: true},
		secure:  obj.program() && at.mode&modeSetX != 0,
		byName:  make(map[string]*node),
		byPath:  make(map[string]*node),
		lost:    make(map[string]bool),
		lookups: make(map[*node][]searchList),
		twins:   make(map[*node][]*node),
	}
	s.hops(at)
	s.add(s.main)
	return s
}

// endSpace takes over what a process is found to lack; s may be nil.
func (b *build) endSpace(s *space) {
	if s == nil {
		return
	}
	for _, m := range s.check() {
		b.addMissing(m)
	}
	if p := s.main.obj.Path; s.askedProc && s.main.obj.program() && !slices.Contains(b.out.NeedProc, p) {
		b.out.NeedProc = append(b.out.NeedProc, p)
	}
	for _, m := range s.ignored {
		key := "ignored\x00" + m.By + "\x00" + m.Name + "\x00" + m.Reason
		if !b.shown[key] && len(b.out.Ignored) < maxMissing {
			b.shown[key] = true
			b.out.Ignored = append(b.out.Ignored, m)
		}
	}
}

// work counts a look-up, and ends everything once there were too many.
func (s *space) work() error {
	if s.left--; s.left < 0 {
		return &limitError{fmt.Errorf("cannot resolve %s: the search takes more look-ups than any honest tree needs", show(s.main.obj.Path))}
	}
	if s.left%256 == 0 {
		if err := s.ctx.Err(); err != nil {
			return &limitError{err}
		}
	}
	return nil
}

func (s *space) listsOf(n *node) []searchList {
	l, ok := s.lookups[n]
	if !ok {
		l = s.lists(n)
		s.lookups[n] = l
	}
	return l
}

// hops notes a file and the links that lead to it.
func (s *space) hops(at place) {
	if s.brief {
		return
	}
	for _, h := range at.hops {
		s.paths[h] = true
	}
	s.paths[at.path] = true
}

// name lets a node answer to a name, unless an earlier one does already.
func (s *space) name(n *node, name string) {
	if name != "" && s.byName[name] == nil {
		s.byName[name] = n
	}
}

func (s *space) add(n *node) {
	s.order = append(s.order, n)
	if s.byPath[n.obj.Path] == nil {
		s.byPath[n.obj.Path] = n
	}
	if !n.hw {
		s.name(n, n.opened)
		s.name(n, n.obj.SONAME)
	}
	s.weight += n.obj.weight
	if _, ok := s.out.Objects[n.obj.Path]; !ok && !s.brief {
		s.out.Objects[n.obj.Path] = *n.obj
		s.build.weight += n.obj.weight
	}
}

// run loads the program: interpreter, preloaded libraries, then what is needed,
// breadth first.
func (s *space) run() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.main.obj.Interp != "" {
		if err := s.interpreter(); err != nil {
			return err
		}
		if s.main.obj.program() && s.main.obj.dynamic {
			_, preload := s.r.config()
			for _, name := range preload {
				if err := s.need(s.main, name, true); err != nil {
					return err
				}
			}
		}
	} else if !s.main.obj.Static {
		s.host()
	}
	return s.drain()
}

// host stands for the program that loads a library which is looked at alone: it
// has the machine's ld.so loaded, also where that lies in no directory of its
// own (Debian's does not search /lib64).
func (s *space) host() {
	for _, name := range abiOf(s.main.obj).interps {
		at, err := s.r.resolve(name)
		if err != nil {
			continue
		}
		if h, err := s.verifyInterp(at); err == nil && s.byPath[h.Path] == nil {
			s.add(&node{obj: h, opened: name, loader: s.main})
			s.hops(at)
			return
		}
	}
}

// interpreter is opened by the kernel, by the path in the program.
func (s *space) interpreter() error {
	o := s.main.obj
	lacks := func(reason string) { s.lack(s.main, o.Interp, reason, false) }
	at, err := s.r.resolve(o.Interp)
	switch {
	case err != nil && absent(err):
		lacks("no file")
		return nil
	case err != nil:
		lacks(fmt.Sprintf("cannot open %s: %v", show(o.Interp), err))
		return nil
	case at.regular() && at.mode&modeExec == 0:
		lacks(fmt.Sprintf("%s is not executable", show(at.path)))
		return nil
	}
	h, err := s.verifyInterp(at)
	if err != nil {
		lacks(err.Error())
		return nil
	}
	s.hops(at)
	n := &node{obj: h, opened: o.Interp, loader: s.main}
	if s.byPath[h.Path] == nil {
		s.add(n)
	}
	return nil
}

func (s *space) verifyInterp(at place) (*Object, error) {
	if !at.regular() {
		return nil, fmt.Errorf("%s is not a regular file", show(at.path))
	}
	obj, err := s.r.object(at.path)
	if err != nil {
		return nil, err
	}
	o := s.main.obj
	switch {
	case obj.Class != o.Class:
		return nil, fmt.Errorf("wrong class: %s is %v", show(at.path), obj.Class)
	case obj.Machine != o.Machine || obj.Data != o.Data:
		return nil, fmt.Errorf("wrong machine: %s is for %v", show(at.path), obj.Machine)
	case !obj.loadable():
		return nil, fmt.Errorf("%s is neither a program nor a library", show(at.path))
	}
	return obj, nil
}

// dlopen loads a library by name, as the program would.
func (s *space) dlopen(name string) error {
	if err := s.need(s.main, name, false); err != nil {
		return err
	}
	return s.drain()
}

func (s *space) dlopenFile(at place, obj *Object) error {
	s.hops(at)
	if s.byPath[obj.Path] == nil {
		s.add(&node{obj: obj, opened: at.path, loader: s.main})
	}
	return s.drain()
}

// drain loads what the loaded objects need until nothing is left.
func (s *space) drain() error {
	for ; s.done < len(s.order); s.done++ {
		n := s.order[s.done]
		for _, l := range []struct {
			names    []string
			optional bool
		}{{n.obj.auxiliary, true}, {n.obj.filters, false}, {n.obj.Needed, false}} {
			for _, name := range l.names {
				if err := s.need(n, name, l.optional); err != nil {
					return err
				}
			}
		}
		if len(s.order) > maxLoaded {
			return fmt.Errorf("cannot resolve %s: more than %d libraries", show(s.main.obj.Path), maxLoaded)
		}
		if max(s.weight, s.build.weight) > maxHeld {
			return fmt.Errorf("cannot resolve %s: its libraries hold more than %d bytes of names", show(s.main.obj.Path), maxHeld)
		}
	}
	return nil
}

// need loads one name for n, unless something loaded answers to it.
func (s *space) need(n *node, name string, optional bool) error {
	// What one loader did not find another may, with a search path of its own.
	if s.byName[name] != nil || fromKernel(name) {
		return nil
	}
	res, err := s.find(n, name)
	if limit := new(limitError); errors.As(err, &limit) {
		return limit.err
	}
	if err != nil {
		if !optional {
			s.lost[name] = true
		}
		s.lack(n, name, err.Error(), optional)
		return nil
	}
	for _, v := range res.variants {
		s.hops(v.at)
		if s.byPath[v.obj.Path] == nil {
			s.add(&node{obj: v.obj, opened: v.opened, loader: n, hw: true})
		}
	}
	s.hops(res.at)
	// One file by two names is loaded once; it answers to both.
	found := s.byPath[res.obj.Path]
	if found == nil {
		found = &node{obj: res.obj, opened: res.opened, loader: n}
		s.add(found)
	}
	s.name(found, name)
	for _, v := range res.variants {
		if twin := s.byPath[v.obj.Path]; twin != found && !slices.Contains(s.twins[found], twin) {
			s.twins[found] = append(s.twins[found], twin)
		}
	}
	return nil
}

// fromKernel tells the library that the kernel maps into every process.
func fromKernel(name string) bool {
	switch name {
	case "linux-vdso.so.1", "linux-gate.so.1", "linux-vdso32.so.1", "linux-vdso64.so.1":
		return true
	}
	return false
}

func (s *space) lack(n *node, name, reason string, optional bool) {
	m := Missing{By: n.obj.Path, Name: name, Reason: reason, Chain: n.chain()}
	switch {
	case len(s.missing)+len(s.ignored) >= maxMissing:
	case optional:
		s.ignored = append(s.ignored, m)
	default:
		s.missing = append(s.missing, m)
	}
}
