package elfdeps

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// made describes an ELF file that a test makes: headers, a dynamic segment and
// its tables, nothing to run. ld.so loads it. The zero value of a field leaves
// its part out.
type made struct {
	class   elf.Class   // zero: 64 bits
	data    elf.Data    // zero: little-endian
	machine elf.Machine // zero: this machine's
	typ     elf.Type    // zero: ET_DYN
	interp  string
	soname  string
	needed  []string
	aux     []string
	filter  []string
	rpath   string
	runpath *string
	flags1  uint64
	wants   []wanted
	defines []string // the first is the base version
	note    []byte   // content of a PT_NOTE
	extra   []byte   // at the end, mapped
	static  bool     // no dynamic segment
}

type wanted struct {
	lib, version string
	weak         bool
}

func hostMachine() elf.Machine {
	switch runtime.GOARCH {
	case "arm64":
		return elf.EM_AARCH64
	case "riscv64":
		return elf.EM_RISCV
	case "ppc64le":
		return elf.EM_PPC64
	case "s390x":
		return elf.EM_S390
	}
	return elf.EM_X86_64
}

func strptr(s string) *string { return &s }

// sysvHash is the hash of symbol names of the System V ABI, which ld.so
// compares before it compares the names of versions.
func sysvHash(s string) uint32 {
	var h uint32
	for _, c := range []byte(s) {
		h = h<<4 + uint32(c)
		g := h & 0xf0000000
		h ^= g >> 24
		h &^= g
	}
	return h
}

type elfWriter struct {
	made
	order  binary.ByteOrder
	strtab bytes.Buffer
	dyn    [][2]uint64
}

func (w *elfWriter) str(s string) uint64 {
	off := w.strtab.Len()
	w.strtab.WriteString(s + "\x00")
	return uint64(off)
}

func (w *elfWriter) tag(t elf.DynTag, v uint64) { w.dyn = append(w.dyn, [2]uint64{uint64(t), v}) }

func (w *elfWriter) wide() bool { return w.class == elf.ELFCLASS64 }

func (w *elfWriter) put(b *bytes.Buffer, vals ...any) {
	for _, v := range vals {
		if word, ok := v.(uint64); ok && !w.wide() {
			v = uint32(word)
		}
		_ = binary.Write(b, w.order, v)
	}
}

func (m made) bytes() []byte {
	w := &elfWriter{made: m, order: binary.LittleEndian}
	if w.class == 0 {
		w.class = elf.ELFCLASS64
	}
	if w.data == 0 {
		w.data = elf.ELFDATA2LSB
		if runtime.GOARCH == "s390x" && w.machine == 0 {
			w.data = elf.ELFDATA2MSB
		}
	}
	if w.data == elf.ELFDATA2MSB {
		w.order = binary.BigEndian
	}
	if w.machine == 0 {
		w.machine = hostMachine()
	}
	if w.typ == 0 {
		w.typ = elf.ET_DYN
	}
	w.strtab.WriteByte(0)
	for _, n := range w.needed {
		w.tag(elf.DT_NEEDED, w.str(n))
	}
	for _, n := range w.aux {
		w.tag(elf.DT_AUXILIARY, w.str(n))
	}
	for _, n := range w.filter {
		w.tag(elf.DT_FILTER, w.str(n))
	}
	if w.soname != "" {
		w.tag(elf.DT_SONAME, w.str(w.soname))
	}
	if w.rpath != "" {
		w.tag(elf.DT_RPATH, w.str(w.rpath))
	}
	if w.runpath != nil {
		w.tag(elf.DT_RUNPATH, w.str(*w.runpath))
	}
	if w.flags1 != 0 {
		w.tag(elf.DT_FLAGS_1, w.flags1)
	}
	need, def := w.verneed(), w.verdef()
	return w.assemble(need, def)
}

func (w *elfWriter) verneed() []byte {
	var b bytes.Buffer
	for i, v := range w.wants {
		next, flags := uint32(32), uint16(0)
		if i == len(w.wants)-1 {
			next = 0
		}
		if v.weak {
			flags = 2
		}
		w.put(&b, uint16(1), uint16(1), uint32(w.str(v.lib)), uint32(16), next)
		w.put(&b, sysvHash(v.version), flags, uint16(i+2), uint32(w.str(v.version)), uint32(0))
	}
	return b.Bytes()
}

