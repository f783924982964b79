package abi

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// unpacked is the tree of packages of a suite, "" for the host's own, and of what
// they need.
func unpacked(t *testing.T, suite string, newest bool, names ...string) string {
	t.Helper()
	return lab.Unpacked(t, lab.Packages(t, lab.PackagesOptions{Names: names, Suite: suite, Newest: newest}))
}

// others are the suites around the host's own that there are.
func others(t *testing.T) []string {
	t.Helper()
	return []string{lab.OtherSuite(t, -1), lab.OtherSuite(t, 1)}
}

// run starts a program of a tree with the tree's own loader and libraries, so that
// neither root nor a jail is needed. It gives the output and whether all was well.
func run(t *testing.T, tree, prog string, args ...string) (string, bool) {
	t.Helper()
	f, err := elf.Open(filepath.Join(tree, prog))
	require.NoError(t, err)
	interp, err := f.Section(".interp").Data()
	require.NoError(t, err)
	f.Close()
	loader := filepath.Join(tree, strings.TrimRight(string(interp), "\x00"))
	var dirs []string
	for _, pattern := range []string{"lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib", "usr/lib"} {
		found, err := filepath.Glob(filepath.Join(tree, pattern))
		require.NoError(t, err)
		dirs = append(dirs, found...)
	}
	cmd := exec.Command(loader, append([]string{"--library-path", strings.Join(dirs, ":"), filepath.Join(tree, prog)}, args...)...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil {
		require.ErrorAs(t, err, &exit, "%s", out)
	}
	return string(out), err == nil
}

func glob(t *testing.T, tree, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(tree, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, found, pattern)
	return found
}

// patched is a copy of a file with the only occurrence of old replaced.
func patched(t *testing.T, file string, old, replacement []byte) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(b, old), "%q in %s", old, file)
	require.Len(t, replacement, len(old))
	out := filepath.Join(t.TempDir(), filepath.Base(file))
	require.NoError(t, os.WriteFile(out, bytes.Replace(b, old, replacement, 1), 0o755))
	return out
}

// cutOff is the first half of a file. A program that loads it is killed by SIGBUS and
// says nothing.
func cutOff(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), filepath.Base(file))
	require.NoError(t, os.WriteFile(out, b[:len(b)/2], 0o755))
	return out
}

