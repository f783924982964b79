package source

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/pkgs"
)

// entry is one (URI, suite) pair of the sources files: sources.list(5).
type entry struct {
	File       string // where it was written, for messages
	Line       int
	URI        *url.URL // ends with a slash
	Suite      string   // ends with a slash in a flat repository, which has no components
	Components []string
	Arches     []string // empty: the machine's own
	NotArches  []string
	SignedBy   []string // paths and fingerprints, or one inline key block; empty: apt's default keyrings
	ByHash     string   // "", "no", "yes", "force"
	NoExpiry   bool     // Check-Valid-Until: no
}

// String names the source in messages, without a password.
func (e entry) String() string {
	return strings.TrimSuffix(e.URI.Redacted(), "/") + " " + e.Suite
}

// open is the URI without user and password: what may be shown and written down.
func (e entry) open() string {
	u := *e.URI
	u.User = nil
	return u.String()
}

func (e entry) flat() bool { return strings.HasSuffix(e.Suite, "/") }

// dist is the URL of the folder that holds InRelease, with a slash.
func (e entry) dist() string {
	if e.flat() {
		return e.URI.String() + escapePath(strings.TrimPrefix(strings.TrimPrefix(e.Suite, "."), "/"))
	}
	return e.URI.String() + "dists/" + escapePath(e.Suite) + "/"
}

// wants tells whether packages of this architecture are asked for.
func (e entry) wants(arch string) bool {
	return (len(e.Arches) == 0 || slices.Contains(e.Arches, arch)) && !slices.Contains(e.NotArches, arch)
}

// maxSourcesFile bounds a sources file, inline keys included.
const maxSourcesFile = 1 << 20

// partName is what apt reads in sources.list.d, by apt.conf(5): other names,
// such as backups, are passed over.
var partName = lazyregexp.New(`^[A-Za-z0-9_.-]+\.(list|sources)$`)

// sourcesFiles lists the host's own sources files, in the order in which apt
// reads them.
func sourcesFiles(root string) ([]string, error) {
	var files []string
	main := filepath.Join(root, "/etc/apt/sources.list")
	if _, err := os.Stat(main); err == nil {
		files = append(files, main)
	}
	dir := filepath.Join(root, "/etc/apt/sources.list.d")
	list, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("cannot read the sources folder: %w", err)
	}
	for _, d := range list { // sorted by name
		if partName.MatchString(d.Name()) && !d.IsDir() {
			files = append(files, filepath.Join(dir, d.Name()))
		}
	}
	return files, nil
}

// readSources reads sources files: *.sources is deb822, all else one-line.
func readSources(files []string, arch string) ([]entry, []Notice, error) {
	var all []entry
	var notices []Notice
	for _, file := range files {
		data, err := readLimited(file, maxSourcesFile)
		if err != nil {
			return nil, nil, fail(ErrSources, file, "%w", err)
		}
		p := sourcesParser{file: file, arch: arch}
		if strings.HasSuffix(file, ".sources") {
			err = p.deb822(data)
		} else {
			err = p.oneLine(data)
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p.entries...)
		notices = append(notices, p.notices...)
	}
	return all, notices, nil
}

type sourcesParser struct {
	file, arch string
	entries    []entry
	notices    []Notice
}

func (p *sourcesParser) fail(line int, format string, args ...any) error {
	return fail(ErrSources, fmt.Sprintf("%s line %d", p.file, line), format, args...)
}

// oneLine reads the one-line style: TYPE [OPTIONS] URI SUITE [COMPONENT…].
func (p *sourcesParser) oneLine(data []byte) error {
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		options := map[string]string{}
		rest := f[1:]
		if len(rest) > 0 && strings.HasPrefix(rest[0], "[") {
			_, after, _ := strings.Cut(line, "[")
			in, out, ok := strings.Cut(after, "]")
			if !ok {
				return p.fail(n, "the options have no closing bracket")
			}
			rest = strings.Fields(out)
			for _, o := range strings.Fields(in) {
				k, v, ok := strings.Cut(o, "=")
				if !ok {
					return p.fail(n, "option %q has no value", o)
				}
				options[strings.ToLower(k)] = strings.ReplaceAll(v, ",", " ")
			}
		}
		switch f[0] {
		case "deb":
		case "deb-src":
			continue
		default:
			return p.fail(n, "the type is %q, not deb or deb-src", f[0])
		}
		if len(rest) > 0 && strings.HasPrefix(rest[0], "cdrom:") { // may hold blanks, in brackets
			p.notices = append(p.notices, Notice{fmt.Sprintf("%s line %d", p.file, n), "passed over: the method cdrom is not supported"})
			continue
		}
		if len(rest) < 2 {
			return p.fail(n, "URI or suite is missing")
		}
		if err := p.add(n, rest[0], rest[1], rest[2:], options); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fail(ErrSources, p.file, "%w", err)
	}
	return nil
}

