package phpconf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
)

var _ Files = (*jail.Root)(nil)

func TestReadIni(t *testing.T) {
	t.Parallel()
	files := fakeFiles{
		"/etc/php.ini":           "memory_limit = 1M ; one\nextension=one\n[PATH=/srv]\nmemory_limit=2M\nextension=two\n[PHP]\nextension=three.so\nmemory_limit=3M\n",
		"/etc/conf.d/20-b.ini":   "zend_extension=opcache\nextension=/opt/four.so\nEXTENSION = \"five\"\nextension=\n;extension=six\n",
		"/etc/conf.d/10-a.ini":   "extension_dir = /ext\nmemory_limit=4M\nx[a]=1\nx[]=2\nbare\n",
		"/etc/conf.d/30-dir.ini": "<dir>",
		"/etc/conf.d/README":     "memory_limit=5M\n",
		"/etc/more/z.ini":        "a=\"un\nclosed\nmemory_limit=6M\n",
		"/etc/more/zz.ini":       "precision=${memory_limit}-${NO}-${NO:-else ${NO:-x}}-$NO\n",
	}
	ini, err := ReadIni(files, "/etc/php.ini", "/etc/conf.d:/etc/none::/etc/more", "/usr/lib/php/api")
	require.NoError(t, err)
	require.Equal(t, []string{"/etc/php.ini", "/etc/conf.d/10-a.ini", "/etc/conf.d/20-b.ini", "/etc/more/z.ini", "/etc/more/zz.ini"}, ini.Files)
	require.Equal(t, []Directive{
		{"memory_limit", "1M", "/etc/php.ini", 1},
		{"extension_dir", "/ext", "/etc/conf.d/10-a.ini", 1},
		{"memory_limit", "4M", "/etc/conf.d/10-a.ini", 2},
		{"x[a]", "1", "/etc/conf.d/10-a.ini", 3},
		{"x[]", "2", "/etc/conf.d/10-a.ini", 4},
		{"precision", "4M-${NO}-else x-$NO", "/etc/more/zz.ini", 1},
	}, ini.Directives)
	require.Equal(t, []Directive{
		{"memory_limit", "2M", "/etc/php.ini", 4},
		{"extension", "two", "/etc/php.ini", 5},
		{"memory_limit", "3M", "/etc/php.ini", 8},
	}, ini.Scoped)
	require.Equal(t, []Extension{
		{"one", "/ext/one.so", false, "/etc/php.ini", 2},
		{"three", "/ext/three.so", false, "/etc/php.ini", 7},
		{"opcache", "/ext/opcache.so", true, "/etc/conf.d/20-b.ini", 1},
		{"four", "/opt/four.so", false, "/etc/conf.d/20-b.ini", 2},
		{"five", "/ext/five.so", false, "/etc/conf.d/20-b.ini", 3},
	}, ini.Extensions)
	require.Len(t, ini.Warnings, 1)
	require.Equal(t, "/etc/more/z.ini", ini.Warnings[0].File)
	require.Equal(t, []string{"extension", "extension_dir", "memory_limit", "precision", "x"}, ini.Names())
	_, ok := ini.Get("Memory_Limit")
	require.False(t, ok)

	ini, err = ReadIniEnv(files, "", "/etc/more", "", map[string]string{"NO": "yes"})
	require.NoError(t, err)
	d, ok := ini.Get("precision")
	require.True(t, ok)
	require.Equal(t, "-yes-yes-$NO", d.Value)

	ini, err = ReadIni(files, "/etc/none.ini", "", "")
	require.NoError(t, err)
	require.Equal(t, &Ini{}, ini)
}

func TestRemoved(t *testing.T) {
	t.Parallel()
	ini := &Ini{
		Directives: []Directive{{"kept", "1", "/a", 1}, {"gone", "1", "/a", 2}, {"own", "1", "/a", 3}, {"gone", "2", "/b", 1}},
		Scoped:     []Directive{{"gone", "3", "/a", 9}},
	}
	old, next := map[string]bool{"kept": true, "gone": true}, map[string]bool{"kept": true, "new": true}
	require.Equal(t, []Directive{{"gone", "1", "/a", 2}, {"gone", "2", "/b", 1}, {"gone", "3", "/a", 9}}, Removed(ini, old, next))
	fpm := &FPM{Pools: []Pool{{PHP: []Directive{{"gone", "1", "/p", 4}, {"kept", "", "/p", 5}}}}}
	require.Equal(t, []Directive{{"gone", "1", "/p", 4}}, RemovedFPM(fpm, old, next))
}

