// Package elftest makes small ELF files for tests: shared libraries with symbols,
// data and relocations, of any class and byte order. They hold nothing to run.
package elftest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
)

// Lib is a shared library. The zero values are those of x86-64.
type Lib struct {
	Class   elf.Class
	Data    elf.Data
	Machine elf.Machine
	SysV    bool // DT_HASH instead of DT_GNU_HASH
	RO, RW  []Item
	Foreign []string // symbols that the library wants of others
}

// Item is a named piece of data. Parts are uint32, Word, Ref, SymRef, and string,
// which a NUL follows; each but strings is aligned to its size.
type Item struct {
	Name   string
	Hidden bool // not in the symbol table
	Parts  []any
}

type (
	// Word is a C unsigned long.
	Word uint64
	// Ref is a pointer to the item of that name, filled by a relative relocation.
	Ref string
	// SymRef is a pointer to the symbol of that name, filled by an absolute one.
	SymRef string
)

type maker struct {
	Lib
	order   binary.ByteOrder
	addr    map[string]uint64
	symbols []string // the null symbol included
	rel     bool
	relocs  []reloc
}

type reloc struct {
	at, typ, sym, addend uint64
}

// gap lies between a file offset and the address of writable data.
const gap = 0x10000

// Bytes makes the file. It panics over what makes no sense.
func (l Lib) Bytes() []byte {
	m := &maker{Lib: l, order: binary.LittleEndian, addr: map[string]uint64{}, symbols: []string{""}}
	if m.Class == 0 {
		m.Class = elf.ELFCLASS64
	}
	if m.Data == 0 {
		m.Data = elf.ELFDATA2LSB
	}
	if m.Machine == 0 {
		m.Machine = elf.EM_X86_64
	}
	if m.Data == elf.ELFDATA2MSB {
		m.order = binary.BigEndian
	}
	m.rel = m.Machine == elf.EM_386 || m.Machine == elf.EM_ARM
	m.symbols = append(m.symbols, l.Foreign...)
	for _, it := range append(append([]Item{}, l.RO...), l.RW...) {
		if !it.Hidden {
			m.symbols = append(m.symbols, it.Name)
		}
	}
	// The first time tells how many relocations there are, the second where all
	// lies then, and only the third is whole.
	var out []byte
	for range 3 {
		known := m.relocs
		m.relocs = nil
		out = m.assemble(known)
	}
	return out
}

func (m *maker) wide() bool { return m.Class == elf.ELFCLASS64 }

func (m *maker) word() int {
	if m.wide() {
		return 8
	}
	return 4
}

func (m *maker) put(b *bytes.Buffer, vals ...any) {
	for _, v := range vals {
		switch v := v.(type) {
		case Word:
			if m.wide() {
				m.must(binary.Write(b, m.order, uint64(v)))
			} else {
				m.must(binary.Write(b, m.order, uint32(v)))
			}
		default:
			m.must(binary.Write(b, m.order, v))
		}
	}
}

func (m *maker) must(err error) {
	if err != nil {
		panic(err)
	}
}

func align(b *bytes.Buffer, n int) {
	for b.Len()%n != 0 {
		b.WriteByte(0)
	}
}

// items writes data that lies at base plus its place in the buffer.
func (m *maker) items(b *bytes.Buffer, list []Item, base uint64) {
	for _, it := range list {
		align(b, 8)
		m.addr[it.Name] = base + uint64(b.Len())
		for _, p := range it.Parts {
			switch p := p.(type) {
			case string:
				b.WriteString(p + "\x00")
			case uint32:
				align(b, 4)
				m.put(b, p)
			case Word:
				align(b, m.word())
				m.put(b, p)
			case Ref:
				align(b, m.word())
				m.relocate(b, base, reloc{typ: m.relative(), addend: m.addr[string(p)]})
			case SymRef:
				align(b, m.word())
				m.relocate(b, base, reloc{typ: m.absolute(), sym: m.index(string(p))})
			default:
				panic(fmt.Sprintf("a part of type %T", p))
			}
		}
	}
}

// relocate leaves the addend in the place where the table has no room for one.
func (m *maker) relocate(b *bytes.Buffer, base uint64, r reloc) {
	r.at = base + uint64(b.Len())
	m.relocs = append(m.relocs, r)
	if m.rel {
		m.put(b, Word(r.addend))
	} else {
		m.put(b, Word(0))
	}
}

func (m *maker) index(name string) uint64 {
	for i, s := range m.symbols {
		if s == name {
			return uint64(i)
		}
	}
	panic("no symbol " + name)
}

func (m *maker) relative() uint64 {
	switch m.Machine {
	case elf.EM_386:
		return uint64(elf.R_386_RELATIVE)
	case elf.EM_ARM:
		return uint64(elf.R_ARM_RELATIVE)
	case elf.EM_AARCH64:
		return uint64(elf.R_AARCH64_RELATIVE)
	case elf.EM_S390:
		return uint64(elf.R_390_RELATIVE)
	case elf.EM_PPC64:
		return uint64(elf.R_PPC64_RELATIVE)
	case elf.EM_RISCV:
		return uint64(elf.R_RISCV_RELATIVE)
	}
	return uint64(elf.R_X86_64_RELATIVE)
}

