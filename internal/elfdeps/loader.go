package elfdeps

import (
	"bytes"
	"debug/elf"
	"path"
	"slices"
	"strings"
)

// dialect is how one build of ld.so was configured: which directories it
// searches by itself, and what $LIB and $PLATFORM stand for in it.
type dialect struct {
	dirs     []string // without a slash at the end
	lib      string   // $LIB
	platform string   // $PLATFORM
}

// maxLoader bounds how much of an interpreter is read in search of its
// directories.
const maxLoader = 4 << 20

// abi says how the ld.so of a machine type is called and configured where it
// cannot be asked.
type abi struct {
	interps  []string
	triplet  string // of Debian's multiarch directories
	lib      string // of the others
	platform string
}

func abiOf(o *Object) abi {
	wide := o.Class == elf.ELFCLASS64
	switch o.Machine {
	case elf.EM_X86_64:
		if !wide {
			return abi{[]string{"/libx32/ld-linux-x32.so.2"}, "x86_64-linux-gnux32", "libx32", "x86_64"}
		}
		return abi{[]string{"/lib64/ld-linux-x86-64.so.2"}, "x86_64-linux-gnu", "lib64", "x86_64"}
	case elf.EM_386:
		return abi{[]string{"/lib/ld-linux.so.2"}, "i386-linux-gnu", "lib", "i686"}
	case elf.EM_AARCH64:
		return abi{[]string{"/lib/ld-linux-aarch64.so.1"}, "aarch64-linux-gnu", "lib64", "aarch64"}
	case elf.EM_ARM:
		return abi{[]string{"/lib/ld-linux-armhf.so.3", "/lib/ld-linux.so.3"}, "arm-linux-gnueabihf", "lib", "v7l"}
	case elf.EM_RISCV:
		return abi{[]string{"/lib/ld-linux-riscv64-lp64d.so.1"}, "riscv64-linux-gnu", "lib64/lp64d", ""}
	case elf.EM_PPC64:
		if o.Data == elf.ELFDATA2MSB {
			return abi{[]string{"/lib64/ld64.so.1"}, "powerpc64-linux-gnu", "lib64", "power8"}
		}
		return abi{[]string{"/lib64/ld64.so.2"}, "powerpc64le-linux-gnu", "lib64", "power8"}
	case elf.EM_S390:
		if wide {
			return abi{[]string{"/lib/ld64.so.1"}, "s390x-linux-gnu", "lib64", "z900"}
		}
		return abi{[]string{"/lib/ld.so.1"}, "s390-linux-gnu", "lib", "g5"}
	case elf.EM_LOONGARCH:
		return abi{[]string{"/lib64/ld-linux-loongarch-lp64d.so.1"}, "loongarch64-linux-gnu", "lib64", ""}
	}
	if wide {
		return abi{lib: "lib64"}
	}
	return abi{lib: "lib"}
}

// dialect tells how the ld.so that loads an object is configured. The names of
// its directories stand in ld.so itself, so they are read there: a tree of
// Debian's and one of Fedora's differ, whatever the host is.
func (r *Resolver) dialect(o *Object) *dialect {
	machine := abiOf(o)
	interps := machine.interps
	if o.Interp != "" {
		interps = []string{o.Interp}
	}
	for _, name := range interps {
		at, err := r.resolve(name)
		if err != nil || !at.regular() {
			continue
		}
		r.mu.Lock()
		d := r.loaders[at.path]
		r.mu.Unlock()
		if d == nil {
			d = r.askLoader(at.path, machine)
			r.mu.Lock()
			r.loaders[at.path] = d
			r.mu.Unlock()
		}
		return d
	}
	return machine.dialect()
}

// dialect is the guess for a tree whose ld.so does not tell: both the
// multiarch directories and the plain ones.
func (a abi) dialect() *dialect {
	d := &dialect{lib: a.lib, platform: a.platform}
	if a.triplet != "" {
		d.lib = "lib/" + a.triplet
		d.dirs = append(d.dirs, "/lib/"+a.triplet, "/usr/lib/"+a.triplet)
	}
	if a.lib != "lib" {
		d.dirs = append(d.dirs, "/"+a.lib, "/usr/"+a.lib)
	}
	d.dirs = append(d.dirs, "/lib", "/usr/lib")
	return d
}

