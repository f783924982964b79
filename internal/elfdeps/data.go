package elfdeps

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

const (
	maxSymbolSteps = 1 << 16 // entries of a hash chain looked at for one name
	maxRelocBytes  = 8 << 20 // of one relocation table
	findChunk      = 64 << 10
)

// Data reads what an ELF file holds at an address, as a process would find it
// once ld.so has loaded the file: nothing is run. It keeps no more than a few
// blocks and the relocation tables of the file in memory, and reads a bounded part
// of it, whatever its headers claim. A Data is for one goroutine.
type Data struct {
	p           *parser
	symtab      uint64 // address, 0: none
	gnuHash     uint64
	sysvHash    uint64
	rela, rel   table
	budget      int64
	loaded      bool
	relas, rels []byte
}

type table struct{ addr, size uint64 }

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
		case elf.DT_RELA:
			d.rela.addr = val
		case elf.DT_RELASZ:
			d.rela.size = val
		case elf.DT_REL:
			d.rel.addr = val
		case elf.DT_RELSZ:
			d.rel.size = val
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

// Symbol gives the address of a symbol that the file defines for others, found as
// dlsym(3) finds it. ok is false where it defines none of that name.
func (d *Data) Symbol(name string) (addr uint64, ok bool, err error) {
	if d.symtab == 0 {
		return 0, false, nil
	}
	switch {
	case d.gnuHash != 0:
		return d.findGNU(name)
	case d.sysvHash != 0:
		return d.findSysV(name)
	}
	return 0, false, nil
}

// findGNU walks the chain of the table that linkers write today: four words, a
// Bloom filter of word size, buckets, and for each symbol its hash with the lowest
// bit set at the end of a chain.
func (d *Data) findGNU(name string) (uint64, bool, error) {
	var head [3]uint32
	for i := range head {
		v, err := d.Uint32(d.gnuHash + uint64(i)*4)
		if err != nil {
			return 0, false, err
		}
		head[i] = v
	}
	buckets, first, bloom := uint64(head[0]), head[1], uint64(head[2])
	if buckets == 0 {
		return 0, false, nil
	}
	hash := uint32(5381)
	for _, c := range []byte(name) {
		hash = hash*33 + uint32(c)
	}
	start := d.gnuHash + 16 + bloom*uint64(d.wordSize())
	n, err := d.Uint32(start + uint64(hash)%buckets*4)
	if err != nil || n < first {
		return 0, false, err
	}
	for range maxSymbolSteps {
		h, err := d.Uint32(start + (buckets+uint64(n-first))*4)
		if err != nil {
			return 0, false, err
		}
		if h|1 == hash|1 {
			if addr, ok, err := d.symbol(n, name); ok || err != nil {
				return addr, ok, err
			}
		}
		if h&1 != 0 {
			return 0, false, nil
		}
		n++
	}
	return 0, false, errors.New("a chain of symbols has no end")
}

// findSysV walks the older table: number of buckets and of symbols, buckets, and
// for each symbol the next one of its chain.
func (d *Data) findSysV(name string) (uint64, bool, error) {
	buckets, err := d.Uint32(d.sysvHash)
	if err != nil || buckets == 0 {
		return 0, false, err
	}
	hash := uint32(0)
	for _, c := range []byte(name) {
		hash = hash<<4 + uint32(c)
		hash ^= hash >> 24 & 0xf0
		hash &= 0x0fffffff
	}
	at := d.sysvHash + 8 + uint64(hash%buckets)*4
	for range maxSymbolSteps {
		n, err := d.Uint32(at)
		if err != nil || n == 0 {
			return 0, false, err
		}
		if addr, ok, err := d.symbol(n, name); ok || err != nil {
			return addr, ok, err
		}
		at = d.sysvHash + 8 + (uint64(buckets)+uint64(n))*4
	}
	return 0, false, errors.New("a chain of symbols has no end")
}

// sym is an entry of the symbol table.
type sym struct {
	name    uint32
	info    byte
	other   byte
	section uint16
	value   uint64
}

func (d *Data) entry(n uint32) (sym, error) {
	size := 16
	if d.p.wide {
		size = 24
	}
	b, err := d.p.mapped(d.symtab+uint64(n)*uint64(size), size)
	if err != nil {
		return sym{}, err
	}
	o := d.p.order
	if d.p.wide {
		return sym{o.Uint32(b), b[4], b[5], o.Uint16(b[6:]), o.Uint64(b[8:])}, nil
	}
	return sym{o.Uint32(b), b[12], b[13], o.Uint16(b[14:]), uint64(o.Uint32(b[4:]))}, nil
}

// defined tells whether others find the symbol.
func (s sym) defined() bool {
	vis, typ := elf.ST_VISIBILITY(s.other), elf.ST_TYPE(s.info)
	return elf.SectionIndex(s.section) != elf.SHN_UNDEF && elf.ST_BIND(s.info) != elf.STB_LOCAL &&
		(vis == elf.STV_DEFAULT || vis == elf.STV_PROTECTED) &&
		(typ == elf.STT_NOTYPE || typ == elf.STT_OBJECT || typ == elf.STT_FUNC || typ == elf.STT_COMMON)
}

// symbol looks whether entry n is the one wanted.
func (d *Data) symbol(n uint32, name string) (uint64, bool, error) {
	s, err := d.entry(n)
	if err != nil || !s.defined() {
		return 0, false, err
	}
	if d.p.strsz != 0 && uint64(s.name) >= d.p.strsz {
		return 0, false, fmt.Errorf("string %#x is beyond the string table", s.name)
	}
	off, rest, err := d.p.at(d.p.strtab + uint64(s.name))
	if err != nil {
		return 0, false, err
	}
	if rest <= uint64(len(name)) {
		return 0, false, nil
	}
	b, err := d.p.bytes(off, len(name)+1)
	if err != nil {
		return 0, false, err
	}
	return s.value, string(b[:len(name)]) == name && b[len(name)] == 0, nil
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
	for _, t := range []struct {
		b     []byte
		width int
	}{{d.relas, 3 * word}, {d.rels, 2 * word}} {
		for b := t.b; len(b) >= t.width; b = b[t.width:] {
			if d.p.word(b) != addr {
				continue
			}
			if t.width == 3*word {
				place = d.p.word(b[2*word:])
			}
			return d.relocated(d.p.word(b[word:]), place)
		}
	}
	// DT_RELR says only that the load address is to be added to what is there.
	return place, nil
}

func (d *Data) loadRelocations() error {
	if d.loaded {
		return nil
	}
	for _, t := range []struct {
		table
		to *[]byte
	}{{d.rela, &d.relas}, {d.rel, &d.rels}} {
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
		*t.to = slices.Clone(b)
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
