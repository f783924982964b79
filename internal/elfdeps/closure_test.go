package elfdeps

import (
	"context"
	"debug/elf"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// small is a tree with a loader that searches /lib and /usr/lib.
func small() *memFS {
	return newMemFS().file("/lib/ld.so.1", made{soname: "ld.so.1", extra: []byte("\x00/lib/\x00/usr/lib/\x00")}.bytes())
}

func prog(m made) []byte {
	m.interp, m.flags1 = "/lib/ld.so.1", m.flags1|flagPIE
	return m.bytes()
}

func lib(soname string, needed ...string) []byte {
	return made{soname: soname, needed: needed}.bytes()
}

func needs(names ...string) made { return made{needed: names} }

// otherClass is a library of the class that this machine's programs are not.
func otherClass() []byte {
	return made{class: elf.ELFCLASS32, machine: elf.EM_386, soname: "x"}.bytes()
}

func TestClosure(t *testing.T) {
	t.Parallel()
	v1 := []wanted{{"liba.so", "V1", false}, {"liba.so", "V2", false}, {"liba.so", "V3", true}}
	tests := map[string]struct {
		tree    *memFS
		roots   string // default /bin/p
		paths   string // beside the roots and the loader
		missing string
		ignored string
	}{
		"nothing needed": {tree: small().file("/bin/p", prog(made{}))},
		"breadth first, default directories in order": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).
				file("/lib/liba.so", lib("liba.so", "libb.so")).
				file("/lib/libb.so", lib("libb.so")).file("/usr/lib/libb.so", lib("libb.so")),
			paths: "/lib/liba.so /lib/libb.so",
		},
		"chain of links": {
			tree: small().file("/bin/p", prog(needs("liba.so.1"))).
				link("/lib/liba.so.1", "liba.so.1.2").link("/lib/liba.so.1.2", "../opt/./a/liba").
				file("/opt/a/liba", lib("liba.so.1")),
			paths: "/lib/liba.so.1 /lib/liba.so.1.2 /opt/a/liba",
		},
		"merged usr": {
			tree: newMemFS().link("/lib", "usr/lib").link("/lib64", "/usr/lib64").
				file("/usr/lib/ld.so.1", made{soname: "ld.so.1", extra: []byte("\x00/lib/\x00/usr/lib/\x00")}.bytes()).
				file("/bin/p", prog(needs("liba.so"))).
				file("/usr/lib/liba.so", lib("liba.so")),
			paths: "/lib /usr/lib/liba.so -/lib/ld.so.1 /usr/lib/ld.so.1",
		},
		"dots after a link are taken of where it leads": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/x/.."})).
				link("/x", "/opt/deep/in").file("/opt/deep/in/f", nil).
				file("/opt/deep/liba.so", lib("liba.so")).file("/liba.so", lib("liba.so")),
			paths: "/opt/deep/liba.so /x",
		},
		"rpath of the loaders": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/opt"})).
				file("/opt/liba.so", lib("liba.so", "libb.so")).
				file("/opt/libb.so", lib("libb.so")).file("/lib/libb.so", lib("libb.so")),
			paths: "/opt/liba.so /opt/libb.so",
		},
		"runpath is not inherited": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, runpath: strptr("/opt")})).
				file("/opt/liba.so", lib("liba.so", "libb.so")).
				file("/opt/libb.so", lib("libb.so")).file("/lib/libb.so", lib("libb.so")),
			paths: "/opt/liba.so /lib/libb.so",
		},
		"runpath shuts out the rpath of the loaders": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/opt"})).
				file("/opt/liba.so", made{needed: []string{"libb.so"}, runpath: strptr("/no")}.bytes()).
				file("/opt/libb.so", lib("libb.so")),
			paths:   "/opt/liba.so",
			missing: "/opt/liba.so needs libb.so: no file",
		},
		"an empty runpath takes the place of an rpath": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/opt", runpath: strptr("")})).
				file("/opt/liba.so", lib("liba.so")),
			missing: "/bin/p needs liba.so: no file",
		},
		"origin, braces, LIB": {
			tree: small().link("/usr/bin/q", "../../opt/x/bin/p").
				file("/opt/x/bin/p", prog(made{needed: []string{"liba.so", "libb.so", "libc.so"}, runpath: strptr("$ORIGIN/../lib:${ORIGIN}:/m/$LIB:$ORIGINAL")})).
				file("/opt/x/lib/liba.so", lib("")).file("/opt/x/bin/libb.so", lib("")).file("/m/lib/libc.so", lib("")),
			roots: "/usr/bin/q",
			paths: "/opt/x/bin/p /opt/x/lib/liba.so /opt/x/bin/libb.so /m/lib/libc.so",
		},
		"origin of a library is where it was found, not where its link leads": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).link("/lib/liba.so", "/opt/liba.so").
				file("/opt/liba.so", made{needed: []string{"libb.so"}, runpath: strptr("$ORIGIN/sub")}.bytes()).
				file("/opt/sub/libb.so", lib("libb.so")).file("/lib/sub/libb.so", lib("libb.so")),
			paths: "/lib/liba.so /opt/liba.so /lib/sub/libb.so",
		},
		"origin in a set-user-ID program must end in a system directory": {
			tree: small().mode("/bin/p", modeReg|0o4755).
				file("/bin/p", prog(made{needed: []string{"liba.so", "libb.so"}, runpath: strptr("$ORIGIN/../opt:$ORIGIN/../lib/x")})).
				file("/opt/liba.so", lib("")).file("/lib/x/libb.so", lib("")),
			paths:   "/lib/x/libb.so",
			missing: "/bin/p needs liba.so: no file",
		},
		"a name with a slash": {
			tree: small().file("/bin/p", prog(needs("/opt/liba.so", "$ORIGIN/libb.so", "/opt/none.so"))).
				file("/opt/liba.so", lib("")).file("/bin/libb.so", lib("")),
			paths:   "/opt/liba.so /bin/libb.so",
			missing: "/bin/p needs /opt/none.so: no file",
		},
		"a loaded SONAME satisfies": {
			tree: small().file("/bin/p", prog(made{needed: []string{"/opt/strange", "libb.so"}})).
				file("/opt/strange", lib("libb.so")).file("/lib/libb.so", lib("libb.so")),
			paths: "/opt/strange",
		},
		"the loader satisfies its SONAME": {
			tree: small().file("/bin/p", prog(needs("ld.so.1"))),
		},
		"NODEFLIB": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, flags1: flagNoDefLib})).
				file("/lib/liba.so", lib("liba.so")),
			missing: "/bin/p needs liba.so: no file",
		},
		"cyclic needs": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).
				file("/lib/liba.so", lib("liba.so", "libb.so")).file("/lib/libb.so", lib("libb.so", "liba.so", "libb.so")),
			paths: "/lib/liba.so /lib/libb.so",
		},
		"another class is passed over": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).
				file("/lib/liba.so", otherClass()).file("/usr/lib/liba.so", lib("")),
			paths: "/usr/lib/liba.so",
		},
		"another class is all there is": {
			tree:    small().file("/bin/p", prog(needs("liba.so"))).file("/lib/liba.so", otherClass()),
			missing: "/bin/p needs liba.so: wrong class: /lib/liba.so is ELFCLASS32",
		},
		"another class is passed over, damaged too": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).
				file("/lib/liba.so", otherClass()[:60]).file("/usr/lib/liba.so", lib("")),
			paths: "/usr/lib/liba.so",
		},
		"another machine is passed over": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).
				file("/lib/liba.so", made{machine: elf.EM_MIPS}.bytes()).file("/usr/lib/liba.so", lib("")),
			paths: "/usr/lib/liba.so",
		},
		"a file that is no library ends the search": {
			tree: small().file("/bin/p", prog(needs("liba.so", "libb.so", "libc.so", "libd.so"))).
				text("/lib/liba.so", "GROUP ( /lib/libx.so )").file("/usr/lib/liba.so", lib("")).
				file("/lib/libb.so", lib("")[:80]).file("/usr/lib/libb.so", lib("")).
				file("/lib/libc.so", made{typ: elf.ET_EXEC}.bytes()).
				file("/lib/libd.so/x", nil).file("/usr/lib/libd.so", lib("")),
			missing: "/bin/p needs liba.so: /lib/liba.so is not an ELF file\n" +
				"/bin/p needs libb.so: cannot read ELF file /lib/libb.so: cut off: 168 bytes are wanted at 64 and the file has 80\n" +
				"/bin/p needs libc.so: /lib/libc.so is a program, not a library\n" +
				"/bin/p needs libd.so: /lib/libd.so is not a regular file",
		},
		"a library that links to itself": {
			tree:    small().file("/bin/p", prog(needs("liba.so"))).link("/lib/liba.so", "libx.so").link("/lib/libx.so", "liba.so"),
			missing: "/bin/p needs liba.so: cannot open /lib/liba.so: too many levels of symbolic links",
		},
		"a loop in one list does not spoil the next": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/opt:/opt2"})).
				link("/opt/liba.so", "liba.so").file("/opt2/liba.so", lib("")).file("/lib/liba.so", lib("")),
			paths: "/lib/liba.so",
		},
		"a dangling link is no file": {
			tree:  small().file("/bin/p", prog(needs("liba.so"))).link("/lib/liba.so", "gone").file("/usr/lib/liba.so", lib("")),
			paths: "/usr/lib/liba.so",
		},
		"versions": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, wants: v1})).
				file("/lib/liba.so", made{soname: "liba.so", defines: []string{"liba.so", "V1"}}.bytes()),
			paths:   "/lib/liba.so",
			missing: "/bin/p needs liba.so: version V2 not provided by /lib/liba.so",
			ignored: "/bin/p needs liba.so: version V3 not provided by /lib/liba.so",
		},
		"a library without versions has them all": {
			tree:  small().file("/bin/p", prog(made{needed: []string{"liba.so"}, wants: v1})).file("/lib/liba.so", lib("liba.so")),
			paths: "/lib/liba.so",
		},
		"a version of a library that nothing loads": {
			tree:    small().file("/bin/p", prog(made{wants: v1[:1]})),
			missing: "/bin/p needs liba.so: version V1 wanted of a library that nothing loads",
		},
		"hwcaps: every variant, with what it needs, and its versions": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, wants: []wanted{{"liba.so", "V1", false}}})).
				file("/lib/liba.so", made{soname: "liba.so", defines: []string{"liba.so", "V1"}}.bytes()).
				link("/lib/glibc-hwcaps/v3/liba.so", "liba.so.0").
				file("/lib/glibc-hwcaps/v3/liba.so.0", made{soname: "liba.so", needed: []string{"libb.so"}, defines: []string{"liba.so"}}.bytes()).
				file("/lib/glibc-hwcaps/v2/other.so", lib("")).file("/lib/libb.so", lib("libb.so")),
			paths:   "/lib/liba.so /lib/glibc-hwcaps/v3/liba.so /lib/glibc-hwcaps/v3/liba.so.0 /lib/libb.so",
			missing: "/bin/p needs liba.so: version V1 not provided by /lib/glibc-hwcaps/v3/liba.so.0",
		},
		"preload": {
			tree: small().file("/bin/p", prog(made{})).text("/etc/ld.so.preload", "# all of it\n/opt/x.so:liby.so\tnone.so # last\n").
				file("/opt/x.so", lib("", "libz.so")).file("/lib/liby.so", lib("")).file("/lib/libz.so", lib("")),
			paths:   "/opt/x.so /lib/liby.so /lib/libz.so",
			ignored: "/bin/p needs none.so: no file",
		},
		"filters": {
			tree:    small().file("/bin/p", prog(made{aux: []string{"libx.so"}, filter: []string{"liby.so"}})),
			missing: "/bin/p needs liby.so: no file",
			ignored: "/bin/p needs libx.so: no file",
		},
		"ld.so.conf counts with a cache": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).text("/etc/ld.so.cache", "whatever").
				text("/etc/ld.so.conf", "# local\ninclude ld.so.conf.d/*.conf /etc/ld.so.conf\nhwcap 1 x\nrelative/dir\n").
				text("/etc/ld.so.conf.d/b.conf", "/opt/b/\n").text("/etc/ld.so.conf.d/a.conf", "  /opt/a=libc6 # it\n").
				text("/etc/ld.so.conf.d/.c.conf", "/opt/c").
				file("/opt/a/liba.so", lib("liba.so", "libb.so")).file("/opt/b/liba.so", lib("")).
				file("/opt/b/libb.so", lib("libb.so")).file("/lib/liba.so", lib("")),
			paths: "/opt/a/liba.so /opt/b/libb.so",
		},
		"ld.so.conf does not count without a cache": {
			tree: small().file("/bin/p", prog(needs("liba.so"))).text("/etc/ld.so.conf", "/opt/a\n").
				file("/opt/a/liba.so", lib("")),
			missing: "/bin/p needs liba.so: no file",
		},
		"no loader": {
			tree:    small().file("/bin/p", prog(made{})).without("/lib/ld.so.1"),
			paths:   "-/lib/ld.so.1",
			missing: "/bin/p needs /lib/ld.so.1: no file",
		},
		"a loader that may not be executed": {
			tree:    small().file("/bin/p", prog(made{})).mode("/lib/ld.so.1", modeReg|0o644),
			paths:   "-/lib/ld.so.1",
			missing: "/bin/p needs /lib/ld.so.1: /lib/ld.so.1 is not executable",
		},
		"a loader of another class": {
			tree:    small().file("/bin/p", prog(made{})).file("/lib/ld.so.1", otherClass()),
			paths:   "-/lib/ld.so.1",
			missing: "/bin/p needs /lib/ld.so.1: wrong class: /lib/ld.so.1 is ELFCLASS32",
		},
		"a static program": {
			tree:  small().file("/bin/p", made{static: true, typ: elf.ET_EXEC}.bytes()),
			paths: "-/lib/ld.so.1",
		},
		"a module finds what its program finds": {
			tree: small().file("/bin/p", prog(made{rpath: "/opt"})).file("/mod/m.so", lib("", "liba.so")).
				file("/opt/liba.so", lib("")).file("/opt/byname.so", lib("")),
			roots:   "/bin/p /mod/m.so byname.so nothing.so",
			paths:   "/opt/liba.so /opt/byname.so -byname.so -nothing.so",
			missing: "/bin/p needs nothing.so: no file",
		},
		"a module alone": {
			tree:    small().file("/mod/m.so", lib("", "liba.so")),
			roots:   "/mod/m.so",
			paths:   "-/lib/ld.so.1",
			missing: "/mod/m.so needs liba.so: no file",
		},
		"each program is a process of its own": {
			tree: small().file("/bin/p", prog(made{needed: []string{"liba.so"}, rpath: "/opt"})).
				file("/bin/q", prog(needs("liba.so"))).file("/opt/liba.so", lib("")),
			roots:   "/bin/p /bin/q",
			paths:   "/opt/liba.so",
			missing: "/bin/q needs liba.so: no file",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.roots == "" {
				tt.roots = "/bin/p"
			}
			roots := strings.Fields(tt.roots)
			c, err := New(tt.tree).Closure(context.Background(), roots)
			require.NoError(t, err)
			want := append(slices.Clone(roots), "/lib/ld.so.1")
			if tt.roots == "/usr/bin/q" {
				want = append(want, "/opt/x/bin/p")
			}
			for _, p := range strings.Fields(tt.paths) {
				if p, out := strings.CutPrefix(p, "-"); out {
					want = slices.DeleteFunc(want, func(s string) bool { return s == p })
				} else {
					want = append(want, p)
				}
			}
			slices.Sort(want)
			require.Equal(t, slices.Compact(want), c.Paths)
			require.Equal(t, tt.missing, lines(c.Missing))
			require.Equal(t, tt.ignored, lines(c.Ignored))
			for p, o := range c.Objects {
				require.Equal(t, p, o.Path)
				require.Contains(t, c.Paths, p)
			}
			if len(roots) == 1 {
				m, err := New(tt.tree).Check(context.Background(), roots)
				require.NoError(t, err)
				require.Equal(t, tt.missing, lines(m))
			}
		})
	}
}

