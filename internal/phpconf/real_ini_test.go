package phpconf

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
)

// askConfiguration makes PHP tell the values that its configuration gives to
// names, null for none, and its extensions.
const askConfiguration = `
$names = json_decode(stream_get_contents(STDIN));
$values = [];
foreach ($names as $n) { $v = get_cfg_var($n); $values[$n] = $v === false ? null : $v; }
echo "\n<<<", json_encode(["values" => $values, "loaded" => php_ini_loaded_file(), "scanned" => php_ini_scanned_files()]);`

type realConfiguration struct {
	Values  map[string]any
	Loaded  string
	Scanned string
}

func ask(t *testing.T, j *lab.Jail, main, scan string, names []string) (c realConfiguration) {
	t.Helper()
	argv := []string{"/usr/bin/php" + j.Series, "-c", main, "-r", askConfiguration}
	if main == "/etc/edited.ini" { // Debian's has it already
		argv = slices.Insert(argv, 1, withJSON(t, j.Dir)...)
	}
	cmd := inRoot(j.Dir, argv...)
	cmd.Env = append(cmd.Env, "PHP_INI_SCAN_DIR="+scan, "GREETING=hello")
	in, err := json.Marshal(names)
	require.NoError(t, err)
	cmd.Stdin = strings.NewReader(string(in))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, answer, ok := strings.Cut(string(out), "<<<")
	require.True(t, ok, "%s", out)
	require.NoError(t, json.Unmarshal([]byte(answer), &c), "%s", answer)
	return c
}

// setByCLI are directives that php(1) sets itself, whatever the files say.
var setByCLI = []string{"html_errors", "register_argc_argv", "implicit_flush", "output_buffering", "max_execution_time", "max_input_time", "display_errors"}

// compare reads a configuration and asks PHP for every name in it.
func compare(t *testing.T, j *lab.Jail, root *jail.Root, main, scan string) *Ini {
	t.Helper()
	ini, err := ReadIniEnv(root, main, scan, "/usr/lib/php/"+j.API, map[string]string{"GREETING": "hello"})
	require.NoError(t, err)
	names := ini.Names()
	for _, d := range ini.Scoped {
		names = append(names, d.Name)
	}
	real := ask(t, j, main, scan, names)
	require.Equal(t, main, real.Loaded)
	var scanned []string
	for f := range strings.SplitSeq(real.Scanned, ",") {
		if f = strings.TrimSpace(f); f != "" {
			scanned = append(scanned, f)
		}
	}
	faulty := map[string]bool{}
	for _, w := range ini.Warnings {
		faulty[w.File] = true
	}
	var mine []string
	for _, f := range ini.Files[1:] {
		if !faulty[f] { // PHP does not name it, and takes what comes before the fault
			mine = append(mine, f)
		}
	}
	require.Equal(t, scanned, mine)
	compared := 0
	for name, want := range real.Values {
		d, ok := ini.Get(name)
		switch want := want.(type) {
		case nil:
			require.False(t, ok, "%s: PHP has no such directive", name)
		case string:
			require.True(t, ok, "%s is %q for PHP", name, want)
			if strings.Contains(d.Value, "E_ALL") || slices.Contains(setByCLI, name) {
				continue
			}
			require.Equal(t, want, d.Value, "%s of %s:%d", name, d.File, d.Line)
			compared++
		}
	}
	require.Greater(t, compared, 5)
	return ini
}

func loadedExtensions(t *testing.T, j *lab.Jail, env []string, args ...string) []string {
	t.Helper()
	out, _ := run(t, j, env, append([]string{"/usr/bin/php" + j.Series}, args...)...)
	var names []string
	for _, m := range ParseModules([]byte(out)) {
		m = strings.ToLower(m)
		names = append(names, strings.TrimPrefix(m, "zend "))
	}
	return names
}

func TestRealIni(t *testing.T) {
	t.Parallel()
	eachPHP(t, []int{-1, 0, 1}, realIni)
}

