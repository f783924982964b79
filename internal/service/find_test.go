package service

import (
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// made is a process table written by hand.
type made struct {
	pid, ppid, sid, uid int
	args                string
	exe                 bool
}

func tableOf(all []made) *table {
	t := &table{byPID: map[int]*proc{}}
	for _, m := range all {
		p := &proc{inJail: true, core: m.exe, threads: 1}
		p.PID, p.PPID, p.SID, p.PGID, p.UID = m.pid, m.ppid, m.sid, m.sid, m.uid
		p.StartTicks, p.State = uint64(m.pid), 'S'
		p.args, p.Cmdline = []string{m.args}, m.args
		t.byPID[m.pid] = p
	}
	return t
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const (
		master = "nginx: master process /usr/sbin/nginx"
		second = "nginx: master process /usr/sbin/nginx -c /etc/nginx/second.conf"
		worker = "nginx: worker process"
	)
	// The numbers are above any that the kernel gives: nothing of this machine is
	// looked into.
	const base = 1 << 23
	m := func(pid, ppid, sid, uid int, args string) made {
		if ppid > 1 {
			ppid += base
		}
		return made{base + pid, ppid, base + sid, uid, args, true}
	}
	tests := map[string]struct {
		table  []made
		pid    int // in the pid file
		exact  bool
		want   []int // master first; 0 stands for none
		spared int
		err    bool
	}{
		"down":                            {want: []int{0}},
		"one":                             {table: []made{m(10, 1, 10, 0, master), m(11, 10, 10, 33, worker)}, want: []int{10, 11}},
		"script of a worker":              {table: []made{m(10, 1, 10, 0, master), m(11, 10, 10, 33, worker), {base + 12, base + 11, base + 12, 33, "sh", false}}, want: []int{10, 11, 12}},
		"two, one fits":                   {table: []made{m(10, 1, 10, 0, second), m(11, 10, 10, 33, worker), m(20, 1, 20, 0, master), m(21, 20, 20, 33, worker)}, want: []int{20, 21}, spared: 1},
		"two, both say the same":          {table: []made{m(10, 1, 10, 0, second), m(20, 1, 20, 0, master)}, pid: 20, want: []int{20}, spared: 1},
		"two, at odds":                    {table: []made{m(10, 1, 10, 0, second), m(20, 1, 20, 0, master)}, pid: 10, err: true},
		"two, at odds, exact":             {table: []made{m(10, 1, 10, 0, second), m(20, 1, 20, 0, master)}, pid: 10, exact: true, want: []int{20}, spared: 1},
		"two of a kind":                   {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, master)}, err: true},
		"two of a kind, exact":            {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, master)}, exact: true, err: true},
		"two of a kind, pid file":         {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, master)}, pid: 20, want: []int{20}, spared: 1},
		"two of a kind, exact, pid file":  {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, master)}, exact: true, pid: 20, want: []int{20}, spared: 1},
		"one is not root's":               {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 33, master)}, want: []int{10}, spared: 1},
		"one that may be another":         {table: []made{m(10, 1, 10, 0, second)}, err: true},
		"one that is another":             {table: []made{m(10, 1, 10, 0, second)}, exact: true, want: []int{0}, spared: 1},
		"one of another configuration":    {table: []made{m(10, 1, 10, 0, second)}, pid: 10, want: []int{10}},
		"one without a title":             {table: []made{m(10, 1, 10, 0, "???")}, want: []int{10}},
		"workers of a dead master":        {table: []made{m(11, 1, 10, 33, worker), m(12, 1, 10, 33, worker)}, want: []int{0, 11, 12}},
		"the same, beside another server": {table: []made{m(11, 1, 10, 33, worker), m(20, 1, 20, 0, second), m(21, 20, 20, 33, worker)}, exact: true, want: []int{0, 11}, spared: 1},
		"worker forked twice":             {table: []made{m(10, 1, 10, 0, master), m(11, 10, 10, 33, worker), m(12, 1, 12, 33, worker)}, want: []int{10, 11, 12}},
		"the same, of the other server":   {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, second), m(21, 1, 20, 33, worker)}, want: []int{10}, spared: 2},
		"test of the configuration":       {table: []made{m(10, 1, 10, 0, master), m(20, 1, 20, 0, "nginx: master process nginx -t")}, want: []int{10}, spared: 1},
		"a loop of parents":               {table: []made{m(10, 11, 10, 0, master), m(11, 10, 10, 33, worker)}, want: []int{10, 11}},
		"binary upgrade":                  {table: []made{m(10, 1, 10, 0, master), m(11, 10, 10, 33, worker), m(20, 10, 10, 0, master), m(21, 20, 10, 33, worker)}, want: []int{10, 11, 20, 21}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
			if tt.pid > 0 {
				writePID(t, dir, base+tt.pid)
			}
			spec := nginxSpec()
			spec.Exact = tt.exact
			c := NewProcess(openJail(t, dir), spec)
			ch, err := c.choose(tableOf(tt.table), spec)
			if tt.err {
				require.ErrorIs(t, err, ErrAmbiguous)
				return
			}
			require.NoError(t, err)
			got := []int{0}
			if ch.server.Master != nil {
				got[0] = ch.server.Master.PID - base
			}
			for _, p := range ch.server.Others {
				got = append(got, p.PID-base)
			}
			sort.Ints(got[1:])
			if name == "a loop of parents" {
				sort.Ints(got) // either may be taken for the master
			}
			require.Equal(t, tt.want, got)
			require.Len(t, ch.bystanders, tt.spared)
		})
	}
}

func writePID(t *testing.T, dir string, pid int) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run/nginx.pid"), []byte(strconv.Itoa(pid)+"\n"), 0o644))
}

func BenchmarkFind(b *testing.B) {
	c := NewProcess(openJail(b, b.TempDir()), nginxSpec())
	for b.Loop() {
		_, err := c.Find(b.Context())
		require.NoError(b, err)
	}
}