func lines(l []Missing) string {
	var out []string
	for _, m := range l {
		out = append(out, m.String())
	}
	return strings.Join(out, "\n")
}

func TestClosureChain(t *testing.T) {
	t.Parallel()
	tree := small().file("/bin/p", prog(needs("liba.so"))).
		file("/lib/liba.so", lib("liba.so", "libb.so")).file("/lib/libb.so", lib("libb.so", "libc.so"))
	c, err := New(tree).Closure(context.Background(), []string{"/bin/p"})
	require.NoError(t, err)
	require.Equal(t, []Missing{{By: "/lib/libb.so", Name: "libc.so", Reason: "no file",
		Chain: []string{"/bin/p", "/lib/liba.so", "/lib/libb.so"}}}, c.Missing)
}

func TestClosureRefuses(t *testing.T) {
	t.Parallel()
	tree := small().text("/bin/script", "#!/bin/sh").file("/k.o", made{typ: elf.ET_REL, static: true}.bytes()).
		link("/loop", "loop").file("/bin/p", prog(made{})).file("/other.so", otherClass()).file("/cut", lib("")[:20])
	for roots, want := range map[string]string{
		"/none":                       "cannot open /none: file does not exist",
		"/bin":                        "cannot read /bin: not a regular file",
		"/loop":                       "cannot open /loop: too many levels of symbolic links",
		"/bin/script":                 "cannot read ELF file /bin/script: not an ELF file",
		"/k.o":                        "cannot resolve /k.o: neither a program nor a shared library",
		"/bin/p /other.so":            "cannot load /other.so into /bin/p: another class or machine",
		"libx.so":                     "cannot search for libx.so: no program is named before it",
		"/cut":                        "cannot read ELF file /cut: cut off: 64 bytes are wanted at 0 and the file has 20",
		"/" + long(300):               "file name too long",
		strings.Repeat("/a/..", 1000): "file name too long",
	} {
		_, err := New(tree).Closure(context.Background(), strings.Fields(roots))
		require.ErrorContains(t, err, want, roots)
	}
	_, err := New(tree).Object("/bin/script")
	require.ErrorIs(t, err, ErrNotELF)
	_, err = New(tree).Object("/none")
	require.ErrorIs(t, err, fs.ErrNotExist)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = New(tree).Closure(ctx, []string{"/bin/p"})
	require.ErrorIs(t, err, context.Canceled)
	_, err = New(tree).Check(ctx, []string{"/bin/p"})
	require.ErrorIs(t, err, context.Canceled)
}

