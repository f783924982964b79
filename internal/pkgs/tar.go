package pkgs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
)

const tarBlock = 512

// tarHeader is one member of a tar, its names as they are written there.
type tarHeader struct {
	name, link   string
	typ          byte // '0'..'6'
	mode         int64
	uid, gid     int64
	size         int64
	mtime        int64 // seconds
	major, minor int64
	uname, gname string
}

// tarReader reads the tar formats that a .deb may hold according to deb(5): v7,
// ustar and GNU with long names, long link names and base-256 numbers.
//
// It is our own instead of archive/tar because that one resolves silently what
// must be refused here: PAX records that contradict the header (dpkg itself
// refuses every PAX header, so no honest package has any), sparse maps,
// numbers and names with rubbish behind them, a missing end.
type tarReader struct {
	r       io.Reader
	maxName int
	maxSize int64
	left    int64 // of the current member's content
	pad     int64 // behind it
	blk     [tarBlock]byte
}

// next moves to the next member. At the end, which it holds to the rules as
// well, it returns io.EOF.
func (t *tarReader) next() (*tarHeader, error) {
	var longName, longLink string
	for {
		if err := t.skip(); err != nil {
			return nil, err
		}
		if err := t.block(); err != nil {
			return nil, err
		}
		if zero(t.blk[:]) {
			if longName != "" || longLink != "" {
				return nil, errors.New("a long name without a member")
			}
			return nil, t.end()
		}
		h, err := t.header()
		if err != nil {
			return nil, err
		}
		switch h.typ {
		case 'L', 'K':
			s, err := t.longString(h)
			if err != nil {
				return nil, err
			}
			p := &longName
			if h.typ == 'K' {
				p = &longLink
			}
			if *p != "" {
				return nil, errors.New("two long names for one member")
			}
			*p = s
			continue
		}
		if longName != "" {
			h.name = longName
		}
		if longLink != "" {
			if h.typ != '1' && h.typ != '2' {
				return nil, fmt.Errorf("member %s is no link and has a link name", quote(h.name))
			}
			h.link = longLink
		}
		if err := t.check(h); err != nil {
			return nil, err
		}
		t.left, t.pad = h.size, -h.size&(tarBlock-1)
		return h, nil
	}
}