func TestRealNginx(t *testing.T) {
	t.Parallel()
	echo, mail := "libnginx-mod-http-echo", "libnginx-mod-mail"
	const exe, modules, module = "usr/sbin/nginx", "usr/lib/nginx/modules/*.so", "usr/lib/nginx/modules/ngx_http_echo_module.so"
	for _, newest := range []bool{false, true} {
		tree := unpacked(t, "", newest, "nginx", echo, mail)
		got, err := CheckNginx(host{}, filepath.Join(tree, exe), mods(glob(t, tree, modules)...))
		require.NoError(t, err)
		require.Empty(t, told(got))
	}
	tree := unpacked(t, "", true, "nginx", echo, mail)
	good := filepath.Join(tree, module)
	signature, err := Nginx(mustOpen(t, good))
	require.NoError(t, err)
	version, err := NginxVersion(mustOpen(t, good))
	require.NoError(t, err)
	word := func(v int) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(v)) }
	flipped := signature[:len(signature)-1] + string('0'+'1'-signature[len(signature)-1])

	type sabotage struct{ path, ours, theirs string }
	tests := map[string]sabotage{
		"good":      {good, "", "is successful"},
		"signature": {patched(t, good, []byte(signature), []byte(flipped)), "is not binary compatible: its signature is " + flipped + " instead of " + signature, "is not binary compatible"},
		"version":   {patched(t, good, word(version), word(version-1)), "is built for nginx", "instead of"},
		"list":      {patched(t, good, []byte("\x00ngx_modules\x00"), []byte("\x00ngx_mudoles\x00")), "has no symbol ngx_modules", "undefined symbol"},
		"cut":       {cutOff(t, good), "cannot be read: ", ""},
		"gone":      {filepath.Join(t.TempDir(), "gone.so"), "is not there", "No such file"},
	}
	for _, suite := range others(t) {
		dir := unpacked(t, suite, true, echo)
		tests["of "+suite] = sabotage{filepath.Join(dir, module), "is built for nginx", "nginx"}
	}
	for name, tt := range tests {
		got, err := CheckNginx(host{}, filepath.Join(tree, exe), mods(tt.path))
		require.NoError(t, err, name)
		dir := t.TempDir()
		conf := filepath.Join(dir, "nginx.conf")
		require.NoError(t, os.WriteFile(conf, []byte("load_module "+tt.path+";\nerror_log stderr;\npid "+dir+"/pid;\nevents {}\n"), 0o644))
		out, fits := run(t, tree, exe, "-t", "-p", dir, "-e", "stderr", "-c", conf)
		require.Equal(t, fits, len(got) == 0, "%s: nginx says: %s, jailup says: %s", name, out, told(got))
		require.Contains(t, out, tt.theirs, name)
		if !fits {
			require.Contains(t, got[0].Reason, tt.ours, name)
			t.Logf("%s: %s", name, got[0].Reason)
		}
	}
	// An nginx without exported symbols: only the signature is compared.
	mute := patched(t, filepath.Join(tree, exe), []byte("\x00ngx_core_module\x00"), []byte("\x00ngx_cure_modole\x00"))
	got, err := CheckNginx(host{}, mute, mods(good, tests["version"].path, tests["signature"].path))
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.Equal(t, signature, got[0].Needs)
}

func mustOpen(t *testing.T, path string) hostFile {
	t.Helper()
	f, err := host{}.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f.(hostFile)
}

var loadModule = regexp.MustCompile(`(?m)^\s*LoadModule\s+(\S+)\s+(\S+)`)

