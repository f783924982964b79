package pkgs

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60
	arMaxMembers = 16
)

// arMember is where one member of a .deb lies.
type arMember struct {
	name         string
	offset, size int64
}

// readAr lists the members of an ar archive that fills the file exactly. Of the
// ar dialects it takes the one that deb(5) describes: names of up to 16 bytes in
// the header itself, padded with spaces, perhaps with a slash at their end.
func readAr(r io.ReaderAt, size int64) ([]arMember, error) {
	magic := make([]byte, len(arMagic))
	if err := readFullAt(r, magic, 0, size); err != nil {
		return nil, err
	}
	if string(magic) != arMagic {
		return nil, errors.New("not an ar archive")
	}
	var members []arMember
	seen := make(map[string]bool)
	for at := int64(len(arMagic)); at < size; {
		if len(members) == arMaxMembers {
			return nil, fmt.Errorf("more than %d members", arMaxMembers)
		}
		var h [arHeaderSize]byte
		if err := readFullAt(r, h[:], at, size); err != nil {
			return nil, err
		}
		at += arHeaderSize
		m, err := parseArHeader(h[:])
		if err != nil {
			return nil, fmt.Errorf("member %d: %w", len(members)+1, err)
		}
		if seen[m.name] {
			return nil, fmt.Errorf("member %s twice", quote(m.name))
		}
		seen[m.name] = true
		m.offset = at
		padded := m.size + m.size%2
		if padded > size-at {
			return nil, fmt.Errorf("member %s: %w", quote(m.name), io.ErrUnexpectedEOF)
		}
		if m.size%2 == 1 {
			var pad [1]byte
			if err := readFullAt(r, pad[:], at+m.size, size); err != nil {
				return nil, err
			}
			if pad[0] != '\n' {
				return nil, fmt.Errorf("member %s is not padded with a newline", quote(m.name))
			}
		}
		at += padded
		members = append(members, m)
	}
	return members, nil
}

// parseArHeader reads name and size: what else a header tells, dpkg does not
// look at either.
func parseArHeader(h []byte) (arMember, error) {
	if h[58] != '`' || h[59] != '\n' {
		return arMember{}, errors.New("damaged header")
	}
	name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	if name == "" {
		return arMember{}, errors.New("a member without a name")
	}
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || digit(c) || c == '.' || c == '-' || c == '_') {
			return arMember{}, fmt.Errorf("strange name %s", quote(name))
		}
	}
	n, err := size(strings.TrimRight(string(h[48:58]), " "))
	if err != nil || h[48] == ' ' {
		return arMember{}, errors.New("damaged size")
	}
	return arMember{name: name, size: n}, nil
}

// readFullAt reads within a file of a known size, so that a reader that lies
// about its end is found out.
func readFullAt(r io.ReaderAt, p []byte, off, size int64) error {
	if off+int64(len(p)) > size {
		return io.ErrUnexpectedEOF
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
