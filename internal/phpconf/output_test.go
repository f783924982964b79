package phpconf

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseWarnings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want []Warning
	}{
		"nothing": {"PHP 8.2.1 (cli)\n[PHP Modules]\nCore\nWarnings\n[23-Nov-2026 16:57:04] NOTICE: configuration file /etc/php/8.2/fpm/php-fpm.conf test is successful\n", nil},
		"a library is missing": {
			"PHP Warning:  PHP Startup: Unable to load dynamic library 'gd' (tried: /e/gd (/e/gd: cannot open shared object file: No such file or directory), /e/gd.so (libgd.so.3: cannot open shared object file: No such file or directory)) in Unknown on line 0\n" +
				"\nWarning: PHP Startup: Unable to load dynamic library 'gd' (tried: /e/gd (/e/gd: cannot open shared object file: No such file or directory), /e/gd.so (libgd.so.3: cannot open shared object file: No such file or directory)) in Unknown on line 0\n",
			[]Warning{{Level: "Warning", Fatal: true, Text: "PHP Startup: Unable to load dynamic library 'gd' (tried: /e/gd (/e/gd: cannot open shared object file: No such file or directory), /e/gd.so (libgd.so.3: cannot open shared object file: No such file or directory))"}},
		},
		"by FPM": {
			"[23-Nov-2026 16:57:04] NOTICE: PHP message: PHP Warning:  PHP Startup: Invalid library (maybe not a PHP library) '/x.so' in Unknown on line 0\r\n",
			[]Warning{{Level: "Warning", Fatal: true, Text: "PHP Startup: Invalid library (maybe not a PHP library) '/x.so'"}},
		},
		"several lines": {
			"PHP Warning:  PHP Startup: gd: Unable to initialize module\nModule compiled with module API=20190902\nPHP    compiled with module API=20220829\nThese options need to match\n in Unknown on line 0\nPHP Deprecated:  Directive 'x' is deprecated in Unknown on line 0\n",
			[]Warning{{Level: "Warning", Fatal: true, Text: "PHP Startup: gd: Unable to initialize module Module compiled with module API=20190902 PHP compiled with module API=20220829 These options need to match"},
				{Level: "Deprecated", Text: "Directive 'x' is deprecated"}},
		},
		"HTML": {
			"<br />\n<b>Warning</b>:  PHP Startup: ctype: Unable to initialize module\nModule compiled with module API=1\n in <b>Unknown</b> on line <b>0</b><br />\n<br />\n<b>Warning</b>:  Module &quot;ctype&quot; is already loaded in <b>Unknown</b> on line <b>0</b><br />\n",
			[]Warning{{Level: "Warning", Fatal: true, Text: "PHP Startup: ctype: Unable to initialize module Module compiled with module API=1"}, {Level: "Warning", Text: `Module "ctype" is already loaded`}},
		},
		"no end": {
			"PHP Warning:  half a message\n[PHP Modules]\nCore\nctype\ndate\ngd\nhash\njson\npcre\nzlib\nPHP Notice:  x in /a b.php on line 12\n",
			[]Warning{{Level: "Warning", Text: "half a message"}, {Level: "Notice", Text: "x", File: "/a b.php", Line: 12}},
		},
		"syntax":        {"PHP:  syntax error, unexpected '!' in /etc/php/8.2/cli/conf.d/90-x.ini on line 6\n", []Warning{{Text: "syntax error, unexpected '!'", File: "/etc/php/8.2/cli/conf.d/90-x.ini", Line: 6}}},
		"gone":          {"PHP Fatal error:  Directive 'x' is no longer available in PHP in Unknown on line 0\n", []Warning{{Level: "Fatal error", Fatal: true, Text: "Directive 'x' is no longer available in PHP"}}},
		"PHP's own log": {"[23-Nov-2026 17:00:00 Europe/Berlin] PHP Warning:  x in /a.php on line 3\n", []Warning{{Level: "Warning", Text: "x", File: "/a.php", Line: 3}}},
		"Zend": {
			"Zend OPcache requires Zend Engine API version 320190902.\nThe Zend Engine API version 420220829 which is installed, is newer.\nContact Zend Technologies at http://www.zend.com/ for a later version of Zend OPcache.\n\n" +
				"Cannot load Zend OPcache - it was built with configuration A, whereas running engine is B\nFailed loading /x.so:  /x.so: cannot open shared object file: No such file or directory\nCannot load Zend OPcache - it was already loaded\n",
			[]Warning{
				{Fatal: true, Text: "Zend OPcache requires Zend Engine API version 320190902. The Zend Engine API version 420220829 which is installed, is newer. Contact Zend Technologies at http://www.zend.com/ for a later version of Zend OPcache."},
				{Fatal: true, Text: "Cannot load Zend OPcache - it was built with configuration A, whereas running engine is B"},
				{Fatal: true, Text: "Failed loading /x.so: /x.so: cannot open shared object file: No such file or directory"},
				{Text: "Cannot load Zend OPcache - it was already loaded"},
			},
		},
		"the loader": {
			"/usr/sbin/php-fpm8.4: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /usr/sbin/php-fpm8.4)\n/usr/bin/php: error while loading shared libraries: libx.so: cannot open shared object file: No such file or directory\n",
			[]Warning{{Fatal: true, Text: "/usr/sbin/php-fpm8.4: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /usr/sbin/php-fpm8.4)"},
				{Fatal: true, Text: "/usr/bin/php: error while loading shared libraries: libx.so: cannot open shared object file: No such file or directory"}},
		},
		"FPM's own": {
			"[23-Nov-2026 16:57:04] ERROR: [/etc/f.conf:12] unknown entry 'x'\n[23-Nov-2026 16:57:04.123456] WARNING: pid 12, fpm_conf_ini_parser_include(), line 9: Nothing matches the include pattern '/x' from /etc/f.conf at line 8.\n[23-Nov-2026 16:57:04] ALERT: [pool www] user has not been defined\n[23-Nov-2026 16:57:04] NOTICE: fpm is running, pid 3\n",
			[]Warning{{Level: "ERROR", Fatal: true, Text: "unknown entry 'x'", File: "/etc/f.conf", Line: 12}, {Level: "WARNING", Text: "Nothing matches the include pattern '/x'", File: "/etc/f.conf", Line: 8}, {Level: "ALERT", Fatal: true, Text: "[pool www] user has not been defined"}},
		},
	} {
		require.Equal(t, test.want, ParseWarnings([]byte(test.text)), name)
	}
	many := ParseWarnings([]byte(strings.Repeat("PHP Warning:  "+strings.Repeat("x", 5000)+"\n", 3)))
	require.Len(t, many, 1)
	require.Len(t, many[0].Text, maxText)
	var b strings.Builder
	for i := range 1000 {
		b.WriteString("PHP Warning:  " + strings.Repeat("y", i+1) + " in Unknown on line 0\n")
	}
	require.Len(t, ParseWarnings([]byte(b.String())), maxWarnings)
}