func TestRealApache(t *testing.T) {
	t.Parallel()
	const exe = "usr/sbin/apache2"
	series := lab.PHPSeries(t, "")
	tree := unpacked(t, "", true, lab.PHPNames(t, "", []string{"apache"})...)
	var all []Module
	for _, file := range glob(t, tree, "etc/apache2/mods-available/*.load") {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, m := range loadModule.FindAllStringSubmatch(string(b), -1) {
			all = append(all, Module{Name: m[1], Path: filepath.Join(tree, m[2]), File: file})
		}
	}
	require.Greater(t, len(all), 50)
	if !slices.ContainsFunc(all, func(m Module) bool { return strings.Contains(m.Path, "libphp") }) {
		all = append(all, Module{Name: "php_module", Path: glob(t, tree, "usr/lib/apache2/modules/libphp"+series+".so")[0]})
	}
	got, err := CheckApache(host{}, filepath.Join(tree, exe), all)
	require.NoError(t, err)
	require.Empty(t, told(got))
	server, err := ApacheServer(mustOpen(t, filepath.Join(tree, exe)))
	require.NoError(t, err)

	path := func(name string) string { return filepath.Join(tree, "usr/lib/apache2/modules", name) }
	rewrite := path("mod_rewrite.so")
	change := func(at int, v uint32) string { return inModule(t, rewrite, "rewrite_module", at, v) }
	php := all[slices.IndexFunc(all, func(m Module) bool { return strings.Contains(m.Path, "libphp") })]
	for name, tt := range map[string]struct {
		Module
		mpm, ours, theirs string
		loads             bool
	}{
		"good":   {Module{Name: "rewrite_module", Path: rewrite}, "event", "", "Syntax OK", true},
		"php":    {php, "prefork", "", "Syntax OK", true},
		"symbol": {Module{Name: "rewrote_module", Path: rewrite}, "event", "has no symbol rewrote_module", "Can't locate API module structure", false},
		"major":  {Module{Name: "rewrite_module", Path: change(0, uint32(server.Major)+1)}, "event", "is not compatible with this Apache: its magic number is", "not compatible with this version of Apache", false},
		"newer":  {Module{Name: "rewrite_module", Path: change(4, uint32(server.Minor)+1)}, "event", "is built for a newer Apache", "Syntax OK", true},
		"older":  {Module{Name: "rewrite_module", Path: change(4, uint32(server.Minor)-1)}, "event", "", "Syntax OK", true},
		"cookie": {Module{Name: "rewrite_module", Path: change(40, apacheCookie-2)}, "event", "is no module of Apache 2.4", "garbled", false},
		"cut":    {Module{Name: "rewrite_module", Path: cutOff(t, rewrite)}, "event", "cannot be read: ", "", false},
		"gone":   {Module{Name: "rewrite_module", Path: rewrite + ".gone"}, "event", "is not there", "No such file", false},
	} {
		got, err := CheckApache(host{}, filepath.Join(tree, exe), []Module{tt.Module})
		require.NoError(t, err, name)
		dir := t.TempDir()
		conf := filepath.Join(dir, "apache2.conf")
		text := "ServerName localhost\nServerRoot " + dir + "\nErrorLog /dev/stderr\nListen 127.0.0.1:9\n" +
			"LoadModule mpm_" + tt.mpm + "_module " + path("mod_mpm_"+tt.mpm+".so") + "\nLoadModule authz_core_module " + path("mod_authz_core.so") + "\n" +
			"LoadModule " + tt.Name + " " + tt.Path + "\n"
		require.NoError(t, os.WriteFile(conf, []byte(text), 0o644))
		out, ok := run(t, tree, exe, "-t", "-d", dir, "-f", conf)
		require.Equal(t, tt.loads, ok, "%s: %s", name, out)
		require.Equal(t, ok, len(got) == 0 || got[0].Loads, "%s: apache says: %s, jailup says: %s", name, out, told(got))
		require.Contains(t, out, tt.theirs, name)
		if tt.ours == "" {
			require.Empty(t, told(got), name)
		} else {
			require.Contains(t, told(got), tt.ours, name)
			t.Log(name, told(got))
		}
	}
	// What Apache's own module of the release before says of the new server.
	for _, suite := range others(t) {
		other := unpacked(t, suite, true, "apache2-bin")
		theirs, err := ApacheServer(mustOpen(t, filepath.Join(other, exe)))
		require.NoError(t, err)
		got, err := CheckApache(host{}, filepath.Join(tree, exe), []Module{{Name: "rewrite_module", Path: filepath.Join(other, "usr/lib/apache2/modules/mod_rewrite.so")}})
		require.NoError(t, err)
		t.Logf("%s has %v, this suite %v: %q", suite, theirs, server, told(got))
		require.Equal(t, theirs.Major != server.Major || theirs.Minor > server.Minor, len(got) == 1)
	}
}

// inModule is a copy of a file with an int of a module_struct changed.
func inModule(t *testing.T, file, symbol string, at int, v uint32) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	f, err := elf.NewFile(bytes.NewReader(b))
	require.NoError(t, err)
	syms, err := f.DynamicSymbols()
	require.NoError(t, err)
	i := slices.IndexFunc(syms, func(s elf.Symbol) bool { return s.Name == symbol })
	require.GreaterOrEqual(t, i, 0)
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && syms[i].Value >= p.Vaddr && syms[i].Value < p.Vaddr+p.Filesz {
			f.ByteOrder.PutUint32(b[syms[i].Value-p.Vaddr+p.Off+uint64(at):], v)
			out := filepath.Join(t.TempDir(), filepath.Base(file))
			require.NoError(t, os.WriteFile(out, b, 0o755))
			return out
		}
	}
	t.Fatal("the symbol lies in no segment")
	return ""
}

