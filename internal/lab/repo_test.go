package lab

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// aptWith runs apt on a root of its own against one sources file.
func aptWith(t *testing.T, dir, sources, program string, args ...string) (string, error) {
	t.Helper()
	for _, d := range []string{"lists/partial", "cache/archives/partial", "empty"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	conf := `Dir::Etc "` + dir + `/empty"; Dir::Etc::parts "` + dir + `/empty"; Dir::Etc::sourceparts "` + dir + `/empty";
Dir::State "` + dir + `"; Dir::State::lists "` + dir + `/lists"; Dir::State::status "/dev/null"; Dir::Cache "` + dir + `/cache";
APT::Sandbox::User ""; Dir::Etc::sourcelist "` + sources + `"; Acquire::Languages { "none"; }; APT::Update::Error-Mode "any";`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(conf), 0o644))
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestSignedRepoSatisfiesApt(t *testing.T) {
	t.Parallel()
	p := NginxPair(t)
	r := SignedRepo(t, p.Old, p.New)
	dir := t.TempDir()
	out, err := aptWith(t, dir, r.SourcesFile, "apt-get", "update")
	require.NoError(t, err, out)
	out, err = aptWith(t, dir, r.SourcesFile, "apt-cache", "madison", "nginx")
	require.NoError(t, err, out)
	require.Contains(t, out, p.OldVersion)
	require.Contains(t, out, p.NewVersion)
	out, err = aptWith(t, dir, r.SourcesFile, "apt-get", "download", "nginx="+p.OldVersion, "libcrypt1")
	require.NoError(t, err, out)

	// Changed after it was signed.
	b, err := os.ReadFile(r.dist("InRelease"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.dist("InRelease"), []byte(strings.Replace(string(b), "Label: jailup test", "Label: jailup text", 1)), 0o644))
	out, err = aptWith(t, t.TempDir(), r.SourcesFile, "apt-get", "update")
	require.Error(t, err, out)

	r.Publish(t, nil)
	out, err = aptWith(t, t.TempDir(), r.SourcesFile, "apt-get", "update")
	require.NoError(t, err, out)
}

func TestSignedRepoIntercepts(t *testing.T) {
	t.Parallel()
	Need(t, "dpkg-deb")
	r := SignedRepo(t)
	status := func() int {
		resp, err := http.Get(r.URL + "/dists/test/InRelease")
		require.NoError(t, err)
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Equal(t, 200, status())
	r.Intercept(func(http.Handler) http.Handler { return http.NotFoundHandler() })
	require.Equal(t, 404, status())
	r.Intercept(nil)
	require.Equal(t, 200, status())
}