func TestParseInfoAndModules(t *testing.T) {
	t.Parallel()
	info := "phpinfo()\nPHP Version => 8.2\n\nCore\n\nDirective => Local Value => Master Value\nallow_url_fopen => On => On\nerror_log => a => b => c => d\nodd name => x => y\nmulti => line\n\nVariable => Value\nHOME => a => b\n\ngd\r\n\r\nDirective => Local Value => Master Value\r\ngd.x-y => no value => no value\r\n"
	require.Equal(t, map[string]bool{"allow_url_fopen": true, "error_log": true, "gd.x-y": true}, ParseInfo([]byte(info)))
	require.Empty(t, ParseInfo(nil))
	modules := "PHP Warning:  x in Unknown on line 0\n[PHP Modules]\nCore\nctype\nZend OPcache\n\n[Zend Modules]\nZend OPcache\n\n"
	require.Equal(t, []string{"Core", "ctype", "Zend OPcache"}, ParseModules([]byte(modules)))
	require.Empty(t, ParseModules([]byte("Core\nctype\n")))
}

func FuzzOutput(f *testing.F) {
	f.Add("PHP Warning:  a\n b\n in Unknown on line 0\n<b>Notice</b>:  x in <b>/y</b> on line <b>3</b><br />\n")
	f.Add("[23-Nov-2026 16:57:04] ERROR: [/etc/f.conf:12] unknown\nDirective => Local Value => Master Value\na => b => c\n[PHP Modules]\nCore\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, w := range ParseWarnings([]byte(text)) {
			require.NotEmpty(t, w.Text)
			require.LessOrEqual(t, len(w.Text), maxText)
			require.NotContains(t, w.Text, "\n")
		}
		for name := range ParseInfo([]byte(text)) {
			require.NotEmpty(t, name)
		}
		ParseModules([]byte(text))
	})
}
