package webconf

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const apacheHead = `LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ErrorLog /var/log/apache2/e.log
ServerName main.example
User www-data
Group www-data
`

// Each text is read by the server itself and by this package: both must take
// it and see the same in it, or both refuse it.
func TestApacheReadsAsTheServerDoes(t *testing.T) {
	t.Parallel()
	a := newRealApache(t)
	a.write(t, "etc/x/one.conf", "Define ONE\n")
	a.write(t, "etc/x/sub/two.conf", "Define TWO\n")
	a.write(t, "etc/x/sub/.hidden.conf", "Define HIDDEN\n")
	a.write(t, "etc/x/sub/deep/three.conf", "Define THREE\n")
	a.write(t, "etc/x/sub/[odd].cnf", "Define ODD\n")
	a.write(t, "etc/y/sub/two.conf", "Define YTWO\n")
	a.write(t, "etc/x/blank name.conf", "Define BLANK\n")
	a.write(t, "etc/x/open.part", "<VirtualHost *:80>\n")
	a.write(t, "etc/t/self.part", "Include self.part\n")
	a.write(t, "etc/x/once.part", "<IfDefine !ONCE>\nDefine ONCE\nInclude /etc/x/once.part\n</IfDefine>\nDefine AFTER\n")
	require.NoError(t, os.Symlink("/nowhere", filepath.Join(a.dir, "etc/x/dangling.zz")))
	version := a.version(t)

	for i, c := range []struct {
		text    string
		refused bool
	}{
		{text: ""},
		{text: "# comment \\\nDefine INCOMMENT\nDefine A1 x\\\ny\nDefine A2 'x \\\n  y'\nDefine \\\r\nA3\r\n"},
		{text: "Define A1 'x y'\nDefine A2 \"x \\\"y\\\\z\\n\"\nDefine A3 a\"b\nDefine A4 a\\\\b\\c\nDefine A5 \"\"\n  \tDefine\tA6\t \n"},
		{text: "Define \"a\"b\nDefine A2'x'\n'Define' A3\n"},
		{text: "Define A1 'open\nDefine A2 \"open \\\n  too\\\"\n"},
		{text: "DEFINE A1\ndefine a2\n\fDefine A3\v1\n"},
		{text: "Define A1\\"},
		{text: "Define A1 x\\\\\ny\n"},
		{text: "Define A b\nDefine B ${A}c${A}\nDefine C \"${B} d\"\nDefine D '${C}'\nDefine E ${NOPE}x\nDefine F ${A\nDefine G $A}{\nDefine H \"${ENVA}\"\nDefine ${A}L\nDefine N 'Define'\n${N} O\n<${IFD}Define CMD>\nDefine M\n</IfDefine>\nDefine P a\"b\nDefine Q ${P}c\nDefine R '${P}'\nDefine ${SPLIT}\nDefine I ${A:B}\nDefine J ${}\nUnDefine A\nDefine K ${A}\n"},
		{text: "Define ENVA over\nDefine X ${ENVA}\nUnDefine ENVA\nDefine Y '${ENVA}'\n"},
		{text: "Define A 1\nDefine A 2\nDefine B\nDefine B ${A}\n"},
		{text: "<IfDefine CMD>\nDefine A1\n</IfDefine>\n<IfDefine !CMD>\nDefine A2\n</IfDefine>\n<IfDefine cmd>\nDefine A3\n</IfDefine>\n<ifdefine NOPE>\nDefine A4\n<IfDefine CMD>\n</IfDefine>\nDefine A5\n</IFDEFINE>\n"},
		{text: "<VirtualHost *:80>\nDefine INSIDE\nServerName a\n<IfDefine INSIDE>\nServerAlias b\n</IfDefine>\n</VirtualHost>\n<IfDefine INSIDE>\nDefine OUTSIDE\n</IfDefine>\n"},
		{text: "<IfModule so_module>\nDefine A1\n<IfModule !mod_so.c>\nDefine A2\n</IfModule>\n<IfModule event.c>\nDefine A3\n</IfModule>\n</IfModule>\n<IfModule mod_ssl.c>\nDefine A4\n</IfModule>\n"},
		{text: "<IfModule ssl_module>\nDefine BEFORE\n</IfModule>\nLoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\nLoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\n<IfModule ssl_module>\nDefine AFTER\n</IfModule>\n"},
		{text: "<IfModule so_module >\nDefine A\n</IfModule>\n<IfModule \"so_module\">\nDefine B\n</IfModule>\n"},
		{text: "<IfFile /etc/x>\nDefine A\n</IfFile>\n<IfFile /etc/x/one.conf>\nDefine B\n</IfFile>\n<IfFile !/etc/x/none>\nDefine C\n</IfFile>\n<IfFile /etc/x/dangling.zz>\nDefine D\n</IfFile>\n<IfFile ../x/one.conf>\nDefine E\n</IfFile>\n<IfFile /etc/x/*>\nDefine F\n</IfFile>\n<IfFile \"/etc/x/blank name.conf\">\nDefine G\n</IfFile>\n<IfFile /etc/x/one.conf/z>\nDefine H\n</IfFile>\n"},
		{text: ifVersions(">= 2.4", "2.4", "= "+version, "== "+version, version, "!= "+version, "!< 2.4", "> 2.4", "~ ^2\\.4\\.[0-9]+$", "= /^2\\.4/", "/^2\\.4/", "!~ ^2", "< 2.4.9999", "<= 2", "<= 3", "< 2.4", ">= 2.5")},
		{text: "Include /etc/x/one.conf\n"},
		{text: "Include ../x/one.conf\nInclude \"/etc/x/blank name.conf\"\n"},
		{text: "Include /etc/x/sub\n"},
		{text: "Include /etc/x/sub/\n"},
		{text: "Include /etc/x/sub/*.conf\n"},
		{text: "Include /etc/*/sub/two.conf\n", refused: true},
		{text: "Include /etc/[xy]/sub/two.conf\n"},
		{text: "Include /etc/[xy/sub/two.conf\n", refused: true},
		{text: "Include /etc/*/one.conf\n", refused: true},
		{text: "IncludeOptional /etc/[xy]/one.conf\n"},
		{text: "IncludeOptional /etc/[!x]/sub/t?o.conf\n"},
		{text: "Include /etc/[^x]/sub/*\n", refused: true},
		{text: "Include /etc/[^xt]/sub/*\n"},
		{text: "Include /etc/x/sub/.*.conf\n"},
		{text: "Include /etc/x/sub/\\[odd\\].cnf\n", refused: true},
		{text: "Include /etc/x/sub/\\[odd\\].c?f\n"},
		{text: "Include /etc/x/*/*\n"},
		{text: "IncludeOptional /etc/x/*/none\nIncludeOptional /etc/none\nIncludeOptional /etc/none/*\nIncludeOptional /etc/*/none/*\nIncludeOptional /etc/x/*.zz\nIncludeOptional /etc/x/dangling.zz\n"},
		{text: "Include /etc/none\n", refused: true},
		{text: "Include /etc/none/*.conf\n", refused: true},
		{text: "Include /etc/x/*.none\n", refused: true},
		{text: "Include /etc/x/*.zz\n", refused: true},
		{text: "Include /etc/x/one.conf/two\n", refused: true},
		{text: "IncludeOptional /etc/x/one.conf/two\n"},
		{text: "Include /dev/null\n"},
		{text: "Include /etc/x/open.part\n", refused: true},
		{text: "Include self.part\n", refused: true},
		{text: "IncludeOptional self.part\n", refused: true},
		{text: "Include /etc/x/once.part\n"},
		{text: "ServerRoot /etc/x\nInclude one.conf\nPidFile run.pid\n"},
		{text: "<VirtualHost *:80>\nInclude /etc/x/one.conf\n</VirtualHost>\n"},
		{text: "<IfDefine NOPE>\nInclude /etc/none\n</IfDefine>\n"},
		{text: "<VirtualHost *:80>\n", refused: true},
		{text: "<IfModule so_module>\nDefine A\n"},
		{text: "<IfModule nope>\nDefine A\n", refused: true},
		{text: "<IfModule nope>\n<Directory /x>\n</IfModule>\n", refused: true},
		{text: "</VirtualHost>\n", refused: true},
		{text: "<VirtualHost *:80>\n</Directory>\n", refused: true},
		{text: "<VirtualHost *:80>\n<IfModule so_module>\n</VirtualHost>\n</IfModule>\n", refused: true},
		{text: "<VirtualHost *:80>\n</VirtualHost >\n", refused: true},
		{text: "<VirtualHost *:80 >\n</VirtualHost> foo\n"},
		{text: "<VIRTUALHOST *:80>\n</virtualhost>\n"},
		{text: "<VirtualHost *:80\n</VirtualHost>\n", refused: true},
		{text: "< VirtualHost *:80>\n</VirtualHost>\n", refused: true},
		{text: "<IfDefine >\nDefine A\n</IfDefine>\n", refused: true},
		{text: "<VirtualHost *:80 [::]:81 127.0.0.1:82 _default_:83 [::1]:84 localhost:85 0.0.0.0:86 127.0.0.1:* 127.0.0.2 *>\n</VirtualHost>\n"},
		{text: "<VirtualHost *:80>\nServerName a\n</VirtualHost>\n<VirtualHost _default_:80>\nServerName b\n</VirtualHost>\n<VirtualHost *>\nServerName c\n</VirtualHost>\n<VirtualHost \"*:*\">\nServerName d\n</VirtualHost>\n"},
		{text: macroHead + "<Macro VHost $name $port>\n<VirtualHost *:$port>\nServerName $name\nServerAlias ${name}x\n</VirtualHost>\n</Macro>\nUse VHost a.example 80\nuse vhost b.example 81\n"},
		{text: macroHead + "<Macro M @a %bb @aa>\n# @a\nDefine D_@a_@aa_%bb\n<IfDefine NOPE>\nDefine D_NO\n</IfDefine>\n</Macro>\nUse M 1 2 3\nUse M '4' 5 6\nUse M 'a\"b' c '\\\\'\n"},
		{text: macroHead + "<Macro Outer>\nDefine OUT\n<Macro Inner>\nDefine IN\n</Macro>\n</Macro>\nUse Outer\nUse Inner\nUndefMacro Inner\n"},
		{text: macroHead + "<Macro M $a>\nDefine $a\n</Macro>\nUse M\n", refused: true},
		{text: macroHead + "<Macro M>\nUse M\n</Macro>\nUse M\n", refused: true},
		{text: macroHead + "<Macro M>\n", refused: true},
		{text: macroHead + "Use None\n", refused: true},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			main := fmt.Sprintf("etc/t/%d.conf", i)
			a.write(t, main, apacheHead+c.text)
			o := ApacheOptions{Defines: []string{"CMD"}, Env: map[string]string{"ENVA": "from env", "SPLIT": "S\tT", "IFD": "If"}, ServerRoot: "/etc/t", Version: version}
			// The one built in is another, as with a main file of one's own.
			text := apacheHead + "ServerRoot /etc/t\n" + c.text
			a.write(t, main, text)
			if !c.refused {
				a.compare(t, "/"+main, o)
				return
			}
			_, out, ok := a.ask(t, "/"+main, o)
			require.False(t, ok, "the server takes it: %s", out)
			_, _, err := a.tell(t, "/"+main, o)
			require.Error(t, err, "the server says: %s", out)
			require.Regexp(t, `^cannot read the configuration of apache: /etc/\S+:\d+: `, err.Error())
		})
	}
}

const macroHead = "LoadModule macro_module /usr/lib/apache2/modules/mod_macro.so\n"

func ifVersions(list ...string) string {
	var b strings.Builder
	for i, v := range list {
		fmt.Fprintf(&b, "<IfVersion %s>\nDefine V%d\n</IfVersion>\n", v, i)
	}
	return b.String()
}

// version is what the server calls itself: "2.4.62".
func (a *realApache) version(t *testing.T) string {
	t.Helper()
	out, err := a.command(nil, "-v").Output()
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(out), "Apache/")
	require.True(t, ok, "%s", out)
	return strings.Fields(rest)[0]
}