func realIni(t *testing.T, suite string) {
	j, root := realJail(t, suite)
	etc := "/etc/php/" + j.Series
	main, scan := etc+"/fpm/php.ini", etc+"/fpm/conf.d"

	t.Run("as Debian has it", func(t *testing.T) {
		ini := compare(t, j, root, main, scan)
		require.Empty(t, ini.Warnings)
		require.Greater(t, len(ini.Directives), 50)
		bare := loadedExtensions(t, j, nil, "-n", "-m")
		full := loadedExtensions(t, j, []string{"PHP_INI_SCAN_DIR=" + scan}, "-c", main, "-m")
		var more []string
		for _, m := range full {
			if !slices.Contains(bare, m) {
				more = append(more, m)
			}
		}
		var mine []string
		for _, e := range ini.Extensions {
			mine = append(mine, e.Name)
			st, err := root.Stat(e.Path)
			require.NoError(t, err)
			require.True(t, st.IsRegular())
			require.Equal(t, e.Name == "opcache", e.Zend)
			text, err := os.ReadFile(filepath.Join(j.Dir, etc, "mods-available", e.Name+".ini"))
			require.NoError(t, err)
			require.Contains(t, strings.Split(string(text), "\n")[e.Line-1], e.Name)
		}
		require.ElementsMatch(t, more, mine)
		require.Contains(t, mine, "mysqli")
		require.Contains(t, mine, "gd")
	})

	t.Run("the names that FPM tells", func(t *testing.T) {
		fpm, _ := run(t, j, nil, "/usr/sbin/php-fpm"+j.Series, "-i")
		require.Contains(t, fpm, "Scan this dir for additional .ini files => "+scan)
		require.Contains(t, fpm, "Loaded Configuration File => "+main)
		known := ParseInfo([]byte(fpm))
		for _, name := range []string{"memory_limit", "date.timezone", "mysqli.default_port", "gd.jpeg_ignore_warning", "opcache.enable"} {
			require.True(t, known[name], name)
		}
		ini, err := ReadIni(root, main, scan, "/usr/lib/php/"+j.API)
		require.NoError(t, err)
		bare, _ := run(t, j, nil, "/usr/sbin/php-fpm"+j.Series, "-n", "-i")
		gone := Removed(ini, known, ParseInfo([]byte(bare)))
		require.NotEmpty(t, gone) // what php.ini sets for extensions
		for _, d := range gone {
			require.False(t, ParseInfo([]byte(bare))[d.Name])
		}
		require.Empty(t, Removed(ini, known, known))
	})

	t.Run("edited", func(t *testing.T) {
		write := func(name, text string) {
			require.NoError(t, os.WriteFile(filepath.Join(j.Dir, name), []byte(text), 0o644))
		}
		require.NoError(t, os.MkdirAll(filepath.Join(j.Dir, "/etc/alt/more.ini"), 0o755))
		require.NoError(t, os.Symlink("/nowhere", filepath.Join(j.Dir, "/etc/alt/05-gone.ini")))
		require.NoError(t, os.Symlink("/etc/alt/real", filepath.Join(j.Dir, "/etc/alt/50-link.ini")))
		write("/etc/edited.ini", "; edited\nmemory_limit=1M\nMemory_Limit=2M ; another\n[PHP]\nprecision = ${memory_limit}${GREETING}${NOTHING_SO_NAMED}\n"+
			"x.list[]=1\nx.list[k]=2\nerror_log = \"/var/log/${GREETING}.log\" ; c\n#x=3\nlog_errors = On\nignore_repeated_errors=none\nmax_input_vars = 7 | 8\n"+
			"error_reporting = E_WARNING | E_NOTICE\nsession.save_path = 'tcp://h?a=1;b'\n[path=/srv/www]\nmemory_limit=9M\n[PHP]\ninput_nesting_level=3\n")
		write("/etc/alt/10-a.ini", "memory_limit=3M\nuser_agent=\"a\nb\"\nextension = ctype\n")
		write("/etc/alt/20-fault.ini", "max_multipart_body_parts=5\nserialize_precision=6!\nmax_file_uploads=7\n")
		write("/etc/alt/9-last.ini", "memory_limit=4M\n")
		write("/etc/alt/.hidden.ini", "default_charset=x\n")
		write("/etc/alt/not.ini.bak", "default_mimetype=x\n")
		write("/etc/alt/real", "arg_separator.output=\\;\nauto_prepend_file =\n")
		ini := compare(t, j, root, "/etc/edited.ini", "/etc/alt")
		require.Len(t, ini.Warnings, 1)
		require.Equal(t, "/etc/alt/20-fault.ini", ini.Warnings[0].File)
		require.Equal(t, 2, ini.Warnings[0].Line)
		d, ok := ini.Get("memory_limit")
		require.True(t, ok)
		require.Equal(t, Directive{"memory_limit", "4M", "/etc/alt/9-last.ini", 1}, d)
		require.Equal(t, []Extension{{"ctype", "/usr/lib/php/" + j.API + "/ctype.so", false, "/etc/alt/10-a.ini", 4}}, ini.Extensions)
		require.Len(t, ini.Scoped, 2)
		// An environment that nobody knows leaves the variable to be seen.
		ini, err := ReadIni(root, "/etc/edited.ini", "", "")
		require.NoError(t, err)
		d, _ = ini.Get("error_log")
		require.Equal(t, "/var/log/${GREETING}.log", d.Value)
	})
}
