package pkgs

// Limits bounds what a reader of this package accepts. The zero value of each
// number means its default, so that Limits{} is what callers normally pass; a
// negative number is treated as zero. A stream that goes over a limit is
// refused with an error that names the limit, never cut short silently.
type Limits struct {
	// Output is the most bytes one compressed stream may unpack to, and the
	// most bytes ReadParagraphs reads. Default 1 GiB. A caller that knows the
	// unpacked size (an index listed in a Release file) should pass that.
	Output int64

	// Dictionary is the largest xz dictionary or zstd window, in bytes. It is
	// compared with the stream's header before anything is allocated.
	// Default 64 MiB, which is what xz -9 and dpkg-deb -z9 need.
	Dictionary int64

	// Ratio is the most bytes of output per byte of input, once more than
	// 1 MiB came out. Default: no such limit, for an honest package of empty
	// tables packs 1:7000 as well; Output is what stops a bomb.
	Ratio int64

	// OneStream refuses a second xz stream behind the first. apt reads one.
	OneStream bool

	// Line is the longest line of a control file, in bytes. Default 256 KiB.
	Line int

	// Paragraph is the largest paragraph, in bytes. Default 1 MiB.
	Paragraph int

	// Fields is the most fields of one paragraph. Default 256.
	Fields int

	// Paragraphs is the most paragraphs of one file. Default 1,000,000.
	Paragraphs int

	// Comments admits lines that start with "#", which deb822 source lists
	// have and which indexes and binary control files must not have.
	Comments bool

	// Control is the most bytes that all files of a control.tar hold together.
	// Default 16 MiB.
	Control int64

	// Entries is the most members of one tar, directories that are only implied
	// by the path of a member included. Default 200,000.
	Entries int

	// Name is the longest path or link target of a member, in bytes.
	// Default 1024.
	Name int

	// Names is how many bytes the paths of one tar may have together.
	// Default 16 MiB.
	Names int64

	// Devices admits character and block devices and FIFOs in a data.tar.
	Devices bool
}

// withDefaults returns the limits with every unset number replaced.
func (l Limits) withDefaults() Limits {
	set64 := func(p *int64, n int64) {
		if *p <= 0 {
			*p = n
		}
	}
	set := func(p *int, n int) {
		if *p <= 0 {
			*p = n
		}
	}
	set64(&l.Output, 1<<30)
	set64(&l.Dictionary, 64<<20)
	set(&l.Line, 256<<10)
	set(&l.Paragraph, 1<<20)
	set(&l.Fields, 256)
	set(&l.Paragraphs, 1_000_000)
	set64(&l.Control, 16<<20)
	set(&l.Entries, 200_000)
	set(&l.Name, 1024)
	set64(&l.Names, 16<<20)
	// Offsets inside a paragraph are kept in 32 bits.
	l.Paragraph = min(l.Paragraph, 1<<30)
	l.Line = min(l.Line, l.Paragraph)
	return l
}