// askLoader finds the list of directories in an ld.so. glibc keeps it as
// strings in a row, each with a slash at both ends.
func (r *Resolver) askLoader(path string, machine abi) *dialect {
	f, err := r.fs.Open(path)
	if err != nil {
		return machine.dialect()
	}
	defer f.Close()
	if f.Size() > maxLoader {
		return machine.dialect()
	}
	b := make([]byte, max(f.Size(), 0))
	n, _ := f.ReadAt(b, 0)
	dirs := systemDirs(b[:n])
	if len(dirs) == 0 {
		return machine.dialect()
	}
	// $LIB is what the first of them is called without its slash: glibc sets
	// both from one variable of its build (slibdir).
	return &dialect{dirs: dirs, lib: strings.TrimPrefix(dirs[0], "/"), platform: machine.platform}
}

// systemDirs finds the longest row of strings that look like directories.
func systemDirs(b []byte) []string {
	var best []string
	for off := 0; ; {
		// A row begins with a slash after a NUL.
		i := bytes.Index(b[off:], []byte("\x00/"))
		if i < 0 {
			return best
		}
		off += i + 1
		var row []string
		for len(row) < 16 {
			s, n := directoryString(b[off:])
			if n == 0 {
				break
			}
			row = append(row, s)
			off += n
		}
		if len(row) > len(best) && slices.ContainsFunc(row, isLibDir) {
			best = row
		}
		// The NUL that ends a row may begin the next one.
		if len(row) > 0 {
			off--
		}
	}
}

func isLibDir(dir string) bool {
	return slices.ContainsFunc(strings.Split(dir, "/"), func(s string) bool { return strings.HasPrefix(s, "lib") })
}

// directoryString takes "/a/b/\x00" off the front of b. n is what it took, 0
// if there is something else.
func directoryString(b []byte) (dir string, n int) {
	const limit = 256
	end := bytes.IndexByte(b[:min(limit, len(b))], 0)
	if end < 4 || b[0] != '/' || b[end-1] != '/' {
		return "", 0
	}
	for _, c := range b[:end] {
		if c <= ' ' || c >= 0x7f {
			return "", 0
		}
	}
	return path.Clean(string(b[:end])), end + 1
}

// hwKey is a directory as seen by one kind of machine.
type hwKey struct {
	dir     string
	machine elf.Machine
}

// variants gives the directories below a physical directory in which ld.so
// looks first on some processors. All of them count, whatever this machine is.
// ld.so of glibc before 2.37 knows the older ones beside glibc-hwcaps.
func (r *Resolver) variants(dir string, machine elf.Machine) []string {
	key := hwKey{dir, machine}
	r.mu.Lock()
	v, ok := r.hwdirs[key]
	r.mu.Unlock()
	if ok {
		return v
	}
	var names []string
	if at, err := r.resolve(join(dir, hwcaps)); err == nil && at.dir() {
		list, err := r.fs.ReadDir(at.path)
		if err == nil && len(list) <= maxVariants {
			slices.Sort(list)
			slices.Reverse(list) // best first: x86-64-v4, v3, v2
			for _, s := range list {
				names = append(names, hwcaps+"/"+s)
			}
		}
	}
	switch machine {
	case elf.EM_X86_64:
		names = append(names, "tls/x86_64", "tls/haswell", "tls", "haswell", "xeon_phi", "avx512_1", "x86_64")
	case elf.EM_386:
		names = append(names, "tls/i686", "tls", "i686/sse2", "i686/cmov", "i686", "sse2")
	default:
		names = append(names, "tls")
	}
	for _, s := range names {
		if at, err := r.resolve(join(dir, s)); err == nil && at.dir() {
			v = append(v, s)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.hwdirs) < maxEntries {
		r.hwdirs[key] = v
	}
	return v
}

const (
	hwcaps      = "glibc-hwcaps"
	maxVariants = 64
)