func (w *elfWriter) verdef() []byte {
	var b bytes.Buffer
	for i, v := range w.defines {
		next, flags := uint32(28), uint16(0)
		if i == len(w.defines)-1 {
			next = 0
		}
		if i == 0 {
			flags = 1
		}
		w.put(&b, uint16(1), flags, uint16(i+1), uint16(1), sysvHash(v), uint32(20), next)
		w.put(&b, uint32(w.str(v)), uint32(0))
	}
	return b.Bytes()
}

func (w *elfWriter) assemble(need, def []byte) []byte {
	ehdr, phent, width := 52, 32, 8
	if w.wide() {
		ehdr, phent, width = 64, 56, 16
	}
	type part struct {
		typ   elf.ProgType
		flags elf.ProgFlag
		off   int
		size  int
		align uint64
	}
	parts := []part{{typ: elf.PT_LOAD, flags: elf.PF_R | elf.PF_W, align: 0x10000}}
	if w.interp != "" {
		parts = append(parts, part{typ: elf.PT_INTERP, flags: elf.PF_R, align: 1})
	}
	if !w.static {
		parts = append(parts, part{typ: elf.PT_DYNAMIC, flags: elf.PF_R | elf.PF_W, align: 8})
	}
	if w.note != nil {
		parts = append(parts, part{typ: elf.PT_NOTE, flags: elf.PF_R, align: 4})
	}
	parts = append(parts, part{typ: elf.PT_GNU_STACK, flags: elf.PF_R | elf.PF_W, align: 16})
	base := uint64(0)
	if w.typ == elf.ET_EXEC {
		base = 0x400000
	}
	var body bytes.Buffer // what follows the headers
	start := ehdr + phent*len(parts)
	place := func(b []byte) int {
		for (start+body.Len())%16 != 0 {
			body.WriteByte(0)
		}
		off := start + body.Len()
		body.Write(b)
		return off
	}
	if !w.static {
		symbols := place(make([]byte, 24))
		var hash bytes.Buffer
		w.put(&hash, uint32(1), uint32(1), uint32(0), uint32(0))
		hashAt := place(hash.Bytes())
		if need != nil || def != nil {
			w.tag(elf.DT_VERSYM, base+uint64(place(make([]byte, 16))))
		}
		if need != nil {
			w.tag(elf.DT_VERNEED, base+uint64(place(need)))
			w.tag(elf.DT_VERNEEDNUM, uint64(len(w.wants)))
		}
		if def != nil {
			w.tag(elf.DT_VERDEF, base+uint64(place(def)))
			w.tag(elf.DT_VERDEFNUM, uint64(len(w.defines)))
		}
		w.tag(elf.DT_HASH, base+uint64(hashAt))
		w.tag(elf.DT_SYMTAB, base+uint64(symbols))
		w.tag(elf.DT_SYMENT, 24)
		w.tag(elf.DT_STRTAB, base+uint64(place(w.strtab.Bytes())))
		w.tag(elf.DT_STRSZ, uint64(w.strtab.Len()))
		w.tag(elf.DT_NULL, 0)
	}
	for i := range parts {
		p := &parts[i]
		switch p.typ {
		case elf.PT_INTERP:
			p.off, p.size = place([]byte(w.interp+"\x00")), len(w.interp)+1
		case elf.PT_NOTE:
			p.off, p.size = place(w.note), len(w.note)
		case elf.PT_DYNAMIC:
			var b bytes.Buffer
			for _, d := range w.dyn {
				w.put(&b, d[0], d[1])
			}
			p.off, p.size = place(b.Bytes()), width*len(w.dyn)
		}
	}
	place(w.extra)
	parts[0].size = start + body.Len()

	var out bytes.Buffer
	out.WriteString(elfMagic)
	out.Write([]byte{byte(w.class), byte(w.data), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	w.put(&out, uint16(w.typ), uint16(w.machine), uint32(1), base, uint64(ehdr), uint64(0), uint32(0))
	w.put(&out, uint16(ehdr), uint16(phent), uint16(len(parts)), uint16(0), uint16(0), uint16(0))
	for _, p := range parts {
		addr, size := base+uint64(p.off), uint64(p.size)
		if w.wide() {
			w.put(&out, uint32(p.typ), uint32(p.flags), uint64(p.off), addr, addr, size, size, p.align)
		} else {
			w.put(&out, uint32(p.typ), uint32(p.off), uint32(addr), uint32(addr), uint32(size), uint32(size), uint32(p.flags), uint32(p.align))
		}
	}
	out.Write(body.Bytes())
	return out.Bytes()
}
