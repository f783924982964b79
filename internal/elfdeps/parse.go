package elfdeps

import (
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Object is what the loader needs to know of an ELF file. It is read by way of
// program headers and the dynamic segment, as ld.so does: section headers may
// be stripped, and lie.
type Object struct {
	Path    string // where it lies, links resolved
	Class   elf.Class
	Data    elf.Data
	Machine elf.Machine
	Type    elf.Type
	// Interp is the program interpreter (ld.so), "" where none is asked for.
	Interp string
	// SONAME is the library's own name, "" where it has none.
	SONAME string
	// Needed are the libraries that it names, in its order.
	Needed []string
	// Rpath and Runpath are the directories, unexpanded. Rpath is empty where
	// there is a DT_RUNPATH, which takes its place.
	Rpath, Runpath []string
	// VersionsNeeded gives the symbol versions wanted, by library name, weak
	// ones included; each list is sorted.
	VersionsNeeded map[string][]string
	// VersionsDefined are the symbol versions provided, sorted, without the
	// base version. It is nil where the file has no versions at all; ld.so
	// takes such a library for every version.
	VersionsDefined []string
	// Static is a program that needs no loader.
	Static bool
	// BuildID is the GNU build ID in hex, "" where there is none.
	BuildID string

	auxiliary  []string // DT_AUXILIARY: used if there, no harm if not
	filters    []string // DT_FILTER
	needs      []versionNeed
	defines    map[string]bool // base version included; nil: no versions
	hasRunpath bool
	flags1     uint64
	dynamic    bool
	foreign    bool  // of another operating system, or firmware
	detached   bool  // debug symbols that were split off: headers with no content
	weight     int64 // bytes of text held
}

const (
	elfMagic = "\x7fELF"

	// Limits of what is believed. The largest that is met in practice stays
	// far below each.
	maxHeaders = 1024
	maxDynamic = 32768
	maxNeeded  = 4096
	maxName    = 4096      // PATH_MAX
	maxRpath   = 128 << 10 // bytes of one search path
	maxDirs    = 4096      // of one search path
	maxNote    = 64 << 10

	flagNoDefLib = 0x800     // DF_1_NODEFLIB
	flagPIE      = 0x8000000 // DF_1_PIE
)

// loadable tells what a Linux kernel or ld.so would load from what they would
// not look at.
func (o *Object) loadable() bool {
	return !o.foreign && (o.Type == elf.ET_EXEC || o.Type == elf.ET_DYN)
}

// program tells a program from a shared library. Both are ET_DYN today, old
// linkers do not set DF_1_PIE, and glibc's own libc.so.6 has an interpreter.
func (o *Object) program() bool {
	return o.Type == elf.ET_EXEC || o.flags1&flagPIE != 0 || o.Interp != "" && o.SONAME == ""
}

// segment is a part of the file that is mapped.
type segment struct {
	addr, size, off uint64
	writable        bool
}

type parser struct {
	*window
	obj    *Object
	order  binary.ByteOrder
	wide   bool // 64 bits
	loads  []segment
	dyn    segment // the dynamic segment; size 0 where there is none
	strtab uint64  // address
	strsz  uint64
	text   int64 // bytes of text that may still be kept
}

// parseObject reads an ELF file. It is the only entry to the parser. The parser
// checks every offset; that it recovers as well is the last wall. With an error
// comes what the header told until then: ld.so passes over a file of another
// class or machine before it looks at the rest.
func parseObject(f File) (obj *Object, err error) {
	defer func() {
		if v := recover(); v != nil {
			obj, err = nil, errors.New("damaged beyond what the parser knows")
		}
	}()
	return parseGuarded(f)
}

func parseGuarded(f File) (*Object, error) {
	if !IsELF(f) {
		return nil, ErrNotELF
	}
	p := &parser{window: newWindow(f), obj: &Object{}, text: maxText}
	if err := p.header(); err != nil {
		o := p.obj
		return &Object{Class: o.Class, Data: o.Data, Machine: o.Machine, Type: o.Type, foreign: o.foreign}, err
	}
	p.obj.weight = maxText - p.text
	return p.obj, nil
}

func (p *parser) word(b []byte) uint64 {
	if p.wide {
		return p.order.Uint64(b)
	}
	return uint64(p.order.Uint32(b))
}

func (p *parser) header() error {
	ident, err := p.bytes(0, elf.EI_NIDENT)
	if err != nil {
		return err
	}
	o := p.obj
	o.Class, o.Data = elf.Class(ident[elf.EI_CLASS]), elf.Data(ident[elf.EI_DATA])
	switch o.Class {
	case elf.ELFCLASS32:
	case elf.ELFCLASS64:
		p.wide = true
	default:
		return fmt.Errorf("unknown class %d", ident[elf.EI_CLASS])
	}
	switch o.Data {
	case elf.ELFDATA2LSB:
		p.order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		p.order = binary.BigEndian
	default:
		return fmt.Errorf("unknown byte order %d", ident[elf.EI_DATA])
	}
	if ident[elf.EI_VERSION] != byte(elf.EV_CURRENT) {
		return fmt.Errorf("unknown ELF version %d", ident[elf.EI_VERSION])
	}
	abi := elf.OSABI(ident[elf.EI_OSABI])
	o.foreign = abi != elf.ELFOSABI_NONE && abi != elf.ELFOSABI_LINUX
	size, entry := 52, 32
	if p.wide {
		size, entry = 64, 56
	}
	h, err := p.bytes(0, size)
	if err != nil {
		return err
	}
	o.Type, o.Machine = elf.Type(p.order.Uint16(h[16:])), elf.Machine(p.order.Uint16(h[18:]))
	if !o.loadable() {
		return nil
	}
	var off uint64
	var tail []byte
	if p.wide {
		off, tail = p.order.Uint64(h[32:]), h[54:]
	} else {
		off, tail = uint64(p.order.Uint32(h[28:])), h[42:]
	}
	got, count := int(p.order.Uint16(tail)), int(p.order.Uint16(tail[2:]))
	if count > 0 && got != entry {
		return fmt.Errorf("program headers of %d bytes instead of %d", got, entry)
	}
	if count > maxHeaders {
		return fmt.Errorf("%d program headers, more than %d", count, maxHeaders)
	}
	table, err := p.bytes(off, count*entry)
	if err != nil {
		return err
	}
	return p.segments(slices.Clone(table), entry)
}

func (p *parser) segments(table []byte, entry int) error {
	var dyn, interp *segment
	var notes []segment
	for ; len(table) > 0; table = table[entry:] {
		var s segment
		var flags uint32
		if p.wide {
			s = segment{off: p.word(table[8:]), addr: p.word(table[16:]), size: p.word(table[32:])}
			flags = p.order.Uint32(table[4:])
		} else {
			s = segment{off: p.word(table[4:]), addr: p.word(table[8:]), size: p.word(table[16:])}
			flags = p.order.Uint32(table[24:])
		}
		s.writable = flags&uint32(elf.PF_W) != 0
		switch elf.ProgType(p.order.Uint32(table)) {
		case elf.PT_LOAD:
			if s.addr+s.size < s.addr || s.off+s.size < s.off || s.off+s.size > math.MaxInt64 {
				return errors.New("a segment reaches beyond the address space")
			}
			p.loads = append(p.loads, s)
		case elf.PT_DYNAMIC:
			dyn = &s
		case elf.PT_INTERP:
			if interp == nil {
				interp = &s
			}
		case elf.PT_NOTE:
			notes = append(notes, s)
		}
	}
	if interp != nil && interp.size > 0 {
		// The kernel reads this one, by file offset.
		if interp.size > maxName {
			return fmt.Errorf("interpreter's name of %d bytes", interp.size)
		}
		b, err := p.bytes(interp.off, int(interp.size))
		if err != nil {
			return err
		}
		if b[len(b)-1] != 0 {
			return errors.New("interpreter's name has no end")
		}
		p.obj.Interp, _, _ = strings.Cut(string(b), "\x00")
	}
	for _, n := range notes {
		if p.obj.BuildID == "" {
			p.buildID(n)
		}
	}
	switch {
	case dyn == nil:
	case dyn.size == 0:
		p.obj.detached = true
	default:
		p.dyn = *dyn
		if err := p.dynamic(*dyn); err != nil {
			return err
		}
	}
	p.obj.Static = p.obj.Interp == "" && !p.obj.detached &&
		(p.obj.Type == elf.ET_EXEC || p.obj.flags1&flagPIE != 0)
	return nil
}

// at gives the file offset of a mapped address, and how many bytes follow it in
// the same segment. Where segments overlap the later one is mapped on top.
func (p *parser) at(addr uint64) (off, rest uint64, err error) {
	for _, s := range slices.Backward(p.loads) {
		if addr >= s.addr && addr-s.addr < s.size {
			return s.off + (addr - s.addr), s.size - (addr - s.addr), nil
		}
	}
	return 0, 0, fmt.Errorf("address %#x is in no segment of the file", addr)
}

// mapped reads n bytes at an address.
func (p *parser) mapped(addr uint64, n int) ([]byte, error) {
	off, rest, err := p.at(addr)
	if err != nil {
		return nil, err
	}
	if rest < uint64(n) {
		return nil, fmt.Errorf("address %#x is cut off by its segment", addr)
	}
	return p.bytes(off, n)
}

// str reads a string of the dynamic string table.
func (p *parser) str(ref uint64, limit int) (string, error) {
	if p.strsz != 0 && ref >= p.strsz {
		return "", fmt.Errorf("string %#x is beyond the string table", ref)
	}
	off, rest, err := p.at(p.strtab + ref)
	if err != nil {
		return "", err
	}
	if p.strsz != 0 {
		rest = min(rest, p.strsz-ref)
	}
	s, err := p.cstring(off, rest, limit)
	if err != nil {
		return "", err
	}
	if p.text -= int64(len(s)) + 48; p.text < 0 {
		return "", fmt.Errorf("more than %d bytes of names", maxText)
	}
	return s, nil
}

// buildID looks for the GNU build ID. A damaged note is none: nothing depends
// on it.
func (p *parser) buildID(seg segment) {
	if seg.size > maxNote {
		return
	}
	b, err := p.bytes(seg.off, int(seg.size))
	if err != nil {
		return
	}
	const typeBuildID = 3
	for len(b) >= 12 {
		name, desc := uint64(p.order.Uint32(b)), uint64(p.order.Uint32(b[4:]))
		kind := p.order.Uint32(b[8:])
		start := 12 + (name+3)&^3
		end := start + desc
		if end > uint64(len(b)) {
			return
		}
		if kind == typeBuildID && name == 4 && string(b[12:16]) == "GNU\x00" && desc <= 64 {
			p.obj.BuildID = hex.EncodeToString(b[start:end])
			return
		}
		b = b[min((end+3)&^3, uint64(len(b))):]
	}
}