func (m *maker) absolute() uint64 {
	switch m.Machine {
	case elf.EM_386:
		return uint64(elf.R_386_32)
	case elf.EM_ARM:
		return uint64(elf.R_ARM_ABS32)
	case elf.EM_AARCH64:
		return uint64(elf.R_AARCH64_ABS64)
	case elf.EM_S390:
		return uint64(elf.R_390_64)
	case elf.EM_PPC64:
		return uint64(elf.R_PPC64_ADDR64)
	case elf.EM_RISCV:
		return uint64(elf.R_RISCV_64)
	}
	return uint64(elf.R_X86_64_64)
}

// assemble writes the file: headers, tables and constant data in a read-only
// segment, the dynamic segment and the other data in a writable one.
func (m *maker) assemble(relocs []reloc) []byte {
	ehdr, phent := 52, 32
	if m.wide() {
		ehdr, phent = 64, 56
	}
	var ro bytes.Buffer // from the beginning of the file
	ro.Write(make([]byte, ehdr+3*phent))
	m.items(&ro, m.RO, 0)
	align(&ro, 8)
	var strtab bytes.Buffer
	symtab := ro.Len()
	for i, name := range m.symbols {
		at := uint32(strtab.Len())
		strtab.WriteString(name + "\x00")
		section, info := uint16(1), byte(elf.STB_GLOBAL)<<4|byte(elf.STT_OBJECT)
		if i <= len(m.Foreign) {
			section = 0
		}
		if i == 0 {
			info = 0
		}
		if m.wide() {
			m.put(&ro, at, info, byte(0), section, m.addr[name], uint64(8))
		} else {
			m.put(&ro, at, uint32(m.addr[name]), uint32(8), info, byte(0), section)
		}
	}
	strings := ro.Len()
	ro.Write(strtab.Bytes())
	align(&ro, 8)
	hash := ro.Len()
	m.hash(&ro)
	align(&ro, 8)
	table := ro.Len()
	for _, r := range relocs {
		info := r.sym<<32 | r.typ
		if !m.wide() {
			info = r.sym<<8 | r.typ
		}
		m.put(&ro, Word(r.at), Word(info))
		if !m.rel {
			m.put(&ro, Word(r.addend))
		}
	}
	size := ro.Len() - table
	align(&ro, 16)

	var rw bytes.Buffer
	base := uint64(ro.Len()) + gap
	tag := func(t elf.DynTag, v int) { m.put(&rw, Word(t), Word(v)) }
	tag(elf.DT_SYMTAB, symtab)
	tag(elf.DT_STRTAB, strings)
	tag(elf.DT_STRSZ, strtab.Len())
	if m.SysV {
		tag(elf.DT_HASH, hash)
	} else {
		tag(elf.DT_GNU_HASH, hash)
	}
	if m.rel {
		tag(elf.DT_REL, table)
		tag(elf.DT_RELSZ, size)
	} else {
		tag(elf.DT_RELA, table) //nolint:misspell // a word of ELF
		tag(elf.DT_RELASZ, size)
	}
	tag(elf.DT_NULL, 0)
	dyn := rw.Len()
	m.items(&rw, m.RW, base)

	var out bytes.Buffer
	out.WriteString("\x7fELF")
	out.Write([]byte{byte(m.Class), byte(m.Data), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	m.put(&out, uint16(elf.ET_DYN), uint16(m.Machine), uint32(1), Word(0), Word(ehdr), Word(0), uint32(0))
	m.put(&out, uint16(ehdr), uint16(phent), uint16(3), uint16(0), uint16(0), uint16(0))
	segment := func(t elf.ProgType, f elf.ProgFlag, off, addr, size Word) {
		if m.wide() {
			m.put(&out, uint32(t), uint32(f), off, addr, addr, size, size, Word(8))
		} else {
			m.put(&out, uint32(t), off, addr, addr, size, size, uint32(f), Word(8))
		}
	}
	start := Word(ro.Len())
	segment(elf.PT_LOAD, elf.PF_R, 0, 0, start)
	segment(elf.PT_LOAD, elf.PF_R|elf.PF_W, start, Word(base), Word(rw.Len()))
	segment(elf.PT_DYNAMIC, elf.PF_R|elf.PF_W, start, Word(base), Word(dyn))
	return append(append(out.Bytes(), ro.Bytes()[out.Len():]...), rw.Bytes()...)
}

// hash writes a table with one bucket, so that all symbols are one chain.
func (m *maker) hash(b *bytes.Buffer) {
	n := uint32(len(m.symbols))
	if m.SysV {
		first := min(1, n-1)
		m.put(b, uint32(1), n, first, uint32(0))
		for i := uint32(1); i < n; i++ {
			next := i + 1
			if next == n {
				next = 0
			}
			m.put(b, next)
		}
		return
	}
	first := uint32(len(m.Foreign)) + 1
	m.put(b, uint32(1), first, uint32(1), uint32(0), Word(^uint64(0)))
	if first == n {
		m.put(b, uint32(0))
		return
	}
	m.put(b, first)
	for i := first; i < n; i++ {
		h := uint32(5381)
		for _, c := range []byte(m.symbols[i]) {
			h = h*33 + uint32(c)
		}
		h &^= 1
		if i == n-1 {
			h |= 1
		}
		m.put(b, h)
	}
}
