package phpconf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvNames(t *testing.T) {
	t.Parallel()
	files := fakeFiles{
		"/f":   "[global]\npid = ${RUN}/x.pid\n; ${COMMENT}\n[a]\nlisten = /a\nenv[DB] = $DBPW\nenv[X] = \"$DBPW\"\nenv[FIXED] = DBPW\nenv[BAD] = $1x\nclear_env = no\n[b]\nlisten = /b\nclear_env = yes\n[c]\nlisten = /c\n",
		"/ini": "a = 1\nb = ${a}\nc = ${HOME}/x\n",
	}
	f, err := ReadFPM(files, "/f")
	require.NoError(t, err)
	require.Equal(t, []string{"DBPW", "RUN"}, f.EnvNames())
	var keep []string
	for _, p := range f.Pools {
		if p.KeepsEnv {
			keep = append(keep, p.Name)
		}
	}
	require.Equal(t, []string{"a"}, keep)
	i, err := ReadIni(files, "/ini", "", "")
	require.NoError(t, err)
	require.Equal(t, []string{"HOME"}, i.EnvNames())
}