// deb822 reads the style with one stanza a source.
func (p *sourcesParser) deb822(data []byte) error {
	err := pkgs.ReadParagraphs(bytes.NewReader(data), pkgs.Limits{Comments: true, Line: maxSourcesFile, Paragraph: maxSourcesFile}, func(f pkgs.Paragraph) error {
		line := f.Line()
		if enabled := strings.ToLower(f.Get("Enabled")); enabled == "no" || enabled == "false" || enabled == "0" {
			return nil
		}
		types := strings.Fields(f.Get("Types"))
		if len(types) == 0 {
			return p.fail(line, "the stanza has no Types")
		}
		for _, t := range types {
			if t != "deb" && t != "deb-src" {
				return p.fail(line, "the type is %q, not deb or deb-src", t)
			}
		}
		if !slices.Contains(types, "deb") {
			return nil
		}
		uris, suites := strings.Fields(f.Get("URIs")), strings.Fields(f.Get("Suites"))
		if len(uris) == 0 || len(suites) == 0 {
			return p.fail(line, "the stanza has no URIs or no Suites")
		}
		options := map[string]string{
			"arch": f.Get("Architectures"), "arch+": f.Get("Architectures-Add"), "arch-": f.Get("Architectures-Remove"),
			"signed-by": inlineKey(f.Get("Signed-By")), "trusted": f.Get("Trusted"), "by-hash": f.Get("By-Hash"), "check-valid-until": f.Get("Check-Valid-Until"),
		}
		for _, uri := range uris {
			for _, suite := range suites {
				if err := p.add(line, uri, suite, strings.Fields(f.Get("Components")), options); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if e := (*Error)(nil); err == nil || errors.As(err, &e) {
		return err
	}
	return fail(ErrSources, p.file, "%w", err)
}

// suiteName is what a suite may look like: it becomes a part of a URL.
var suiteName = lazyregexp.New(`^(\./|/|[A-Za-z0-9_~+.-]+(/[A-Za-z0-9_~+.-]+)*/?)$`)

// componentName may hold a slash, as in "updates/main".
var componentName = lazyregexp.New(`^[A-Za-z0-9_~+.-]+(/[A-Za-z0-9_~+.-]+)*$`)

func (p *sourcesParser) add(line int, uri, suite string, components []string, o map[string]string) error {
	uri = strings.ReplaceAll(uri, "$(ARCH)", p.arch)
	suite = strings.ReplaceAll(suite, "$(ARCH)", p.arch)
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" {
		return p.fail(line, "%q is no URI", redact(uri))
	}
	if !suiteName.MatchString(suite) || hasDots(suite) {
		return p.fail(line, "%q is no suite", suite)
	}
	e := entry{File: p.file, Line: line, URI: u, Suite: suite}
	if u.Opaque != "" { // file:/path is a path, file:path is none
		return p.fail(line, "%q is no URI with a host or an absolute path", redact(uri))
	}
	u.RawQuery, u.Fragment = "", ""
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
		u.RawPath = ""
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return p.fail(line, "%q has no host", redact(uri))
		}
	case "file", "copy":
		if u.Host != "" && u.Host != "localhost" {
			return p.fail(line, "%q is a file on another host", redact(uri))
		}
	default:
		p.notices = append(p.notices, Notice{e.String(), "passed over: the method " + u.Scheme + " is not supported"})
		return nil
	}
	if e.flat() != (len(components) == 0) {
		if e.flat() {
			return p.fail(line, "a suite that ends with a slash takes no components")
		}
		return p.fail(line, "no component is named")
	}
	for _, c := range components {
		if !componentName.MatchString(c) || hasDots(c) {
			return p.fail(line, "%q is no component", c)
		}
		if !slices.Contains(e.Components, c) {
			e.Components = append(e.Components, c)
		}
	}
	if e.Arches = strings.Fields(o["arch"]); len(e.Arches) == 0 && o["arch+"] != "" {
		e.Arches = append(strings.Fields(o["arch+"]), p.arch)
	}
	e.NotArches = strings.Fields(o["arch-"])
	e.ByHash = strings.ToLower(o["by-hash"])
	if e.SignedBy, err = splitSignedBy(o["signed-by"]); err != nil {
		return p.fail(line, "%w", err)
	}
	if no := strings.ToLower(o["check-valid-until"]); no == "no" || no == "false" || no == "0" {
		e.NoExpiry = true
	}
	if yes := strings.ToLower(o["trusted"]); yes == "yes" || yes == "true" || yes == "1" {
		p.notices = append(p.notices, Notice{e.String(), "“trusted=yes” is not honoured: the signature is checked"})
	}
	p.entries = append(p.entries, e)
	return nil
}

// hasDots finds a path segment that is . or .., but for the flat suite "./".
func hasDots(s string) bool {
	if s == "./" || s == "/" {
		return false
	}
	return slices.ContainsFunc(strings.Split(s, "/"), func(p string) bool { return p == "." || p == ".." })
}

// redact hides a password in a URI that could not be parsed.
func redact(uri string) string {
	if at := strings.LastIndexByte(uri, '@'); at >= 0 {
		if i := strings.Index(uri, "://"); i >= 0 && i+3 <= at {
			return uri[:i+3] + "…" + uri[at:]
		}
	}
	return uri
}

// inlineKey undoes the folding of a key block in a deb822 field: one blank in
// front of each line, and a dot for an empty line.
func inlineKey(v string) string {
	lines := strings.Split(v, "\n")
	for i, l := range lines {
		if l = strings.TrimSpace(l); l == "." {
			l = ""
		}
		lines[i] = l
	}
	return strings.Join(lines, "\n")
}

// readLimited reads a regular file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return data, nil
}