func TestExtensionPath(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][2]string{
		"gd":             {"gd", "/d/gd.so"},
		"gd.so":          {"gd", "/d/gd.so"},
		"/x/y.so":        {"y", "/x/y.so"},
		"x/y.so":         {"y", "/x/y.so"},
		"../../etc/x.so": {"x", "/etc/x.so"},
	} {
		name, file := ExtensionPath(value, "/d")
		require.Equal(t, want, [2]string{name, file}, value)
	}
}

// failing answers every question with an error.
type failing struct{ err error }

func (f failing) ReadFile(string, int64) ([]byte, error) { return nil, f.err }
func (f failing) ReadDir(string) ([]string, error)       { return nil, f.err }

func TestBounds(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken\x1b[2J")
	_, err := ReadIni(failing{broken}, "/etc/php.ini", "", "")
	require.ErrorIs(t, err, broken)
	require.EqualError(t, err, "cannot read the configuration of PHP: /etc/php.ini: broken")
	_, err = ReadIni(failing{broken}, "", "/etc/conf.d", "")
	require.ErrorIs(t, err, broken)
	_, err = ReadFPM(failing{broken}, "/etc/f.conf")
	require.ErrorIs(t, err, broken)

	doubling := "a0=0123456789\n"
	for i := range 40 {
		doubling += fmt.Sprintf("a%d=\"${a%d}${a%d}\"\n", i+1, i, i)
	}
	many := fakeFiles{}
	for i := range maxFiles + 1 {
		many[fmt.Sprintf("/d/%05d.ini", i)] = "a=1\n"
	}
	wide := fakeFiles{}
	for i := range 300 {
		wide[fmt.Sprintf("/d/%03d.ini", i)] = strings.Repeat("a=1\n", 1000)
	}
	for name, files := range map[string]fakeFiles{
		"a large file":        {"/d/a.ini": strings.Repeat(";", maxFile+1)},
		"many large files":    {"/d/a.ini": strings.Repeat(";", maxFile), "/d/b.ini": strings.Repeat(";", maxFile), "/d/c.ini": strings.Repeat(";", maxFile), "/d/d.ini": strings.Repeat(";", maxFile), "/d/e.ini": ";"},
		"many files":          many,
		"many directives":     wide,
		"values of variables": {"/d/a.ini": "x=" + strings.Repeat("0123456789", 6000) + "\n" + strings.Repeat("y=${x}\n", 300)},
	} {
		start := time.Now()
		_, err := ReadIni(files, "", "/d", "")
		require.Error(t, err, name)
		require.Less(t, time.Since(start), 20*time.Second, name)
	}
	ini, err := ReadIni(fakeFiles{"/a.ini": doubling}, "/a.ini", "", "")
	require.NoError(t, err)
	require.Len(t, ini.Warnings, 1, "a value that grows too long is a fault, as PHP would run out of memory")
	deep := strings.Repeat("(", 10_000)
	ini, err = ReadIni(fakeFiles{"/a.ini": "a=" + deep + "\n", "/d/b.ini": "a=" + strings.Repeat("${x:-", 10_000), "/d/c.ini": "a=" + strings.Repeat("!", 10_000)}, "/a.ini", "/d", "")
	require.NoError(t, err)
	require.Len(t, ini.Warnings, 3)
}

func FuzzIni(f *testing.F) {
	f.Add("memory_limit = 128M ; c\n[PATH=/x]\na[]=\"x${y}\"\nextension=gd.so\n")
	f.Add("a=${b:-c}\nerror_reporting = E_ALL & ~E_DEPRECATED\n'x'='y'\n")
	f.Add("a=\"x\\\"\n\\\\\" z\n; last")
	f.Fuzz(func(t *testing.T, text string) {
		ini, err := ReadIni(fakeFiles{"/a.ini": text}, "/a.ini", "", "/ext")
		if err != nil {
			return
		}
		lines := strings.Count(text, "\n") + strings.Count(text, "\r") + 1
		last := 0
		for _, d := range ini.Directives {
			require.GreaterOrEqual(t, d.Line, last)
			require.LessOrEqual(t, d.Line, lines)
			last = d.Line
		}
		for _, e := range ini.Extensions {
			require.True(t, strings.HasPrefix(e.Path, "/"), "%q", e.Path)
		}
		for _, w := range ini.Warnings {
			require.Positive(t, w.Line)
			require.LessOrEqual(t, w.Line, lines)
		}
		Priority([]byte(text))
	})
}
