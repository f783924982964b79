package webconf

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const envvarsPath = "/etc/apache2/envvars"

func TestReadEnvVars(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, want string // want: "A=b C=d", sorted
		other      bool   // a shell knows more than this reader
	}{
		{text: "", want: ""},
		{text: "export A=b", want: "A=b"},
		{text: "A=b\nexport C\nC=d; export A E=$A$C", want: "A=b C=d E=bd"},
		{text: "A=b # export B=c\n#export C=d\nexport A", want: "A=b"},
		{text: "export A='b # c' B=\"d;e\" C=f\\ g", want: "A=b # c B=d;e C=f g"},
		{text: "export A=b\\\nc D='e'\"f\"g", want: "A=bc D=efg"},
		{text: "X=1\nexport A=\"$X-${X}-\\$X-\\\\\" B='$X' C=${X}2 D=$Y.", want: "A=1-1-$X-\\ B=$X C=12 D=."},
		{text: "export A=${X:-b} B=${X-c} C=/a/b\nexport D=${C##/a/} E=${C#/x} F=${C%/b} G=${C%%b}", want: "A=b B=c C=/a/b D=b E=/a/b F=/a G=/a/"},
		{text: "export A=b\nunset A\nexport C=d", want: "C=d"},
		{text: "export A=b\nA=c", want: "A=c"},
		{text: "if [ \"$X\" = \"\" ]; then export A=1; else export A=2; fi\nexport B=3", want: "A=1 B=3"},
		{text: "if [ -n \"$X\" ] ; then\nexport A=1\nelif test -z \"$X\"; then\nexport A=2\nelse\nexport A=3\nfi", want: "A=2"},
		{text: "if [ a != a ]; then if [ b = b ]; then export A=1; fi; export A=2; fi; if [ ! a = b ]; then export B=1; fi", want: "B=1"},
		{text: "X=1 true\nexport A=$X", want: "A="},
		{text: "[ a = b ] && export A=1\nexport B=2", want: "B=2"},
		{text: "export A=1\n[ a = b ] || export A=2\nexport B=2", want: "B=2", other: true},
		{text: "export A=$(echo x) B=`echo y` C=~ D=2", want: "D=2", other: true},
		{text: "export A=1\nif [ -f /nowhere ]; then export A=2; fi\nexport B=2", want: "B=2", other: true},
		{text: "export A=1\nfor A in 1 2; do A=3; done\nexport B=2", want: "B=2", other: true},
		{text: "f() {\nexport B=1\n}\ncase x in x) export D=1;; esac\n. /dev/null\nulimit -c 0\nexport A=2", want: "A=2", other: true},
		{text: "export A=${X:+y} B=${X/a/b} C=${#X} D=\"${X:-\"y\"}\" E=1", want: "E=1", other: true},
		{text: "export A=\"open", want: "", other: true},
		{text: "export 1A=b A-B=c =d A=1", want: "A=1", other: true},
		{text: "fi\n}\nesac\ndone\nthen\nelse\nexport A=1", want: "A=1", other: true},
		{text: "\x00\xff export A=\xff\nexport B=1", want: "B=1", other: true},
	} {
		t.Run(c.text, func(t *testing.T) {
			got, err := ReadEnvVars(tree{envvarsPath: c.text}, envvarsPath)
			require.NoError(t, err)
			want := parseWant(c.want)
			require.Equal(t, want, got)
			if !c.other {
				require.Equal(t, want, shellSays(t, c.text), "what a shell says")
			}
		})
	}
	// The instance of another name has folders of its own.
	const other = "/etc/apache2-two/envvars"
	text := "if [ \"${APACHE_CONFDIR##/etc/apache2-}\" != \"${APACHE_CONFDIR}\" ] ; then\n\tSUFFIX=\"-${APACHE_CONFDIR##/etc/apache2-}\"\nelse\n\tSUFFIX=\nfi\nexport APACHE_RUN_DIR=/var/run/apache2$SUFFIX\n"
	got, err := ReadEnvVars(tree{other: text}, other)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"APACHE_RUN_DIR": "/var/run/apache2-two"}, got)

	begin := time.Now()
	for _, hostile := range []string{
		"A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("A=$A$A\n", 30_000) + "export A", strings.Repeat("$", maxEnvVars), strings.Repeat("if ", maxEnvVars/3),
		strings.Repeat("if a\n", maxEnvVars/5), "A=$" + strings.Repeat("a", maxEnvVars-3), strings.Repeat("then ", maxEnvVars/5), strings.Repeat("\"$(", maxEnvVars/3),
	} {
		_, err := ReadEnvVars(tree{envvarsPath: hostile}, envvarsPath)
		require.NoError(t, err)
	}
	require.Less(t, time.Since(begin), time.Minute)
	_, err = ReadEnvVars(tree{envvarsPath: strings.Repeat("#", maxEnvVars+1)}, envvarsPath)
	require.ErrorContains(t, err, "cannot read the environment of apache: "+envvarsPath+": ")
}

// parseWant reads "A=b c D=e" with names of one capital letter.
func parseWant(text string) map[string]string {
	m := map[string]string{}
	name := ""
	for i, part := range strings.Split(text, " ") {
		if len(part) > 1 && part[1] == '=' && part[0] >= 'A' && part[0] <= 'Z' {
			name = part[:1]
			m[name] = part[2:]
		} else if i > 0 || part != "" {
			m[name] += " " + part
		}
	}
	return m
}

func shellSays(t *testing.T, text string) map[string]string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	require.NoError(t, os.WriteFile(script, []byte(text+"\n"), 0o644))
	out, err := exec.Command("env", "-i", "sh", "-c", `. "$1"; env -0`, "sh", script).Output()
	require.NoError(t, err)
	m := map[string]string{}
	for _, line := range strings.Split(string(out), "\x00") {
		if name, value, ok := strings.Cut(line, "="); ok && len(name) == 1 && name != "_" {
			m[name] = value
		}
	}
	return m
}
