package elfdeps

import (
	"debug/elf"
	"fmt"
	"math"
	"strings"
)

// dynRefs is what the dynamic segment points to: addresses, and offsets into
// the string table.
type dynRefs struct {
	needed, aux, filter     []uint64
	soname, rpath, runpath  *uint64
	verneed, verdef, strtab uint64
}

func (p *parser) dynamic(seg segment) error {
	p.obj.dynamic = true
	d, err := p.dynEntries(seg)
	if err != nil {
		return err
	}
	p.strtab = d.strtab
	o := p.obj
	for _, l := range []struct {
		refs []uint64
		to   *[]string
	}{{d.needed, &o.Needed}, {d.aux, &o.auxiliary}, {d.filter, &o.filters}} {
		for _, ref := range l.refs {
			s, err := p.str(ref, maxName)
			if err != nil {
				return err
			}
			*l.to = append(*l.to, s)
		}
	}
	if d.soname != nil {
		if o.SONAME, err = p.str(*d.soname, maxName); err != nil {
			return err
		}
	}
	// DT_RPATH does not count where there is a DT_RUNPATH, even an empty one.
	if d.runpath != nil {
		o.hasRunpath = true
		o.Runpath, err = p.dirs(*d.runpath)
	} else if d.rpath != nil {
		o.Rpath, err = p.dirs(*d.rpath)
	}
	if err != nil {
		return err
	}
	if d.verneed != 0 {
		if err := p.verneed(d.verneed); err != nil {
			return err
		}
	}
	if d.verdef != 0 {
		return p.verdef(d.verdef)
	}
	return nil
}

// eachDyn calls fn for the entries of a dynamic segment, up to its end.
func (p *parser) eachDyn(seg segment, fn func(tag elf.DynTag, val uint64) error) error {
	width := uint64(8)
	if p.wide {
		width = 16
	}
	for i := uint64(0); (i+1)*width <= seg.size; i++ {
		if i == maxDynamic {
			return fmt.Errorf("more than %d dynamic entries", maxDynamic)
		}
		// By address, as ld.so finds it, not by the header's file offset.
		b, err := p.mapped(seg.addr+i*width, int(width))
		if err != nil {
			return err
		}
		tag, val := p.word(b), p.word(b[width/2:])
		if tag == uint64(elf.DT_NULL) {
			return nil
		}
		if tag > math.MaxInt32 { // no tag that this package knows
			continue
		}
		if err := fn(elf.DynTag(tag), val); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) dynEntries(seg segment) (dynRefs, error) {
	var d dynRefs
	err := p.eachDyn(seg, func(tag elf.DynTag, val uint64) error {
		switch tag {
		case elf.DT_NEEDED:
			d.needed = append(d.needed, val)
		case elf.DT_AUXILIARY:
			d.aux = append(d.aux, val)
		case elf.DT_FILTER:
			d.filter = append(d.filter, val)
		case elf.DT_SONAME:
			d.soname = &val
		case elf.DT_RPATH:
			d.rpath = &val
		case elf.DT_RUNPATH:
			d.runpath = &val
		case elf.DT_STRTAB:
			d.strtab = val
		case elf.DT_STRSZ:
			p.strsz = val
		case elf.DT_VERNEED:
			d.verneed = val
		case elf.DT_VERDEF:
			d.verdef = val
		case elf.DT_FLAGS_1:
			p.obj.flags1 = val
		}
		if len(d.needed)+len(d.aux)+len(d.filter) > maxNeeded {
			return fmt.Errorf("needs more than %d libraries", maxNeeded)
		}
		return nil
	})
	return d, err
}

// dirs reads a search path. An empty one is as good as none; an empty
// directory in one is the current directory.
func (p *parser) dirs(ref uint64) ([]string, error) {
	s, err := p.str(ref, maxRpath)
	if err != nil || s == "" {
		return nil, err
	}
	if n := strings.Count(s, ":"); n >= maxDirs {
		return nil, fmt.Errorf("search path of %d directories", n+1)
	}
	return strings.Split(s, ":"), nil
}
