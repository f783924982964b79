package webconf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvNames(t *testing.T) {
	t.Parallel()
	conf := "Define OWN x\nListen ${PORT}\nServerName ${OWN}.example.org\n# ${COMMENT}\nPassEnv DBPW A\nRewriteMap m txt:/x\n" +
		"<VirtualHost *>\nPassEnv B\nRewriteCond %{ENV:RULE} ${m:key}\nRewriteRule x ${PORT}\nRequire expr \"osenv('EXPR') == 'x'\"\n</VirtualHost>\n" +
		"<IfDefine !X>\nPidFile ${PIDS}/x\n</IfDefine>\n<IfDefine X>\nPassEnv NEVER\nUser ${NOBODY}\n</IfDefine>\n"
	a, err := ReadApache(tree{"/a/apache2.conf": conf}, "/a/apache2.conf", ApacheOptions{Env: map[string]string{"PORT": "80", "OTHER": "1"}})
	require.NoError(t, err)
	require.Equal(t, []string{"A", "B", "DBPW", "EXPR", "PIDS", "PORT", "RULE"}, a.EnvNames())

	n, err := ReadNginx(tree{"/n/nginx.conf": "env DBPW;\nenv SET=1;\nenv A;\nenv A;\nevents { }\n"}, "/n/nginx.conf", "")
	require.NoError(t, err)
	require.Equal(t, []string{"A", "DBPW"}, n.EnvNames())
}

// What the command line gives counts before or behind the file.
func TestDirectivesOfTheCommandLine(t *testing.T) {
	t.Parallel()
	files := tree{"/a/apache2.conf": "<IfDefine GIVEN>\nPidFile /run/a.pid\nUser a\n</IfDefine>\n", "/n/nginx.conf": "events { }\n", "/n/more.conf": "user b;\n"}
	a, err := ReadApache(files, "/a/apache2.conf", ApacheOptions{Before: []string{"Define GIVEN", "# x", "User before"}, After: []string{"PidFile ${UNKNOWN}/b.pid"}})
	require.NoError(t, err)
	require.Equal(t, "a", a.User())
	require.Equal(t, "/a/${UNKNOWN}/b.pid", a.PIDFile())
	require.Equal(t, []string{"the command line:1: the variable UNKNOWN is not defined"}, a.Warnings())
	_, err = ReadApache(files, "/a/apache2.conf", ApacheOptions{After: []string{"</IfDefine>"}})
	require.ErrorContains(t, err, "the command line:1: </IfDefine> without an open section")

	n, err := ReadNginxGiven(files, "/n/nginx.conf", "", []string{"pid /run/x.pid; daemon off;", "include more.conf;"})
	require.NoError(t, err)
	require.Equal(t, "/run/x.pid", n.PIDFile())
	require.False(t, n.Daemon())
	require.Equal(t, "b", n.WorkerUser())
	for text, want := range map[string]string{"pid /x": "unexpected end of file after pid", "}": `unexpected "}"`} {
		_, err = ReadNginxGiven(files, "/n/nginx.conf", "", []string{text})
		require.ErrorContains(t, err, want)
	}
}
