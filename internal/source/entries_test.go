package source

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// show writes entries in one line each.
func show(list []entry) string {
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, "%s %s", e.URI, e.Suite)
		if len(e.Components) > 0 {
			fmt.Fprintf(&b, " %s", strings.Join(e.Components, ","))
		}
		if len(e.Arches)+len(e.NotArches) > 0 {
			fmt.Fprintf(&b, " arch=%s-%s", strings.Join(e.Arches, ","), strings.Join(e.NotArches, ","))
		}
		if len(e.SignedBy) > 0 {
			fmt.Fprintf(&b, " by=%s", strings.ReplaceAll(strings.Join(e.SignedBy, ","), "\n", "/"))
		}
		if e.NoExpiry {
			b.WriteString(" noexpiry")
		}
		if e.ByHash != "" {
			fmt.Fprintf(&b, " byhash=%s", e.ByHash)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestReadSources(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file, text, want, err string
	}{
		{name: "plain", text: "deb http://m.test/debian stable main contrib\n", want: "http://m.test/debian/ stable main,contrib\n"},
		{name: "comments, blanks, sources", text: "# no\n\n  deb\thttp://m.test/d/ s main # yes\ndeb-src http://m.test/d s main\n#deb http://n.test s main", want: "http://m.test/d/ s main\n"},
		{name: "options", text: "deb [ arch=amd64,i386 signed-by=/k.gpg trusted=yes by-hash=no check-valid-until=no lang=de ] https://m.test/d s main\n", want: "https://m.test/d/ s main arch=amd64,i386- by=/k.gpg noexpiry byhash=no\n"},
		{name: "options without blanks", text: "deb [arch-=i386] http://m.test/d s main", want: "http://m.test/d/ s main arch=-i386\n"},
		{name: "flat", text: "deb http://m.test/d ./\ndeb http://m.test/d sub/\ndeb http://m.test/d /\n", want: "http://m.test/d/ ./\nhttp://m.test/d/ sub/\nhttp://m.test/d/ /\n"},
		{name: "architecture in the URI", text: "deb http://m.test/$(ARCH) $(ARCH)/", want: "http://m.test/amd64/ amd64/\n"},
		{name: "suite with a slash", text: "deb http://m.test/d buster/updates main", want: "http://m.test/d/ buster/updates main\n"},
		{name: "a disc", text: "deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - amd64 DVD]/ stable main\ndeb http://m.test/d s main\n", want: "http://m.test/d/ s main\n"},
		{name: "a file without an absolute path", text: "deb file:srv/d s main", err: "no URI"},
		{name: "methods that are passed over", text: "deb tor+http://m.test/d stable main\ndeb file:/srv/d s main\ndeb copy:///srv/d s main\n", want: "file:/srv/d/ s main\ncopy:///srv/d/ s main\n"},
		{name: "unknown type", text: "rpm http://m.test/d s main", err: "line 1: the type"},
		{name: "no suite", text: "\ndeb http://m.test/d", err: "line 2: URI or suite"},
		{name: "no component", text: "deb http://m.test/d stable", err: "no component"},
		{name: "component of a flat one", text: "deb http://m.test/d ./ main", err: "no components"},
		{name: "bracket not closed", text: "deb [arch=amd64 http://m.test/d s main", err: "bracket"},
		{name: "option without a value", text: "deb [amd64] http://m.test/d s main", err: "has no value"},
		{name: "no URI", text: "deb m.test/d s main", err: "is no URI"},
		{name: "no host", text: "deb http:///d s main", err: "no host"},
		{name: "file on another host", text: "deb file://nas/d s main", err: "another host"},
		{name: "suite that climbs", text: "deb http://m.test/d ../../x main", err: "no suite"},
		{name: "suite with an escape", text: "deb http://m.test/d a%2e%2e main", err: "no suite"},
		{name: "component that climbs", text: "deb http://m.test/d s ../main", err: "no component"},
		{name: "signed-by is nothing", text: "deb [signed-by=key] http://m.test/d s main", err: "neither"},
		{name: "a password is not shown", text: "deb http://me:secret@[bad s main", err: "@[bad"},

		{name: "deb822", file: "t.sources", text: "# c\nTypes: deb deb-src\nURIs: http://m.test/d http://n.test/d\nSuites: s s-updates\nComponents: main\nSigned-By: /k.gpg\n", want: `http://m.test/d/ s main by=/k.gpg
http://m.test/d/ s-updates main by=/k.gpg
http://n.test/d/ s main by=/k.gpg
http://n.test/d/ s-updates main by=/k.gpg
`},
		{name: "deb822 folded and commented", file: "t.sources", text: "Types: deb\nURIs:\n http://m.test/d\n# and\n http://n.test/d\nSuites: s\nComponents:\n main\n contrib\n\n", want: "http://m.test/d/ s main,contrib\nhttp://n.test/d/ s main,contrib\n"},
		{name: "deb822 disabled", file: "t.sources", text: "Enabled: no\nTypes: deb\nURIs: http://m.test/d\nSuites: s\nComponents: main\n\nTypes: deb\nURIs: http://n.test/d\nSuites: s\nComponents: main\n", want: "http://n.test/d/ s main\n"},
		{name: "deb822 sources only", file: "t.sources", text: "Types: deb-src\nURIs: http://m.test/d\nSuites: s\nComponents: main\n", want: ""},
		{name: "deb822 architectures", file: "t.sources", text: "Types: deb\nURIs: http://m.test/d\nSuites: s\nComponents: main\nArchitectures: arm64\nArchitectures-Remove: i386\nCheck-Valid-Until: no\nBy-Hash: force\n", want: "http://m.test/d/ s main arch=arm64-i386 noexpiry byhash=force\n"},
		{name: "deb822 with a key in it", file: "t.sources", text: "Types: deb\nURIs: http://m.test/d\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n", want: "http://m.test/d/ s main by=-----BEGIN PGP PUBLIC KEY BLOCK-----//abc/-----END PGP PUBLIC KEY BLOCK-----\n"},
		{name: "deb822 two fingerprints", file: "t.sources", text: "Types: deb\nURIs: http://m.test/d\nSuites: s\nComponents: main\nSigned-By: 0123456789012345678901234567890123456789!,\n AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDD\n", want: "http://m.test/d/ s main by=0123456789012345678901234567890123456789!,AAAAAAAAAABBBBBBBBBBCCCCCCCCCCDDDDDDDDDD\n"},
		{name: "deb822 without types", file: "t.sources", text: "URIs: http://m.test/d\nSuites: s\nComponents: main\n", err: "no Types"},
		{name: "deb822 without suites", file: "t.sources", text: "\n\nTypes: deb\nURIs: http://m.test/d\n", err: "line 3"},
		{name: "deb822 with a field twice", file: "t.sources", text: "Types: deb\nTypes: deb\n", err: "twice"},
		{name: "deb822 that is not", file: "t.sources", text: "deb http://m.test/d s main\n", err: "cannot use"},
		{name: "empty", text: "", want: ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.file == "" {
				tc.file = "t.list"
			}
			path := filepath.Join(t.TempDir(), tc.file)
			require.NoError(t, os.WriteFile(path, []byte(tc.text), 0o644))
			list, notices, err := readSources([]string{path}, "amd64")
			if tc.err != "" {
				require.ErrorIs(t, err, ErrSources)
				require.ErrorContains(t, err, tc.err)
				require.ErrorContains(t, err, tc.file)
				require.NotContains(t, err.Error(), "secret")
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, show(list))
			if strings.Contains(tc.text, "trusted=yes") {
				require.Contains(t, fmt.Sprint(notices), "not honoured")
			}
			if strings.Contains(tc.text, "tor+http") {
				require.Contains(t, fmt.Sprint(notices), "passed over")
			}
		})
	}
}

