package pkgs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A Paragraph is one paragraph of a control file (deb822(5), Debian Policy
// 5.1): its fields in their order. It is a view of the reader's buffer and is
// valid only until the function it was handed to returns; the strings that Get
// returns are copies and stay.
type Paragraph struct {
	buf    []byte
	fields []field
	line   int
}

// field holds offsets into the paragraph's buffer, not strings: an index has a
// million fields of which a caller wants a few.
type field struct {
	hash                   uint32
	name, nameEnd, val, to uint32
}

// Get returns the value of the named field, in whatever case the name is
// written, or "" where there is no such field. White space around the value is
// gone; the lines of a folded or multi-line value are kept as they stand, each
// but the first with its leading space.
func (p Paragraph) Get(name string) string {
	if f := p.find(name); f != nil {
		return string(p.buf[f.val:f.to])
	}
	return ""
}

// Has reports whether the paragraph has the named field, be it empty.
func (p Paragraph) Has(name string) bool { return p.find(name) != nil }

// Fields returns the names of the fields in their order, as they are written.
func (p Paragraph) Fields() []string {
	names := make([]string, len(p.fields))
	for i, f := range p.fields {
		names[i] = string(p.buf[f.name:f.nameEnd])
	}
	return names
}

// Line returns the number, counted from one, of the line that the paragraph
// starts on.
func (p Paragraph) Line() int { return p.line }

func (p Paragraph) find(name string) *field {
	h := foldHash(name)
	for i := range p.fields {
		f := &p.fields[i]
		if f.hash == h && equalFold(p.buf[f.name:f.nameEnd], name) {
			return f
		}
	}
	return nil
}

// foldHash is FNV-1a over the name in lower case: the cheap half of comparing
// names, so that looking for repeated fields costs no more than integers.
func foldHash[T string | []byte](name T) uint32 {
	h := uint32(2166136261)
	for i := range len(name) {
		h = (h ^ uint32(lower(name[i]))) * 16777619
	}
	return h
}

func equalFold[T, U string | []byte](a T, b U) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + ('a' - 'A')
	}
	return c
}

// ReadParagraphs reads a control file and calls fn for each of its paragraphs,
// one after another, without holding more than one. It stops at the first error
// of fn and returns that as it is. An input without any paragraph is no error.
//
// The grammar is that of Debian Policy 5.1: a line of nothing but white space
// ends a paragraph, a line that starts with either continues a value, a
// field occurs once in a paragraph. What breaks it, and NUL bytes, are refused
// with the number of the line.
func ReadParagraphs(r io.Reader, max Limits, fn func(Paragraph) error) error {
	p := paragraphReader{r: r, lim: max.withDefaults(), fn: fn, buf: make([]byte, 64<<10)}
	return p.run()
}

// paragraphReader keeps buf[start:end]: the paragraph that is being read and
// what was read ahead of it. Offsets of fields are relative to start, so they
// outlive a move of the buffer.
type paragraphReader struct {
	r          io.Reader
	lim        Limits
	fn         func(Paragraph) error
	buf        []byte
	start, pos int // of the paragraph; of the next line
	end        int
	eof        bool
	total      int64
	line       int // number of the line last returned by next
	firstLine  int // of the paragraph
	count      int
	fields     []field
	split      bool // a comment stands between the lines of the last value
}

func (p *paragraphReader) run() error {
	for {
		line, err := p.next()
		if errors.Is(err, io.EOF) {
			return p.flush()
		}
		if err != nil {
			return fmt.Errorf("cannot read control data: %w", err)
		}
		if blank(line) {
			if err := p.flush(); err != nil {
				return err
			}
			continue
		}
		if err := p.add(line); err != nil {
			return fmt.Errorf("cannot read control data: line %d: %w", p.line, err)
		}
	}
}

// next returns the next line without its newline. It is a view of buf that
// starts at pos-len; io.EOF follows the last one.
func (p *paragraphReader) next() ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(p.buf[p.pos+seen:p.end], '\n'); i >= 0 {
			line := p.buf[p.pos : p.pos+seen+i]
			p.pos += seen + i + 1
			p.line++
			if len(line) > p.lim.Line {
				return nil, fmt.Errorf("line %d is longer than %d bytes", p.line, p.lim.Line)
			}
			return line, nil
		}
		seen = p.end - p.pos
		switch {
		case seen > p.lim.Line:
			return nil, fmt.Errorf("line %d is longer than %d bytes", p.line+1, p.lim.Line)
		case p.eof && seen == 0:
			return nil, io.EOF
		case p.eof:
			line := p.buf[p.pos:p.end]
			p.pos = p.end
			p.line++
			return line, nil
		case p.pos-p.start > p.lim.Paragraph:
			return nil, fmt.Errorf("paragraph at line %d is larger than %d bytes", p.firstLine, p.lim.Paragraph)
		}
		if err := p.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more, after it moved the paragraph to the front or doubled the
