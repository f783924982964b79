package elfdeps

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

const (
	maxRelocBytes = 8 << 20 // of one relocation table
	findChunk     = 64 << 10
)

// Data reads what an ELF file holds at an address, as a process would find it
// once ld.so has loaded the file: nothing is run. It keeps no more than a few
// blocks and the relocation tables of the file in memory, and reads a bounded part
// of it, whatever its headers claim. A Data is for one goroutine.
type Data struct {
	p        *parser
	symtab   uint64 // address, 0: none
	gnuHash  uint64
	sysvHash uint64
	addends  relocations // each with an addend of its own
	places   relocations // the addend lies in place
	budget   int64
	loaded   bool
}

// relocations is a table of them.
type relocations struct {
	addr, size uint64
	b          []byte
}

// OpenData reads the headers of a program or a shared library. The file stays the
// caller's and must be open as long as the Data is used; budget is how many bytes
// Find may read of it in all. The error is ErrNotELF for another kind of file.
func OpenData(f File, budget int64) (*Data, error) {
	if !IsELF(f) {
		return nil, ErrNotELF
	}
	p := &parser{window: newWindow(f), obj: &Object{}, text: maxText}
	if err := p.header(); err != nil {
		return nil, err
	}
	if !p.obj.loadable() {
		return nil, errors.New("neither a program nor a shared library")
	}
	d := &Data{p: p, budget: budget}
	if p.dyn.size == 0 {
		return d, nil
	}
	return d, p.eachDyn(p.dyn, func(tag elf.DynTag, val uint64) error {
		switch tag {
		case elf.DT_SYMTAB:
			d.symtab = val
		case elf.DT_GNU_HASH:
			d.gnuHash = val
		case elf.DT_HASH:
			d.sysvHash = val
		case elf.DT_RELA: //nolint:misspell // a word of ELF
			d.addends.addr = val
		case elf.DT_RELASZ:
			d.addends.size = val
		case elf.DT_REL:
			d.places.addr = val
		case elf.DT_RELSZ:
			d.places.size = val
		}
		return nil
	})
}

// Object is what the headers and the dynamic segment tell.
func (d *Data) Object() Object { return *d.p.obj }

// Wide tells whether addresses have 64 bits.
func (d *Data) Wide() bool { return d.p.wide }

// Bytes gives n bytes at an address, before relocation. They hold until the next
// call of a method and must not be changed.
func (d *Data) Bytes(addr uint64, n int) ([]byte, error) { return d.p.mapped(addr, n) }

// Uint32 reads a C unsigned int.
func (d *Data) Uint32(addr uint64) (uint32, error) {
	b, err := d.p.mapped(addr, 4)
	if err != nil {
		return 0, err
	}
	return d.p.order.Uint32(b), nil
}

// Word reads a C unsigned long, before relocation.
func (d *Data) Word(addr uint64) (uint64, error) {
	b, err := d.p.mapped(addr, d.wordSize())
	if err != nil {
		return 0, err
	}
	return d.p.word(b), nil
}

func (d *Data) wordSize() int {
	if d.p.wide {
		return 8
	}
	return 4
}

// String reads the text at an address up to its NUL; one longer than limit bytes
// is an error.
func (d *Data) String(addr uint64, limit int) (string, error) {
	off, rest, err := d.p.at(addr)
	if err != nil {
		return "", err
	}
	return d.p.cstring(off, rest, limit)
}

// Pointer reads a pointer, as it is once the file was loaded at address 0: where a
// relocation fills it, what that writes. A pointer into another file is an error.
func (d *Data) Pointer(addr uint64) (uint64, error) {
	place, err := d.Word(addr)
	if err != nil {
		return 0, err
	}
	if err := d.loadRelocations(); err != nil {
		return 0, err
	}
	word := d.wordSize()
	find := func(table []byte, width int) []byte {
		for ; len(table) >= width; table = table[width:] {
			if d.p.word(table) == addr {
				return table[:width]
			}
		}
		return nil
	}
	if r := find(d.addends.b, 3*word); r != nil {
		return d.relocated(d.p.word(r[word:]), d.p.word(r[2*word:]))
	}
	if r := find(d.places.b, 2*word); r != nil {
		return d.relocated(d.p.word(r[word:]), place)
	}
	// DT_RELR says only that the load address is to be added to what is there.
	return place, nil
}