// fakeRoot is a host's /etc.
func fakeRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	return root
}

func TestHostSources(t *testing.T) {
	t.Parallel()
	root := fakeRoot(t, map[string]string{
		"etc/apt/sources.list":                      "deb http://a.test/d s main\n",
		"etc/apt/sources.list.d/b.list":             "deb http://b.test/d s main\n",
		"etc/apt/sources.list.d/a.sources":          "Types: deb\nURIs: http://c.test/d\nSuites: s\nComponents: main\n",
		"etc/apt/sources.list.d/x.list.save":        "broken",
		"etc/apt/sources.list.d/x.sources.dpkg-new": "broken",
		"etc/apt/sources.list.d/über.list":          "broken",
		"etc/apt/sources.list.d/README":             "broken",
	})
	files, err := sourcesFiles(root)
	require.NoError(t, err)
	list, _, err := readSources(files, "amd64")
	require.NoError(t, err)
	require.Equal(t, "http://a.test/d/ s main\nhttp://c.test/d/ s main\nhttp://b.test/d/ s main\n", show(list))
	files, err = sourcesFiles(t.TempDir())
	require.NoError(t, err)
	require.Empty(t, files)
}

func TestForSuite(t *testing.T) {
	t.Parallel()
	const host = `deb http://m.test/d old main contrib
deb http://m.test/d old-updates main
deb http://s.test/d old-security main
deb http://v.test/d nodistro main
deb http://v.test/flat ./
`
	for _, tc := range []struct{ name, text, suite, codename, want, err string }{
		{name: "moved", text: host, suite: "new", codename: "old", want: "http://m.test/d/ new main,contrib\nhttp://m.test/d/ new-updates main\nhttp://s.test/d/ new-security main\n"},
		{name: "the host's own", text: host, suite: "old", codename: "old", want: "http://m.test/d/ old main,contrib\nhttp://m.test/d/ old-updates main\nhttp://s.test/d/ old-security main\n"},
		{name: "there already", text: host + "deb http://n.test/d new main\n", suite: "new", codename: "old", want: "http://n.test/d/ new main\n"},
		{name: "only a pocket of it is there", text: host + "deb http://n.test/d new-updates main\n", suite: "new", codename: "old", want: "http://m.test/d/ new main,contrib\nhttp://m.test/d/ new-updates main\nhttp://s.test/d/ new-security main\n"},
		{name: "no host release", text: host, suite: "new", codename: "", err: "no suite new"},
		{name: "another host release", text: host, suite: "new", codename: "other", err: "no suite new"},
		{name: "not a suite", text: host, suite: "../x", codename: "old", err: "is no suite"},
		{name: "a path", text: host, suite: "a/b", codename: "old", err: "is no suite"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := sourcesParser{file: "t.list", arch: "amd64"}
			require.NoError(t, p.oneLine([]byte(tc.text)))
			got, err := forSuite(p.entries, tc.suite, tc.codename)
			if tc.err != "" {
				require.ErrorIs(t, err, ErrSources)
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, show(got))
		})
	}
}