// buffer if that is full.
func (p *paragraphReader) fill() error {
	if p.start > 0 {
		copy(p.buf, p.buf[p.start:p.end])
		p.pos -= p.start
		p.end -= p.start
		p.start = 0
	}
	if p.end == len(p.buf) {
		p.buf = append(p.buf, make([]byte, len(p.buf))...)
	}
	for range 100 {
		n, err := p.r.Read(p.buf[p.end:])
		p.end += n
		p.total += int64(n)
		if p.total > p.lim.Output {
			return fmt.Errorf("more than %d bytes", p.lim.Output)
		}
		if errors.Is(err, io.EOF) {
			p.eof = true
			return nil
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
	return io.ErrNoProgress
}

// add takes one line that is not blank into the paragraph.
func (p *paragraphReader) add(line []byte) error {
	if bytes.IndexByte(line, 0) >= 0 {
		return errors.New("NUL byte")
	}
	// The last line of a file may lack its newline.
	base := p.pos - len(line) - 1
	if p.eof && p.pos == p.end && p.buf[p.end-1] != '\n' {
		base++
	}
	switch c := line[0]; {
	case c == '#' && p.lim.Comments:
		if len(p.fields) == 0 {
			p.start = p.pos
		} else {
			p.split = true
		}
		return nil
	case c == ' ' || c == '\t':
		if len(p.fields) == 0 {
			return errors.New("a continuation without a field")
		}
		return p.extend(base, line)
	}
	if len(p.fields) == 0 {
		p.start, p.firstLine = base, p.line
	}
	p.split = false
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return fmt.Errorf("no colon in %s", quote(line))
	}
	name := line[:colon]
	if !fieldName(name) {
		return fmt.Errorf("bad field name %s", quote(name))
	}
	if len(p.fields) == p.lim.Fields {
		return fmt.Errorf("more than %d fields", p.lim.Fields)
	}
	h := foldHash(name)
	for i := range p.fields {
		f := &p.fields[i]
		if f.hash == h && equalFold(p.buf[p.start+int(f.name):p.start+int(f.nameEnd)], name) {
			return fmt.Errorf("field %s twice", quote(name))
		}
	}
	off := base - p.start
	from, to := trim(line, colon+1)
	p.fields = append(p.fields, field{
		hash: h, name: uint32(off), nameEnd: uint32(off + colon),
		val: uint32(off + from), to: uint32(off + to),
	})
	return nil
}

// extend appends a continuation line to the last field. Lines of one value lie
// side by side in the buffer, unless a comment parted them: then the line is
// moved down over the comment.
func (p *paragraphReader) extend(base int, line []byte) error {
	f := &p.fields[len(p.fields)-1]
	_, to := trim(line, 0)
	if p.split {
		end := p.start + int(f.to)
		p.buf[end] = '\n'
		copy(p.buf[end+1:], line[:to])
		f.to = uint32(end + 1 + to - p.start)
		return nil
	}
	f.to = uint32(base + to - p.start)
	return nil
}

// flush hands the paragraph out and forgets it.
func (p *paragraphReader) flush() error {
	if len(p.fields) > 0 {
		if p.pos-p.start > p.lim.Paragraph+1 {
			return fmt.Errorf("cannot read control data: paragraph at line %d is larger than %d bytes", p.firstLine, p.lim.Paragraph)
		}
		if p.count++; p.count > p.lim.Paragraphs {
			return fmt.Errorf("cannot read control data: more than %d paragraphs", p.lim.Paragraphs)
		}
		if err := p.fn(Paragraph{buf: p.buf[p.start:p.pos], fields: p.fields, line: p.firstLine}); err != nil {
			return err
		}
	}
	p.fields, p.start, p.split = p.fields[:0], p.pos, false
	return nil
}

func blank(line []byte) bool {
	for _, c := range line {
		if c != ' ' && c != '\t' && c != '\r' {
			return false
		}
	}
	return true
}

// trim returns the bounds of line[from:] without the white space around it; an
// empty value has two equal bounds.
func trim(line []byte, from int) (int, int) {
	to := len(line)
	for from < to && (line[from] == ' ' || line[from] == '\t') {
		from++
	}
	for to > from && (line[to-1] == ' ' || line[to-1] == '\t' || line[to-1] == '\r') {
		to--
	}
	return from, to
}

// fieldName tells whether a name is one by Policy 5.1: printable ASCII without
// space and colon, not starting with "#" or "-".
func fieldName(name []byte) bool {
	if len(name) == 0 || name[0] == '#' || name[0] == '-' {
		return false
	}
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// quote shows hostile text in an error: escaped, and not for ever.
func quote[T string | []byte](s T) string {
	const most = 80
	if len(s) > most {
		return fmt.Sprintf("%q...", string(s[:most]))
	}
	return fmt.Sprintf("%q", string(s))
}