func (d *Data) loadRelocations() error {
	if d.loaded {
		return nil
	}
	for _, t := range []*relocations{&d.addends, &d.places} {
		if t.addr == 0 || t.size == 0 {
			continue
		}
		if t.size > maxRelocBytes {
			return fmt.Errorf("relocations of %d bytes, more than %d", t.size, maxRelocBytes)
		}
		b, err := d.p.mapped(t.addr, int(t.size))
		if err != nil {
			return err
		}
		t.b = slices.Clone(b)
	}
	d.loaded = true
	return nil
}

// relocated computes the two relocations by which data points at data.
func (d *Data) relocated(info, addend uint64) (uint64, error) {
	typ, n := uint32(info), uint32(info>>32)
	mask := ^uint64(0)
	if !d.p.wide {
		typ, n, mask = uint32(info&0xff), uint32(info>>8), 0xffffffff
	}
	var relative, absolute uint32
	switch d.p.obj.Machine {
	case elf.EM_X86_64:
		relative, absolute = uint32(elf.R_X86_64_RELATIVE), uint32(elf.R_X86_64_64)
	case elf.EM_386:
		relative, absolute = uint32(elf.R_386_RELATIVE), uint32(elf.R_386_32)
	case elf.EM_AARCH64:
		relative, absolute = uint32(elf.R_AARCH64_RELATIVE), uint32(elf.R_AARCH64_ABS64)
	case elf.EM_ARM:
		relative, absolute = uint32(elf.R_ARM_RELATIVE), uint32(elf.R_ARM_ABS32)
	case elf.EM_RISCV:
		relative, absolute = uint32(elf.R_RISCV_RELATIVE), uint32(elf.R_RISCV_64)
	case elf.EM_PPC64:
		relative, absolute = uint32(elf.R_PPC64_RELATIVE), uint32(elf.R_PPC64_ADDR64)
	case elf.EM_S390:
		relative, absolute = uint32(elf.R_390_RELATIVE), uint32(elf.R_390_64)
	case elf.EM_LOONGARCH:
		relative, absolute = uint32(elf.R_LARCH_RELATIVE), uint32(elf.R_LARCH_64)
	default:
		return 0, fmt.Errorf("relocations of %v are not known", d.p.obj.Machine)
	}
	switch typ {
	case relative:
		return addend & mask, nil
	case absolute:
		s, err := d.entry(n)
		if err != nil {
			return 0, err
		}
		if elf.SectionIndex(s.section) == elf.SHN_UNDEF {
			return 0, errors.New("a pointer leads into another file")
		}
		return (s.value + addend) & mask, nil
	}
	return 0, fmt.Errorf("a pointer is filled by relocation %d", typ)
}

// Find calls fn for each text in the read-only segments that begins with prefix
// and ends with a NUL after at most limit bytes, until fn gives false. A text is
// found wherever it begins, also as the end of a longer one. What fn is given holds
// until it returns.
func (d *Data) Find(prefix string, limit int, fn func(text []byte) bool) error {
	if prefix == "" || limit < len(prefix) || limit >= findChunk/2 {
		return fmt.Errorf("cannot look for texts of %d to %d bytes", len(prefix), limit)
	}
	buf := make([]byte, findChunk)
	for _, s := range d.p.loads {
		if s.writable {
			continue
		}
		if s.off+s.size > d.p.size {
			return fmt.Errorf("cut off: %d bytes are wanted at %d and the file has %d", s.size, s.off, d.p.size)
		}
		more, err := d.findIn(buf, s, prefix, limit, fn)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (d *Data) findIn(buf []byte, s segment, prefix string, limit int, fn func([]byte) bool) (bool, error) {
	for off, end := s.off, s.off+s.size; off < end; {
		n := min(uint64(len(buf)), end-off)
		if d.budget -= int64(n); d.budget < 0 {
			return false, errors.New("more read-only data than any honest file has")
		}
		if k, err := d.p.r.ReadAt(buf[:n], int64(off)); uint64(k) < n {
			if err == nil {
				err = errors.New("cut off while it was read")
			}
			return false, err
		}
		b := buf[:n]
		// A text that begins in the last limit bytes is looked at in the next
		// round, unless there is none.
		last := off+n == end
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], []byte(prefix))
			if i < 0 {
				break
			}
			at += i
			if !last && at >= len(b)-limit {
				break
			}
			rest := b[at:min(len(b), at+limit+1)]
			if e := bytes.IndexByte(rest, 0); e >= 0 && !fn(rest[:e]) {
				return false, nil
			}
		}
		if last {
			break
		}
		off += n - uint64(limit)
	}
	return true, nil
}

// Left is how many bytes Find may still read.
func (d *Data) Left() int64 { return d.budget }