func TestHostCodename(t *testing.T) {
	t.Parallel()
	require.Equal(t, "old", hostCodename(fakeRoot(t, map[string]string{"etc/os-release": "ID=x\nVERSION_CODENAME=old\n"})))
	require.Equal(t, "old", hostCodename(fakeRoot(t, map[string]string{"etc/os-release": "VERSION_CODENAME=\"old\"\n"})))
	require.Empty(t, hostCodename(fakeRoot(t, map[string]string{"etc/os-release": "ID=x\n"})))
	require.Empty(t, hostCodename(t.TempDir()))
}

func TestMergeOfComponents(t *testing.T) {
	t.Parallel()
	p := sourcesParser{file: "t.list", arch: "amd64"}
	require.NoError(t, p.oneLine([]byte("deb http://m.test/d s main\ndeb http://m.test/d/ s universe main\ndeb [signed-by=/k] http://m.test/d s extra\n")))
	require.Equal(t, "http://m.test/d/ s main,universe\nhttp://m.test/d/ s extra by=/k\n", show(merge(p.entries)))
}

func FuzzSources(f *testing.F) {
	f.Add("deb [arch=amd64 signed-by=/k] http://m.test/d s main\n", false)
	f.Add("Types: deb\nURIs: http://m.test/d\nSuites: s ./\nComponents: main\n", true)
	f.Fuzz(func(t *testing.T, text string, deb822 bool) {
		p := sourcesParser{file: "f", arch: "amd64"}
		var err error
		if deb822 {
			err = p.deb822([]byte(text))
		} else {
			err = p.oneLine([]byte(text))
		}
		if err != nil {
			require.NotRegexp(t, `[\x00-\x08\x0b-\x1f\x7f]`, err.Error())
			return
		}
		for _, e := range p.entries {
			require.NotContains(t, strings.TrimPrefix(e.dist(), e.URI.String()), "..")
		}
	})
}
