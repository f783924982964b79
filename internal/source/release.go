package source

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/pkgs"
)

// release is what a verified Release file says (the Debian repository format).
type release struct {
	Suite, Codename     string
	Date, ValidUntil    time.Time // ValidUntil may be zero
	Components, Arches  []string
	ByHash              bool
	NotAutomatic        bool
	ButAutomaticUpgrade bool
	NoAllPackages       bool // No-Support-for-Architecture-all: Packages
	files               map[string]releaseFile
}

type releaseFile struct {
	SHA256 string // lower case
	Size   int64
}

// priority is the default of apt_preferences(5) for a package that is not
// installed.
func (r *release) priority() int {
	switch {
	case r.NotAutomatic && r.ButAutomaticUpgrade:
		return 100
	case r.NotAutomatic:
		return 1
	}
	return 500
}

// maxIndexFile bounds the size that a Release file may state for an index.
const maxIndexFile = 1 << 30

// parseRelease reads the text of a Release file. Only the Packages indices
// among its files are kept.
func parseRelease(text []byte) (*release, error) {
	var r *release
	limits := pkgs.Limits{Paragraph: maxInRelease, Line: maxInRelease}
	err := pkgs.ReadParagraphs(bytes.NewReader(text), limits, func(f pkgs.Paragraph) error {
		if r != nil {
			return errors.New("it has more than one stanza")
		}
		var err error
		r, err = releaseOf(f)
		return err
	})
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, errors.New("it is empty")
	}
	return r, nil
}

func releaseOf(f pkgs.Paragraph) (*release, error) {
	r := &release{
		Suite: event.Clean(f.Get("Suite"), 100), Codename: event.Clean(f.Get("Codename"), 100),
		Components: strings.Fields(f.Get("Components")), Arches: strings.Fields(f.Get("Architectures")),
		ByHash: isYes(f.Get("Acquire-By-Hash")), NotAutomatic: isYes(f.Get("NotAutomatic")),
		ButAutomaticUpgrade: isYes(f.Get("ButAutomaticUpgrades")),
		NoAllPackages:       slices.Contains(strings.Fields(f.Get("No-Support-for-Architecture-all")), "Packages"),
		files:               map[string]releaseFile{},
	}
	var err error
	if f.Get("Date") == "" {
		return nil, errors.New("it has no Date")
	}
	if r.Date, err = parseDate(f.Get("Date")); err != nil {
		return nil, err
	}
	if v := f.Get("Valid-Until"); v != "" {
		if r.ValidUntil, err = parseDate(v); err != nil {
			return nil, err
		}
	}
	for line := range strings.Lines(f.Get("SHA256")) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) != 3 || !isSHA256(w[0]) {
			return nil, errors.New("its list of files cannot be read")
		}
		if !strings.Contains(w[2], "Packages") {
			continue
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil || size < 0 || size > maxIndexFile {
			return nil, fmt.Errorf("it states an impossible size (%s)", event.Clean(w[1], 40))
		}
		got := releaseFile{w[0], size}
		if old, twice := r.files[w[2]]; twice && old != got {
			return nil, fmt.Errorf("it names %s twice", event.Clean(w[2], 100))
		}
		r.files[w[2]] = got
	}
	return r, nil
}

func isYes(v string) bool { return strings.EqualFold(v, "yes") }

func isSHA256(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// parseDate reads the dates of Release files: RFC 1123, in UTC.
func parseDate(s string) (time.Time, error) {
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700", "Mon, 02 Jan 2006 15:4:5 MST"} {
		t, err := time.Parse(layout, s)
		if err != nil {
			continue
		}
		if name, offset := t.Zone(); offset != 0 || name != "UTC" && name != "GMT" && name != "" && name != "Z" {
			if _, named := time.Parse(time.RFC1123Z, s); named != nil {
				continue // a zone by name, of which time.Parse does not know the offset
			}
		}
		return t.UTC(), nil
	}
	return time.Time{}, fmt.Errorf("it has a date that cannot be read (%s)", event.Clean(s, 60))
}

// maxFuture is how far a Date may be ahead of this machine's clock.
const maxFuture = time.Hour

// check holds a verified Release file against what the sources line asked for.
func (r *release) check(e entry, now time.Time) error {
	about := e.String()
	if !e.flat() && e.Suite != r.Suite && e.Suite != r.Codename {
		return fail(ErrRelease, about, "the mirror's index is that of another suite (suite %q, codename %q)", r.Suite, r.Codename)
	}
	if r.Date.After(now.Add(maxFuture)) {
		return fail(ErrExpired, about, "the index is from the future (%s); is the clock right?", day(r.Date))
	}
	return r.checkExpiry(e, now)
}

func (r *release) checkExpiry(e entry, now time.Time) error {
	if !e.NoExpiry && !r.ValidUntil.IsZero() && now.After(r.ValidUntil) {
		return fail(ErrExpired, e.String(), "the index of %s was valid until %s", day(r.Date), day(r.ValidUntil))
	}
	return nil
}

// indexFile is one Packages file of a source as the Release file offers it.
type indexFile struct {
	Name   string      // below the folder of InRelease: "main/binary-amd64/Packages.xz"
	File   releaseFile // compressed
	Plain  releaseFile // uncompressed; zero where the Release file does not tell
	Format string      // "zst", "xz", "gz" or ""
}

// packagesFiles picks the Packages files for an architecture, in the smallest
// form that is offered. missing names components that the source does not have.
// A form whose plain text is not signed as well is not taken, as apt does not:
// nobody could say how much may come out of it.
func (r *release) packagesFiles(e entry, arch string) (files []indexFile, missing []string) {
	if e.flat() {
		if f, ok := r.pick("Packages"); ok {
			return []indexFile{f}, nil
		}
		return nil, []string{"Packages"}
	}
	for _, c := range e.Components {
		found := false
		for _, a := range []string{arch, "all"} {
			if a == "all" && (r.NoAllPackages || !slices.Contains(r.Arches, "all")) {
				continue
			}
			if f, ok := r.pick(c + "/binary-" + a + "/Packages"); ok {
				files = append(files, f)
				found = true
			}
		}
		if !found {
			missing = append(missing, c)
		}
	}
	return files, missing
}

func (r *release) pick(plain string) (indexFile, bool) {
	if _, ok := r.files[plain]; !ok {
		return indexFile{}, false
	}
	for _, ext := range []string{"zst", "xz", "gz", ""} {
		name := plain
		if ext != "" {
			name += "." + ext
		}
		if f, ok := r.files[name]; ok {
			return indexFile{Name: name, File: f, Plain: r.files[plain], Format: ext}, true
		}
	}
	return indexFile{}, false
}
