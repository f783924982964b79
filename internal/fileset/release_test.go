package fileset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/lab/byhand"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/pkgs"
	"github.com/jailup/jailup/recipes"
)

// release is what one release of the archive has.
type release struct {
	t     testing.TB
	debs  [][]byte
	files map[string][]manifest.File // by package
	is    map[string]string          // package by digest
	v     map[string]string          // version by package
}

func readRelease(t testing.TB, dir string) *release {
	t.Helper()
	r := &release{t: t, files: map[string][]manifest.File{}, is: map[string]string{}, v: map[string]string{}}
	list, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	require.NoError(t, err)
	require.NotEmpty(t, list)
	for _, f := range list {
		// Not compressed, which is how they are read again and again: dpkg-deb is
		// much faster at it than a test with the race detector.
		control, err := exec.Command("dpkg-deb", "--ctrl-tarfile", f).Output()
		require.NoError(t, err)
		data, err := exec.Command("dpkg-deb", "--fsys-tarfile", f).Output()
		require.NoError(t, err)
		b := byhand.Deb("", control, data)
		r.debs = append(r.debs, b)
		d, err := pkgs.OpenDeb(bytes.NewReader(b), int64(len(b)), pkgs.Limits{})
		require.NoError(t, err)
		name := d.Control().Package
		r.v[name] = d.Control().Version
		require.NoError(t, d.Files(func(e *pkgs.Entry, content io.Reader) error {
			m := manifest.File{Path: Canonical(e.Path), Package: name, Conf: slices.Contains(d.Conffiles(), e.Path)}
			switch e.Type {
			case pkgs.TypeRegular:
				h := sha256.New()
				if _, err := io.Copy(h, content); err != nil {
					return err
				}
				m.SHA256 = hex.EncodeToString(h.Sum(nil))
				r.is[m.SHA256] = name
			case pkgs.TypeSymlink:
				m.Link = e.Link
			default:
				return nil
			}
			r.files[name] = append(r.files[name], m)
			return nil
		}))
	}
	return r
}

// known recognises this release's files, as the digests of a source do.
func (r *release) known(_ string, st *changeset.State) (string, string, bool) {
	name, ok := r.is[st.SHA256]
	return name, r.v[name], ok && st.SHA256 != ""
}

func (r *release) shipped(pkg, version string) []manifest.File {
	if r.v[pkg] != version {
		return nil
	}
	return r.files[pkg]
}

func theRecipe(t testing.TB, name string) *recipes.Recipe {
	t.Helper()
	set, err := recipes.Load("")
	require.NoError(t, err)
	r, ok := set.Find(name)
	require.True(t, ok, name)
	return r
}

// carries pairs the carried prefixes of two series of one recipe.
func carries(old, now *recipes.Recipe) []Carried {
	var out []Carried
	for i := range now.Carry {
		out = append(out, Carried{New: now.Carry[i], Old: old.Carry[i]})
	}
	return out
}

// houseOf takes a jail that somebody made by hand.
func houseOf(t testing.TB, j *lab.Jail, from *release) *house {
	h := &house{t: t, base: filepath.Dir(j.Dir), jail: j.Dir}
	h.in.Known, h.in.Shipped = from.known, from.shipped
	return h
}

// soleLibc requires that every copy of a library of the C library's set is the
// new release's.
func (h *house) soleLibc(r *release) {
	h.t.Helper()
	seen := 0
	require.NoError(h.t, filepath.WalkDir(h.jail, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		base := filepath.Base(p)
		if base != "libc.so.6" && base != "libm.so.6" && !strings.HasPrefix(base, "ld-") && !strings.HasPrefix(base, "libc-") {
			return nil
		}
		b, err := os.ReadFile(p)
		require.NoError(h.t, err)
		sum := sha256.Sum256(b)
		require.Equal(h.t, "libc6", r.is[hex.EncodeToString(sum[:])], "%s is of another release", p)
		seen++
		return nil
	}))
	require.Greater(h.t, seen, 1)
}

