package checks_test

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/webconf"
)

// An apache whose master is outside and whose children are in the jail.
func TestApacheWithChrootDir(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	s := newSite(t, lab.ChrootDirJail(t, web(t), lab.Extensions("mysql", "gd")))
	machine, err := jail.Open("/")
	require.NoError(t, err)
	defer machine.Close()
	env := map[string]string{}
	for _, e := range s.Parts[0].Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	etc := filepath.Join(s.Host, "etc/apache2")
	conf, err := webconf.ReadApache(machine, filepath.Join(etc, "apache2.conf"), webconf.ApacheOptions{Env: env, ServerRoot: etc})
	require.NoError(t, err)
	require.Equal(t, s.Dir, conf.ChrootDir())

	s.Start(t)
	target := s.target("")
	target.Server = s.find("apache")
	target.MasterOutside, target.Outside = true, machine
	target.Apache(conf)
	set, err := checks.Standard(target, checks.Config{})
	require.NoError(t, err)
	s.started()
	before := s.well(set)
	v := s.values(before, "process")
	require.Equal(t, "jail 33", v["worker_root"]+" "+v["worker_uids"])
	require.NotContains(t, v, "root")
	s.values(before, "php page localhost 127.0.0.1:"+strconv.Itoa(s.Port))
	s.values(before, "log "+s.Parts[0].Log)
	s.Stop(t)
	set.Since(set.Mark())
	s.Start(t)
	p := policy()
	p.Soak = time.Second
	after, err := checks.Verify(t.Context(), set.Checks(), before, p, nil)
	require.NoError(t, err, "%+v", after)

	// Started without its ChrootDir it serves, and is not what it was.
	s.Stop(t)
	s.editHost(filepath.Join(etc, "conf-enabled/chroot.conf"), "ChrootDir", "#")
	s.editHost(filepath.Join(etc, "sites-available/jail.conf"), "/srv/www", s.Dir+"/srv/www")
	set.Since(set.Mark())
	s.StartPart(t, "apache")
	_, err = checks.Verify(t.Context(), set.Checks(), before, p, nil)
	require.ErrorContains(t, err, "process: its root is not the jail")
}