// Read reads the content of the current member.
func (t *tarReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > t.left {
		p = p[:t.left]
	}
	n, err := t.r.Read(p)
	t.left -= int64(n)
	if errors.Is(err, io.EOF) && t.left > 0 {
		err = io.ErrUnexpectedEOF
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (t *tarReader) block() error {
	_, err := io.ReadFull(t.r, t.blk[:])
	return cutOff(err)
}

// skip goes over what is left of the current member.
func (t *tarReader) skip() error {
	n := t.left + t.pad
	t.left, t.pad = 0, 0
	for n > 0 {
		chunk := t.blk[:min(n, tarBlock)]
		if _, err := io.ReadFull(t.r, chunk); err != nil {
			return cutOff(err)
		}
		n -= int64(len(chunk))
	}
	return nil
}

// end reads the second block of zeros and makes sure that nothing but zeros
// follows: members behind the end are seen by some readers and not by others.
func (t *tarReader) end() error {
	if err := t.block(); err != nil {
		return err
	}
	for {
		if !zero(t.blk[:]) {
			return errors.New("something follows the end")
		}
		n, err := io.ReadFull(t.r, t.blk[:])
		// Not errors.Is: a decompressor's cut-off stream wraps io.ErrUnexpectedEOF.
		if err == io.EOF || err == io.ErrUnexpectedEOF && zero(t.blk[:n]) {
			return io.EOF
		}
		if err != nil {
			return err
		}
	}
}

// header parses the block.
func (t *tarReader) header() (*tarHeader, error) {
	b := t.blk[:]
	sum, err := octal(b[148:156])
	if err != nil {
		return nil, errors.New("damaged header")
	}
	var want int64
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		want += int64(c)
	}
	if sum != want {
		return nil, errors.New("damaged header: wrong checksum")
	}
	h := &tarHeader{typ: b[156]}
	if h.typ == 0 {
		h.typ = '0'
	}
	if h.typ == 'x' || h.typ == 'g' || h.typ == 'X' {
		return nil, errors.New("a PAX header, which packages do not have")
	}
	if h.typ == 'S' {
		return nil, errors.New("a sparse file, which packages do not have")
	}
	if h.typ != 'L' && h.typ != 'K' && (h.typ < '0' || h.typ > '6') {
		return nil, fmt.Errorf("unknown type %q", h.typ)
	}

	var failed error
	str := func(from, to int) string {
		s, err := text(b[from:to])
		if err != nil && failed == nil {
			failed = err
		}
		return s
	}
	num := func(from, to int) int64 {
		n, err := number(b[from:to])
		if err != nil && failed == nil {
			failed = err
		}
		return n
	}
	h.name, h.link = str(0, 100), str(157, 257)
	h.mode, h.uid, h.gid = num(100, 108), num(108, 116), num(116, 124)
	h.size, h.mtime = num(124, 136), num(136, 148)
	switch string(b[257:265]) {
	case "ustar\x0000":
		h.uname, h.gname = str(265, 297), str(297, 329)
		h.major, h.minor = num(329, 337), num(337, 345)
		if prefix := str(345, 500); prefix != "" {
			h.name = prefix + "/" + h.name
		}
	case "ustar  \x00":
		h.uname, h.gname = str(265, 297), str(297, 329)
		h.major, h.minor = num(329, 337), num(337, 345)
		if b[482] != 0 || !zero(b[386:482]) {
			return nil, errors.New("a sparse map, which packages do not have")
		}
	case "\x00\x00\x00\x00\x00\x00\x00\x00":
	default:
		return nil, errors.New("unknown kind of tar")
	}
	if failed != nil {
		return nil, fmt.Errorf("member %s: %w", quote(h.name), failed)
	}
	return h, nil
}

// longString reads the content of a GNU long name.
func (t *tarReader) longString(h *tarHeader) (string, error) {
	// "./" before it, "/" and NUL behind it.
	if h.size < 1 || h.size > int64(t.maxName)+4 {
		return "", fmt.Errorf("a name of %d bytes, more than %d", h.size, t.maxName)
	}
	s := make([]byte, h.size)
	if _, err := io.ReadFull(t.r, s); err != nil {
		return "", cutOff(err)
	}
	t.pad = -h.size & (tarBlock - 1)
	s = bytes.TrimSuffix(s, []byte{0})
	if len(s) == 0 || bytes.IndexByte(s, 0) >= 0 {
		return "", errors.New("a long name with a NUL byte in it")
	}
	return string(s), nil
}

// check holds what one header says against the rest of it.
func (t *tarReader) check(h *tarHeader) error {
	bad := func(why string) error { return fmt.Errorf("member %s: %s", quote(h.name), why) }
	link := h.typ == '1' || h.typ == '2'
	switch {
	case h.size < 0 || h.size > t.maxSize:
		return bad("impossible size")
	case h.size > 0 && h.typ != '0':
		return bad("content behind something that is no file")
	case link && h.link == "":
		return bad("a link to nowhere")
	case !link && h.link != "":
		return bad("a link name, and it is no link")
	case h.mode < 0:
		return bad("impossible mode")
	case h.uid < 0 || h.uid > math.MaxInt32 || h.gid < 0 || h.gid > math.MaxInt32:
		return bad("impossible owner")
	case h.mtime > math.MaxInt64/int64(1e9) || h.mtime < math.MinInt64/int64(1e9):
		return bad("impossible time")
	case (h.typ == '3' || h.typ == '4') && (h.major < 0 || h.major >= 1<<12 || h.minor < 0 || h.minor >= 1<<20):
		return bad("impossible device number")
	}
	return nil
}

// text takes a name out of its field: up to the first NUL, behind which there
// must be nothing else.
func text(b []byte) (string, error) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return string(b), nil
	}
	if !zero(b[i:]) {
		return string(b[:i]), errors.New("a NUL byte in a name")
	}
	return string(b[:i]), nil
}

// number takes a number out of its field: octal, or base-256 as GNU tar writes
// what octal cannot hold.
func number(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		return octal(b)
	}
	var n int64
	switch b[0] {
	case 0x80:
	case 0xff:
		n = -1
	default:
		return 0, errors.New("a number that is too large")
	}
	for _, c := range b[1:] {
		if n > math.MaxInt64>>8 || n < math.MinInt64>>8 {
			return 0, errors.New("a number that is too large")
		}
		n = n<<8 | int64(c)
	}
	if b[0] == 0x80 && n < 0 || b[0] == 0xff && n >= 0 {
		return 0, errors.New("a number that is too large")
	}
	return n, nil
}

// octal takes "  644 \0" and the like. An empty field is 0.
func octal(b []byte) (int64, error) {
	b = bytes.TrimLeft(b, " ")
	b = bytes.TrimRight(b, " \x00")
	var n int64
	for _, c := range b {
		if c < '0' || c > '7' {
			return 0, errors.New("a damaged number")
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// cutOff names the end of the input in the middle of something.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
