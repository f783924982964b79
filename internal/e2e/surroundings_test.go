//go:build faultpoints

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// around is a way to start the program that nobody would choose. The script is
// sh's; "$@" is the program with its arguments.
type around struct {
	name, script string
	env          []string
	exits        []int  // that may be; none: 0 alone
	says         string // in what is told
	need         string
}

// Whatever is around it: an upgrade is done, or refused with the server never
// touched. The exit status is true to the disk, and it takes no time to say no.
func TestFaultSurroundings(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root", "apt", "dpkg-deb")
	shards := shardsOf(4)
	cases := surroundings()
	y := lab.NewTally(t, "concurrency")
	y.Of(len(cases))
	for shard := range shards {
		t.Run(strconv.Itoa(shard), func(t *testing.T) {
			t.Parallel()
			var c *crowd
			for i, a := range cases {
				if i%shards != shard || !lab.Sampled(t, i) {
					continue
				}
				if c == nil {
					c = newCrowd(t)
					c.learn()
				}
				y.Cases(1)
				y.Point(c.from(t, y, a))
			}
		})
	}
}

func surroundings() []around {
	refused := []int{1}
	return []around{
		{name: "no environment", script: `exec env -i "$@"`},
		{name: "hostile environment", script: `exec "$@"`, env: []string{
			"LD_PRELOAD=/nowhere.so", "LD_LIBRARY_PATH=/tmp", "TMPDIR=/nowhere", "HOME=", "XDG_STATE_HOME=relative", "XDG_RUNTIME_DIR=/nowhere",
			"COLUMNS=999999999", "LINES=-1", "TERM=\x1b[2J", "LANG=xx_XX.nothing", "NO_COLOR=", "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1",
			"GOTRACEBACK=crash", "GOMAXPROCS=1", "GOGC=1", "IFS=/", "BASH_ENV=/nowhere", "NOTIFY_SOCKET=/nowhere", "LISTEN_FDS=9", "LISTEN_PID=1",
		}},
		{name: "GODEBUG", script: `exec "$@"`, env: []string{"GODEBUG=nonsense=1,madvdontneed=1,asyncpreemptoff=1"}},
		{name: "programs planted in PATH", script: `for p in sh true nginx dpkg tar xz zstd systemctl cp rm; do printf '#!/bin/sh\necho ran >"$PLANTED"\n' >"$PLANTS/$p"; chmod 755 "$PLANTS/$p"; done; PATH="$PLANTS"; export PATH; exec "$@"`},
		{name: "no PATH", script: `unset PATH; exec "$@"`},
		{name: "a setting of the environment that is none", script: `exec "$@"`, env: []string{"JAILUP_START_TIMEOUT=soon"}, exits: []int{64}, says: "JAILUP_START_TIMEOUT"},
		{name: "umask 000", script: `umask 000; exec "$@"`},
		{name: "umask 777", script: `umask 777; exec "$@"`},
		{name: "no stdin", script: `exec "$@" <&-`},
		{name: "no stdout", script: `exec "$@" >&-`},
		{name: "no streams at all", script: `exec "$@" <&- >&- 2>&-`},
		{name: "stdout is full", script: `exec "$@" >/dev/full`, need: "/dev/full"},
		{name: "stderr is full", script: `exec "$@" 2>/dev/full`, need: "/dev/full"},
		{name: "nobody reads", script: `{ "$@"; echo $? >"$STATUS"; } | true; exit $(cat "$STATUS")`},
		{name: "the working directory is gone", script: `mkdir "$PLANTS/gone"; cd "$PLANTS/gone"; rmdir "$PLANTS/gone"; exec "$@"`},
		{name: "few descriptors", script: `ulimit -n 24; exec "$@"`, exits: []int{0, 1, 3}},
		{name: "hardly a descriptor", script: `ulimit -n 10; exec "$@"`, exits: []int{0, 1, 3}},
		{name: "files of 64 KiB at most", script: `ulimit -f 128; exec "$@"`, exits: refused, says: "file too large"},
		{name: "files of 4 MiB at most", script: `ulimit -f 8192; exec "$@"`, exits: []int{0, 1, 3}},
		{name: "no core, little stack", script: `ulimit -c 0; ulimit -s 256; exec "$@"`},
		{name: "no CAP_SYS_CHROOT", script: `exec setpriv --bounding-set=-sys_chroot --inh-caps=-sys_chroot "$@"`, exits: refused, says: "has no CAP_SYS_CHROOT"},
		{name: "no CAP_SYS_ADMIN", script: `exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin "$@"`, exits: []int{0, 1}},
		{name: "no CAP_CHOWN", script: `exec setpriv --bounding-set=-chown --inh-caps=-chown "$@"`, exits: refused, says: "has no CAP_CHOWN"},
		{name: "no CAP_KILL", script: `exec setpriv --bounding-set=-kill --inh-caps=-kill "$@"`, exits: refused, says: "has no CAP_KILL"},
		{name: "no capability", script: `exec setpriv --bounding-set=-all --inh-caps=-all "$@"`, exits: refused},
		{name: "nobody", script: `chmod 755 "$PLANTS"; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"`, exits: []int{1}, says: "only root can"},
		{name: "no /proc", script: `exec unshare -m sh -c 'umount -l /proc; exec "$@"' sh "$@"`, exits: refused},
		{name: "read-only /run", script: `exec unshare -m sh -c 'mount -t tmpfs -o ro tmpfs /run; exec "$@"' sh "$@"`},
		{name: "read-only /etc and /var", script: `exec unshare -m sh -c 'mount --bind /etc /etc && mount -o remount,bind,ro /etc && mount --bind /var /var && mount -o remount,bind,ro /var; exec "$@"' sh "$@"`},
		{name: "a full /run", script: `exec unshare -m sh -c 'mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs /run; exec "$@"' sh "$@"`},
		{name: "read-only state", script: `exec unshare -m sh -c 'mount --bind "$STATE" "$STATE" && mount -o remount,bind,ro "$STATE"; exec "$@"' sh "$@"`, exits: refused, says: "read-only file system"},
		{name: "a configuration that anybody may write", script: `echo 'keep: 2' >"$PLANTS/c.yaml"; chmod 666 "$PLANTS/c.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "others than root may write it"},
		{name: "a configuration of somebody else", script: `echo 'keep: 2' >"$PLANTS/c.yaml"; chown 1234 "$PLANTS/c.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "belongs to user 1234"},
		{name: "a configuration that is a FIFO", script: `mkfifo "$PLANTS/c.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "not a regular file"},
		{name: "a configuration without an end", script: `ln -s /dev/zero "$PLANTS/c.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "not a regular file"},
		{name: "a huge configuration", script: `head -c 9000000 /dev/zero | tr '\0' '#' >"$PLANTS/c.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "larger than"},
		{name: "jails.d that anybody may write", script: `echo 'keep: 2' >"$PLANTS/c.yaml"; mkdir -m 777 "$PLANTS/jails.d"; chmod 777 "$PLANTS/jails.d"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "others than root may write it"},
		{name: "recipes.d that anybody may write", script: `echo 'keep: 2' >"$PLANTS/c.yaml"; mkdir "$PLANTS/recipes.d"; chmod 777 "$PLANTS/recipes.d"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "others"},
		{name: "a recipe of somebody else", script: `echo 'keep: 2' >"$PLANTS/c.yaml"; mkdir "$PLANTS/recipes.d"; echo 'name: evil' >"$PLANTS/recipes.d/evil.yaml"; chown 1234 "$PLANTS/recipes.d/evil.yaml"; exec "$@" --config "$PLANTS/c.yaml"`, exits: []int{64}, says: "1234"},
	}
}

// from runs one upgrade, and says which tree came of it.
func (c *crowd) from(t *testing.T, y *lab.Tally, a around) string {
	t.Helper()
	if a.need != "" && !exists(a.need) {
		return "not here"
	}
	plants := lab.ShmDir(t)
	planted := filepath.Join(lab.ShmDir(t), "ran")
	command := c.h.command("upgrade", "nginx", "--jail", c.j.Dir, "--soak", "0s")
	cmd := exec.Command("/bin/sh", append([]string{"-c", a.script, "sh"}, command.Args...)...)
	cmd.Env = append(command.Env, append(a.env, "PLANTS="+plants, "PLANTED="+planted, "STATUS="+filepath.Join(plants, "status"),
		"STATE="+filepath.Join(c.h.dir, "state"))...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = 5 * time.Second // what it leaves running must not hold the pipe
	began := time.Now()
	err := cmd.Run()
	_, isExit := err.(*exec.ExitError)
	require.True(t, err == nil || isExit, "%s: %v", a.name, err)
	exit := cmd.ProcessState.ExitCode()
	said := out.String() + errOut.String()
	require.NoFileExists(t, planted, "%s: a planted program has run", a.name)
	allowed := a.exits
	if len(allowed) == 0 {
		allowed = []int{0}
	}
	good := false
	for _, e := range allowed {
		good = good || e == exit
	}
	tail := said[max(0, len(said)-1500):]
	if !good {
		y.WrongExit("%s: exit status %d after %s: %s", a.name, exit, time.Since(began), tail)
	}
	if a.says != "" && exit != 0 && !strings.Contains(said, a.says) {
		t.Errorf("%s: it does not say %q: %s", a.name, a.says, tail)
	}
	tree := c.whole(a.name)
	if (tree == "new") != (exit == 0) {
		y.WrongExit("%s: exit status %d, and the tree is %s: %s", a.name, exit, tree, tail)
	}
	c.answers(a.name)
	if exit == 1 && strings.Contains(said, `"step":"stop"`) {
		y.WrongExit("%s: exit status 1 after the stop: %s", a.name, tail)
	}
	if tree == "new" {
		r := c.h.run("rollback", "--jail", c.j.Dir, "--soak", "0s")
		require.Equal(t, 0, r.Exit, "%s: %v %s", a.name, r.Done, r.Stderr)
	} else if r := c.h.run("recover", "--jail", c.j.Dir); r.Exit != 0 {
		y.Person("%s: recover ends with %d: %v", a.name, r.Exit, r.Done)
	}
	for line := range strings.SplitSeq(strings.TrimSpace(out.String()), "\n") {
		var e map[string]any
		require.True(t, line == "" || json.Unmarshal([]byte(line), &e) == nil, "%s: no JSON: %q", a.name, line)
	}
	if _, err := os.Stat(filepath.Join(c.h.dir, "state")); err != nil {
		t.Errorf("%s: %v", a.name, err)
	}
	return tree
}