// A jail with nginx and PHP-FPM, made by hand, in all the shapes that they have,
// goes to the next release, with its series of PHP, and serves.
func TestNextRelease(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	next := lab.OtherSuite(t, 1)
	names := func(suite string) []string {
		return append(lab.PHPNames(t, suite, []string{"fpm"}, "mysql", "gd"), "nginx")
	}
	debs := lab.Packages(t, lab.PackagesOptions{Names: names("")})
	old := readRelease(t, debs)
	now := readRelease(t, lab.Packages(t, lab.PackagesOptions{Names: names(next), Suite: next, Newest: true}))
	for _, c := range []struct {
		name string
		opts []lab.JailOption
		make func(h *house, api string)
	}{
		{"split", nil, nil},
		{"merged", []lab.JailOption{lab.Merged()}, nil},
		{"a stray libc in /lib", []lab.JailOption{lab.StrayLibc()}, nil},
		{"libraries in both places", nil, func(h *house, _ string) {
			for _, dir := range []string{"x86_64-linux-gnu", "aarch64-linux-gnu"} {
				from := h.path("/lib/" + dir)
				if _, err := os.Stat(from); err == nil {
					require.NoError(h.t, os.MkdirAll(h.path("/usr/lib/"+dir), 0o755))
					out, err := exec.Command("cp", "-an", from+"/.", h.path("/usr/lib/"+dir)).CombinedOutput()
					require.NoError(h.t, err, "%s", out)
				}
			}
		}},
		{"links astray, and a library of another machine", []lab.JailOption{lab.Merged()}, func(h *house, _ string) {
			list, err := filepath.Glob(h.path("/usr/lib/*/libz.so.1"))
			require.NoError(h.t, err)
			require.Len(h.t, list, 1)
			b, err := os.ReadFile(list[0])
			require.NoError(h.t, err)
			h.write("/usr/lib/libz.so.1.0.astray", string(b))
			h.link("/usr/lib/libz.so.1", "libz.so.1.0.astray")
			b[18], b[19] = 3, 0 // Intel 80386
			h.write("/usr/lib64/libz.so.1", string(b))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := lab.PHPJail(t, debs, append(c.opts, lab.InMemory(), lab.Extensions("mysql", "gd"))...)
			j.Start(t)
			before, loaded := j.PHP(t)
			require.True(t, strings.HasPrefix(before, j.Series+"."), before)
			j.Stop(t)
			h := houseOf(t, j, old)
			if c.make != nil {
				c.make(h, j.API)
			}
			h.write("/etc/php/"+j.Series+"/fpm/conf.d/99-shop.ini", "memory_limit = 99M\n")
			series, fpm := lab.PHPSeries(t, next), theRecipe(t, "php-fpm")
			api := apiOf(t, now, series)
			from, to := fpm.At(recipes.Edition{Series: j.Series, API: j.API}), fpm.At(recipes.Edition{Series: series, API: api})
			h.in.Recipe = recipes.Join(theRecipe(t, "nginx"), to)
			h.in.Carry = carries(from, to)
			h.in.KeepListen = func(p string) (string, bool) { return j.FastCGI, strings.HasSuffix(p, "/pool.d/www.conf") }
			require.NoError(t, h.install(now.debs))
			for i, p := range j.Parts {
				if p.Name != "php-fpm" {
					continue
				}
				j.Parts[i].Program = "/usr/sbin/php-fpm" + series
				j.Parts[i].Args = []string{"--daemonize", "--fpm-config", "/etc/php/" + series + "/fpm/php-fpm.conf"}
				j.Parts[i].Log = "/var/log/php" + series + "-fpm.log"
			}
			h.soleLibc(now)
			j.Start(t)
			after, has := j.PHP(t)
			require.True(t, strings.HasPrefix(after, series+"."), after)
			for _, x := range loaded {
				require.Contains(t, has, x)
			}
			require.Equal(t, "memory_limit = 99M\n", h.has("/etc/php/"+series+"/fpm/conf.d/99-shop.ini"))
			require.Equal(t, "none", h.has("/usr/lib/php/"+j.API), "nothing is left of the old extensions")
			require.Equal(t, "none", h.has("/usr/sbin/php-fpm"+j.Series))
			if b := h.path("/usr/lib64/libz.so.1"); c.make != nil && strings.HasPrefix(c.name, "links") {
				data, err := os.ReadFile(b)
				require.NoError(t, err)
				require.EqualValues(t, 3, data[18], "another machine's is nobody's")
				require.Contains(t, h.has("/usr/lib/libz.so.1"), "-> libz.so.1.")
				require.NotContains(t, h.has("/usr/lib/libz.so.1"), "astray")
			}
			j.Stop(t)
			if c.opts != nil || c.make != nil {
				return // one shape will do
			}
			// All that ran was known, so nothing is to be done the next time.
			h.in.Carry, h.in.KeepListen = nil, nil
			require.NoError(t, h.install(now.debs))
			require.Zero(t, h.set.Changed(), "%+v", h.set.Ops)
		})
	}
}

// apiOf is the number of the binary interface of a release's PHP.
func apiOf(t testing.TB, r *release, series string) string {
	t.Helper()
	for _, f := range r.files["php"+series+"-common"] {
		if dir, ok := strings.CutPrefix(filepath.Dir(f.Path), "/usr/lib/php/"); ok && strings.HasSuffix(f.Path, ".so") {
			return dir
		}
	}
	t.Fatal("no extension in php" + series + "-common")
	return ""
}