func long(n int) string { return strings.Repeat("x", n) }

func TestCheck(t *testing.T) {
	t.Parallel()
	tree := small().
		file("/bin/p", prog(made{needed: []string{"private.so"}, rpath: "/opt"})).
		file("/opt/private.so", lib("private.so", "deep.so")).file("/opt/deep.so", lib("deep.so")).
		file("/opt/plugin.so", lib("plugin.so", "deep.so")). // only dlopen()ed by p does it work
		file("/opt/broken.so", lib("broken.so", "gone.so")). // nowhere
		file("/opt/k.ko", made{typ: elf.ET_REL, static: true}.bytes()).
		file("/opt/cut.so", lib("cut.so")[:200]).
		text("/opt/script", "#!/bin/sh").link("/opt/dangling", "nothing").link("/opt/again", "broken.so")
	paths := []string{"/opt/plugin.so", "/opt/broken.so", "/opt/again", "/opt/k.ko", "/opt/cut.so", "/opt/script", "/opt/dangling", "/opt", "/opt/private.so", "/bin/p"}
	m, err := New(tree).Check(context.Background(), paths)
	require.NoError(t, err)
	require.Equal(t, "/opt/broken.so needs gone.so: no file\n"+
		"/opt/cut.so needs /opt/cut.so: cannot read ELF file /opt/cut.so: cut off: 168 bytes are wanted at 64 and the file has 200", lines(m))
	_, err = New(tree).Check(context.Background(), []string{"/opt/none.so"})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestSearchPath(t *testing.T) {
	t.Parallel()
	tree := small().file("/bin/p", prog(made{rpath: "/opt:rel:$PLATFORM/x:/opt"})).
		file("/opt/a.so", made{rpath: "$ORIGIN/in"}.bytes()).file("/opt/b.so", made{runpath: strptr("/r/$LIB")}.bytes())
	r := New(tree)
	a, err := r.Object("/opt/a.so")
	require.NoError(t, err)
	require.Equal(t, []string{"/opt/in", "/opt", "/rel", "/" + abiOf(&a).platform + "/x", "/lib", "/usr/lib"}, r.SearchPath(a, "/bin/p"))
	b, err := r.Object("/opt/b.so")
	require.NoError(t, err)
	require.Equal(t, []string{"/r/lib", "/lib", "/usr/lib"}, r.SearchPath(b, "/opt/a.so", "/bin/p"))
}

func TestSystemDirs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                                 nil,
		"ab\x00/etc/\x00/var/\x00":         nil,
		"\x00/lib64/\x00/usr/lib64/\x00":   {"/lib64", "/usr/lib64"},
		"\x00/gnu/store/x-glibc/lib/\x00x": {"/gnu/store/x-glibc/lib"},
		"\x00/lib/\x00\x00/lib/t/\x00/usr/lib/t/\x00/lib/\x00/usr/lib/\x00\x00": {"/lib/t", "/usr/lib/t", "/lib", "/usr/lib"},
		"\x00/lib/x": nil,
	} {
		require.Equal(t, want, systemDirs([]byte(in)), "%q", in)
	}
	var seen []string
	for _, m := range []elf.Machine{elf.EM_X86_64, elf.EM_386, elf.EM_AARCH64, elf.EM_ARM, elf.EM_RISCV, elf.EM_PPC64, elf.EM_S390, elf.EM_LOONGARCH, elf.EM_MIPS} {
		d := New(newMemFS()).dialect(&Object{Class: elf.ELFCLASS64, Machine: m})
		require.Equal(t, []string{"/lib", "/usr/lib"}, d.dirs[len(d.dirs)-2:])
		seen = append(seen, d.dirs[0])
	}
	require.Equal(t, "/lib/x86_64-linux-gnu /lib/i386-linux-gnu /lib/aarch64-linux-gnu /lib/arm-linux-gnueabihf /lib/riscv64-linux-gnu "+
		"/lib/powerpc64le-linux-gnu /lib/s390x-linux-gnu /lib/loongarch64-linux-gnu /lib64", strings.Join(seen, " "))
}
