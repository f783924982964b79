package phpconf

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the real PHP says of extensions that are gone, foreign, of another API,
// and of configuration that it does not like: its own words, to be understood.
func TestRealOutput(t *testing.T) {
	t.Parallel()
	eachPHP(t, []int{-1, 0, 1}, realOutput)
}

func realOutput(t *testing.T, suite string) {
	j, _ := realJail(t, suite)
	dir := "/usr/lib/php/" + j.API + "/"
	write := func(name, text string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(j.Dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(j.Dir, name), []byte(text), 0o644))
	}
	patch := func(from, to string, old, new []byte) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(j.Dir, dir+from))
		require.NoError(t, err)
		require.Contains(t, string(b), string(old))
		write(dir+to, string(bytes.ReplaceAll(b, old, new)))
	}
	api, err := strconv.ParseUint(j.API, 10, 32)
	require.NoError(t, err)
	number := func(n uint64) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
	// The engine's extensions have the number of the engine before that of the API.
	b, err := os.ReadFile(filepath.Join(j.Dir, dir+"opcache.so"))
	require.NoError(t, err)
	for engine := uint64(3); engine < 10; engine++ {
		if n := number(engine*100_000_000 + api); bytes.Contains(b, n) {
			patch("opcache.so", "oldop.so", n, number(20010101))
		}
	}
	etc := "/etc/php/" + j.Series + "/fpm"

	both := func(t *testing.T, text string) (warnings []Warning, modules []string) {
		t.Helper()
		write("/etc/broken/99-broken.ini", text)
		env := []string{"PHP_INI_SCAN_DIR=" + etc + "/conf.d:/etc/broken"}
		out, status := run(t, j, env, "/usr/sbin/php-fpm"+j.Series, "-t")
		warnings = ParseWarnings([]byte(out))
		list, _ := run(t, j, env, "/usr/sbin/php-fpm"+j.Series, "-m")
		modules = ParseModules([]byte(list))
		cli, _ := run(t, j, env, "/usr/bin/php"+j.Series, "-c", etc+"/php.ini", "-m")
		ofCLI := ParseWarnings([]byte(cli))
		require.Len(t, ofCLI, len(warnings), "%s\n%s", out, cli)
		for i := range warnings {
			require.Equal(t, warnings[i], ofCLI[i])
		}
		if strings.Contains(text, "no-start") {
			require.NotZero(t, status)
		} else {
			require.Zero(t, status, "FPM is content, whatever is missing: %s", out)
		}
		// A configuration may silence all that; asked to be loud PHP says it.
		write("/etc/silent.ini", "log_errors=0\nerror_log=/var/log/elsewhere.log\nerror_reporting=0\ndisplay_errors=1\n")
		for _, main := range []string{"/etc/silent.ini", "/etc/none.ini"} {
			out, _ = run(t, j, env, slices.Concat([]string{"/usr/sbin/php-fpm" + j.Series, "-c", main}, Loud(), []string{"-t"})...)
			require.Equal(t, warnings, ParseWarnings([]byte(out)), out)
		}
		return warnings, modules
	}
	for name, test := range map[string]struct {
		text, said string
		fatal      bool
		file       string
		line       int
	}{
		"fine":                      {text: "; nothing\n"},
		"no such extension":         {text: "extension=nope\n", said: "Unable to load dynamic library 'nope'", fatal: true},
		"no extension":              {text: "extension=/etc/passwd\n", said: "/etc/passwd", fatal: true},
		"no such Zend extension":    {text: "zend_extension=nope\n", said: "Failed loading", fatal: true},
		"Zend extension of another": {text: "zend_extension=oldop\n", said: "requires Zend Engine API version", fatal: true},
		"twice":                     {text: "extension=ctype\n", said: "already loaded"},
		"Zend extension twice":      {text: "zend_extension=opcache\n", said: "already loaded"},
		"deprecated":                {text: "error_reporting=E_ALL\nallow_url_include=1\n", said: "deprecated"},
		"a fault of the language":   {text: "\nx=y!z\n", said: "syntax error", file: "/etc/broken/99-broken.ini", line: 2},
		"no longer available":       {text: "magic_quotes_gpc=1 ; no-start\n", said: "no longer available", fatal: true},
	} {
		t.Run(name, func(t *testing.T) {
			warnings, modules := both(t, test.text)
			require.Contains(t, modules, "Core")
			require.Contains(t, modules, "gd")
			if test.said == "" {
				require.Empty(t, warnings)
				return
			}
			require.Len(t, warnings, 1)
			w := warnings[0]
			require.Contains(t, w.Text, test.said)
			require.Equal(t, test.fatal, w.Fatal)
			require.Equal(t, test.file, w.File)
			require.Equal(t, test.line, w.Line)
		})
	}
	t.Run("another API", func(t *testing.T) {
		patch("calendar.so", "calendar.so", number(api), number(20010101))
		warnings, modules := both(t, "")
		require.Len(t, warnings, 1)
		require.True(t, warnings[0].Fatal)
		require.Contains(t, warnings[0].Text, "calendar: Unable to initialize module")
		require.Contains(t, warnings[0].Text, j.API)
		require.NotContains(t, modules, "calendar")
		patch("calendar.so", "calendar.so", number(20010101), number(api))
	})
	t.Run("a library is gone", func(t *testing.T) {
		var gone []string
		for _, pattern := range []string{"usr/lib/*/libgd.so.3", "lib/*/libgd.so.3"} {
			found, err := filepath.Glob(filepath.Join(j.Dir, pattern))
			require.NoError(t, err)
			gone = append(gone, found...)
		}
		require.NotEmpty(t, gone)
		for _, f := range gone {
			if err := os.Remove(f); !os.IsNotExist(err) {
				require.NoError(t, err)
			}
		}
		warnings, modules := both(t, "")
		require.Len(t, warnings, 1)
		require.True(t, warnings[0].Fatal)
		require.NotContains(t, modules, "gd")
		require.Contains(t, warnings[0].Text, "libgd.so.3")
	})
}
