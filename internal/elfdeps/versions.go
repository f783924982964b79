package elfdeps

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// versionNeed is a symbol version that an object wants of a library.
type versionNeed struct {
	lib, version string
	weak         bool // VER_FLG_WEAK: not there is no harm
}

const (
	// maxVersions bounds the records of one table. Version indexes have 15 bits.
	maxVersions = 32768

	flagVersionBase = 1
	flagVersionWeak = 2
)

// verneed reads the table of wanted versions. Records are chained by unsigned
// distances, so a chain only goes forward; the count bounds it all the same.
func (p *parser) verneed(addr uint64) error {
	o := p.obj
	left := maxVersions
	sets := make(map[string]map[string]bool)
	for {
		b, err := p.mapped(addr, 16)
		if err != nil {
			return err
		}
		version, file := p.order.Uint16(b), p.order.Uint32(b[4:])
		aux, next := p.order.Uint32(b[8:]), p.order.Uint32(b[12:])
		if version != 1 {
			return fmt.Errorf("unsupported version %d of a verneed record", version)
		}
		lib, err := p.str(uint64(file), maxName)
		if err != nil {
			return err
		}
		if sets[lib] == nil {
			sets[lib] = make(map[string]bool)
		}
		for at := addr + uint64(aux); ; {
			if left--; left < 0 {
				return errors.New("too many verneed records")
			}
			b, err := p.mapped(at, 16)
			if err != nil {
				return err
			}
			flags, name, next := p.order.Uint16(b[4:]), p.order.Uint32(b[8:]), p.order.Uint32(b[12:])
			v, err := p.str(uint64(name), maxName)
			if err != nil {
				return err
			}
			sets[lib][v] = true
			o.needs = append(o.needs, versionNeed{lib, v, flags&flagVersionWeak != 0})
			if next == 0 {
				break
			}
			at += uint64(next)
		}
		if next == 0 {
			break
		}
		addr += uint64(next)
	}
	o.VersionsNeeded = make(map[string][]string, len(sets))
	for lib, set := range sets {
		o.VersionsNeeded[lib] = slices.Sorted(maps.Keys(set))
	}
	return nil
}

// verdef reads the table of provided versions. Only the first name of a record
// counts; the others are the versions that it inherits.
func (p *parser) verdef(addr uint64) error {
	o := p.obj
	o.defines = make(map[string]bool)
	o.VersionsDefined = []string{}
	for left := maxVersions; ; left-- {
		if left == 0 {
			return errors.New("too many verdef records")
		}
		b, err := p.mapped(addr, 20)
		if err != nil {
			return err
		}
		version, flags := p.order.Uint16(b), p.order.Uint16(b[2:])
		aux, next := p.order.Uint32(b[12:]), p.order.Uint32(b[16:])
		if version != 1 {
			return fmt.Errorf("unsupported version %d of a verdef record", version)
		}
		a, err := p.mapped(addr+uint64(aux), 8)
		if err != nil {
			return err
		}
		name, err := p.str(uint64(p.order.Uint32(a)), maxName)
		if err != nil {
			return err
		}
		o.defines[name] = true
		if flags&flagVersionBase == 0 {
			o.VersionsDefined = append(o.VersionsDefined, name)
		}
		if next == 0 {
			break
		}
		addr += uint64(next)
	}
	slices.Sort(o.VersionsDefined)
	return nil
}

// check compares what the loaded objects want with what was loaded for them,
// and gives all that is missing in this process. A library without versions is
// taken for every version, and a weak wish may stay open, as ld.so has it.
func (s *space) check() []Missing {
	for ; s.tested < len(s.order); s.tested++ {
		n := s.order[s.tested]
		told := make(map[versionNeed]bool)
		for _, want := range n.obj.needs {
			if told[want] {
				continue
			}
			told[want] = true
			lib := s.byName[want.lib]
			switch {
			case s.lost[want.lib], fromKernel(want.lib):
				// Missing altogether for one that needs it, and told as such.
			case lib == nil:
				s.lack(n, want.lib, fmt.Sprintf("version %s wanted of a library that nothing loads", show(want.version)), want.weak)
			default:
				for _, l := range append([]*node{lib}, s.twins[lib]...) {
					if l.obj.defines != nil && !l.obj.defines[want.version] {
						s.lack(n, want.lib, fmt.Sprintf("version %s not provided by %s", show(want.version), show(l.obj.Path)), want.weak)
					}
				}
			}
		}
	}
	return s.missing
}
