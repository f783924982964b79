package elfdeps

import (
	"debug/elf"
	"errors"
	"fmt"
)

const maxSymbolSteps = 1 << 16 // entries of a hash chain looked at for one name

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
