package lab

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeJail is a jail with the stand-in for nginx in it.
func fakeJail(t *testing.T, ways ...string) *Jail {
	t.Helper()
	p := NginxPair(t)
	deb := FakeNginx(t, FindDeb(t, p.New, "nginx"), ways...)
	j := HandMadeJail(t, p.Old, InMemory())
	tree := Unpacked(t, filepath.Dir(deb))
	for _, f := range []string{serverPath, "/usr/share/nginx/fake"} {
		require.NoError(t, j.copyIn(tree, f))
	}
	return j
}

func TestFakeNginxServes(t *testing.T) {
	t.Parallel()
	j := fakeJail(t)
	_, err := j.run(serverPath, "-t")
	require.NoError(t, err)
	j.Start(t)
	status, body := j.Get(t, "/")
	require.Equal(t, 200, status)
	require.Equal(t, Page, body)
	require.Len(t, j.Processes(), 2)
	j.Stop(t)
}

func TestFakeNginxGoesWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ways []string
		look func(t *testing.T, j *Jail)
	}{
		"dies": {[]string{"die-after 3s"}, func(t *testing.T, j *Jail) {
			j.Start(t)
			Eventually(t, 15*time.Second, "all of it is gone", func() bool { return len(j.Processes()) == 0 })
		}},
		"status": {[]string{"status 502"}, func(t *testing.T, j *Jail) {
			j.Start(t)
			status, _ := j.Get(t, "/")
			require.Equal(t, 502, status)
		}},
		"worker": {[]string{"worker-dies-after 3s"}, func(t *testing.T, j *Jail) { // after it has answered, also on a slow machine
			j.Start(t)
			Eventually(t, 15*time.Second, "only the master is left", func() bool { return len(j.Processes()) == 1 })
		}},
		"start": {[]string{"start-fails no luck", "test-fails bad luck"}, func(t *testing.T, j *Jail) {
			for _, args := range [][]string{{serverPath}, {serverPath, "-t"}} {
				out, err := j.run(args...)
				require.Error(t, err)
				require.Contains(t, out, "luck")
			}
			require.Empty(t, j.Processes())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.look(t, fakeJail(t, c.ways...))
		})
	}
}