// Apache with PHP in it, made by hand: its modules and their links go along.
func TestNextReleaseWithinApache(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	next := lab.OtherSuite(t, 1)
	debs := lab.Packages(t, lab.PackagesOptions{Names: lab.PHPNames(t, "", []string{"apache"}, "gd")})
	old := readRelease(t, debs)
	now := readRelease(t, lab.Packages(t, lab.PackagesOptions{Names: lab.PHPNames(t, next, []string{"apache"}, "gd"), Suite: next, Newest: true}))
	j := lab.ModPHPJail(t, debs, lab.InMemory(), lab.Extensions("gd"))
	h := houseOf(t, j, old)
	conf := "/etc/apache2/mods-available/php" + j.Series + ".conf"
	h.write(conf, h.has(conf)+"# mine\n")
	j.Start(t)
	_, loaded := j.PHP(t)
	j.Stop(t)
	series, mod := lab.PHPSeries(t, next), theRecipe(t, "mod-php")
	from, to := mod.At(recipes.Edition{Series: j.Series, API: j.API}), mod.At(recipes.Edition{Series: series, API: apiOf(t, now, series)})
	h.in.Recipe = recipes.Join(theRecipe(t, "apache"), to)
	h.in.Carry = carries(from, to)
	require.NoError(t, h.install(now.debs))
	j.Start(t)
	after, has := j.PHP(t)
	require.True(t, strings.HasPrefix(after, series+"."), after)
	for _, x := range loaded {
		require.Contains(t, has, x)
	}
	require.Contains(t, h.has("/etc/apache2/mods-available/php"+series+".conf"), "# mine")
	require.Contains(t, h.has(conf+".jailup-old"), "# mine")
	for _, p := range []string{conf, "/etc/apache2/mods-enabled/php" + j.Series + ".load", "/etc/apache2/mods-enabled/php" + j.Series + ".conf",
		"/usr/lib/apache2/modules/libphp" + j.Series + ".so", "/usr/lib/php/" + j.API} {
		require.Equal(t, "none", h.has(p), p)
	}
}

// A jail that jailup builds has its extensions switched on, without a maintainer
// script, and so it has in the next series.
func TestWholeJailOfPHP(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	next := lab.OtherSuite(t, 1)
	names := func(suite string) []string { return lab.PHPNames(t, suite, []string{"apache"}, "mysql", "gd") }
	h := newHouse(t)
	h.in.Whole = true
	var r *release
	var was *recipes.Recipe
	var before, api string
	for _, suite := range []string{"", next} {
		r = readRelease(t, lab.Packages(t, lab.PackagesOptions{Names: names(suite), Suite: suite, Newest: true}))
		series := lab.PHPSeries(t, suite)
		oldAPI := api
		api = apiOf(t, r, series)
		mod := theRecipe(t, "mod-php").At(recipes.Edition{Series: series, API: api})
		h.in.Recipe = recipes.Join(theRecipe(t, "apache"), mod)
		if was != nil {
			h.in.Carry = carries(was, mod)
		}
		require.NoError(t, h.install(r.debs))
		h.in.Whole = false
		out, err := exec.Command("chroot", h.jail, "/usr/bin/php"+series, "-m").CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, x := range []string{"mysqli", "pdo_mysql", "gd", "fileinfo", "ctype"} {
			require.Contains(t, "\n"+string(out), "\n"+x+"\n")
		}
		require.NotContains(t, string(out), "Warning")
		dir := "/etc/php/" + series + "/"
		require.Equal(t, "-> "+dir+"mods-available/pdo.ini", h.has(dir+"apache2/conf.d/10-pdo.ini"))
		require.Equal(t, "-> "+dir+"mods-available/gd.ini", h.has(dir+"cli/conf.d/20-gd.ini"))
		require.NotEqual(t, "none", h.has(dir+"apache2/php.ini"))
		require.Equal(t, "-> ../mods-available/mpm_prefork.load", h.has("/etc/apache2/mods-enabled/mpm_prefork.load"))
		require.Equal(t, "none", h.has("/etc/apache2/mods-enabled/mpm_event.load"))
		require.Equal(t, "-> ../mods-available/php"+series+".load", h.has("/etc/apache2/mods-enabled/php"+series+".load"))
		require.NotEqual(t, "none", h.has("/etc/mime.types"))
		if was != nil {
			require.Equal(t, "none", h.has("/etc/php/"+before))
			require.Equal(t, "none", h.has("/usr/lib/php/"+oldAPI))
			require.Equal(t, "none", h.has("/etc/apache2/mods-enabled/php"+before+".load"))
			for _, f := range h.m.Files {
				require.NotContains(t, f.Package, before)
			}
		}
		was, before = mod, series
	}
	h.soleLibc(r)
}