func TestRealPHP(t *testing.T) {
	t.Parallel()
	series := lab.PHPSeries(t, "")
	var modules []string
	for _, m := range []string{"mysql", "gd", "imap", "memcached", "memcache", "opcache", "xdebug", "apcu"} {
		if lab.HasPHPModule(t, "", m) {
			modules = append(modules, m)
		}
	}
	require.GreaterOrEqual(t, len(modules), 4)
	tree := unpacked(t, "", true, lab.PHPNames(t, "", []string{"fpm", "apache"}, modules...)...)
	all := mods(glob(t, tree, "usr/lib/php/20*/*.so")...)
	require.Greater(t, len(all), 20)
	for _, exe := range []string{"usr/sbin/php-fpm" + series, "usr/bin/php" + series, "usr/lib/apache2/modules/libphp" + series + ".so"} {
		got, err := CheckPHP(host{}, filepath.Join(tree, exe), all)
		require.NoError(t, err)
		require.Empty(t, told(got), exe)
	}

	exe := "usr/bin/php" + series
	find := func(tree, name string) string { return glob(t, tree, "usr/lib/php/20*/"+name+".so")[0] }
	ctype, opcache := find(tree, "ctype"), ""
	if slices.Contains(modules, "opcache") {
		opcache = find(tree, "opcache")
	}
	id, err := PHP(mustOpen(t, filepath.Join(tree, exe)))
	require.NoError(t, err)
	type sabotage struct{ key, path, ours, theirs string }
	tests := map[string]sabotage{
		"good":     {"extension", ctype, "", ""},
		"build id": {"extension", patched(t, ctype, []byte(id+"\x00"), []byte(id[:len(id)-3]+"TS\x00\x00")), "is built for PHP " + id[:len(id)-3] + "TS instead of " + id, "build ID"},
		"none":     {"extension", filepath.Join(tree, "usr/lib/apache2/modules/mod_rewrite.so"), "is no PHP extension", "Unable to load"},
		"library":  {"extension", patched(t, ctype, []byte("\x00get_module\x00"), []byte("\x00got_module\x00")), "is no PHP extension", "Invalid library"},
		"cut":      {"extension", cutOff(t, ctype), "cannot be read: ", ""},
		"gone":     {"extension", ctype + ".gone", "is not there", "Unable to load"},
	}
	if opcache != "" {
		// The other text, of the API of extensions, is there too, but not this PHP's.
		zend := []byte(strings.Replace(id, "API", "API4", 1) + "\x00")
		wrong := bytes.Replace(zend, []byte("NTS\x00"), []byte("TS\x00\x00"), 1)
		tests["zend good"] = sabotage{"zend_extension", opcache, "", ""}
		tests["zend"] = sabotage{"zend_extension", patched(t, opcache, zend, wrong), "holds more than one build ID", "built with configuration"}
	}
	for _, suite := range others(t) {
		name := "php" + lab.PHPSeries(t, suite) + "-common"
		tests["of "+suite] = sabotage{"extension", find(unpacked(t, suite, true, name), "ctype"), "is built for PHP API", "Module compiled with module API="}
	}
	for name, tt := range tests {
		got, err := CheckPHP(host{}, filepath.Join(tree, exe), mods(tt.path))
		require.NoError(t, err, name)
		out, _ := run(t, tree, exe, "-n", "-d", tt.key+"="+tt.path, "-r", `echo "ran\n";`)
		require.Equal(t, out == "ran\n", len(got) == 0, "%s: php says: %s, jailup says: %s", name, out, told(got))
		require.Contains(t, out, tt.theirs, name)
		if len(got) > 0 {
			require.Contains(t, got[0].Reason, tt.ours, name)
			require.Equal(t, id, got[0].Needs)
			require.Equal(t, "phpapi-"+strings.TrimSuffix(strings.TrimPrefix(id, "API"), ",NTS"), got[0].Virtual)
			t.Log(name, got[0].Reason)
		}
	}
}
