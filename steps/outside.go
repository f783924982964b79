package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/service"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/internal/wall"
	"github.com/jailup/jailup/internal/webconf"
	"github.com/jailup/jailup/recipes"
)

// Outside is a server that runs on the host and puts only its children into the
// jail: Apache's ChrootDir. Program, modules and configuration are the host's; in
// the jail lie its pages and what the children load or look up late. What is in
// it is root's, and may start a program of the host as root.
type Outside struct {
	Server   string   `json:"server"`        // the recipe's name
	Exe      string   `json:"exe"`           // on the host
	Argv     []string `json:"argv"`          // Exe first
	Env      []string `json:"env,omitempty"` // see hostEnviron
	Main     string   `json:"main"`          // configuration file
	PIDFiles []string `json:"pid_files,omitempty"`
}

// FindOutside looks for a server outside of a jail that puts its children into it:
// among the processes, in what an earlier run of jailup has noted in stateDir (""
// for none), and in the host's own configuration. nil, without an error, where
// there is none. r is the server that is asked for; the recipe returned is that
// one, or the one that it goes along with.
func FindOutside(set *recipes.Set, r *recipes.Recipe, root *jail.Root, stateDir string) (*recipes.Recipe, *Outside, error) {
	for _, m := range set.All() {
		along := slices.ContainsFunc(set.Companions(m), func(c *recipes.Recipe) bool { return c.Name == r.Name })
		if len(m.Outside.Packages) == 0 || m.Name != r.Name && !along {
			continue
		}
		o, err := findOutside(m, root, stateDir)
		if err != nil || o != nil {
			return m, o, err
		}
	}
	return nil, nil, nil
}

func findOutside(r *recipes.Recipe, root *jail.Root, stateDir string) (*Outside, error) {
	o, err := runningOutside(r, root)
	if o != nil || err != nil {
		return o, err
	}
	if Holds(root, r) {
		return nil, nil // it has a server of its own
	}
	host, err := openHost()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	for _, o := range []*Outside{notedOutside(stateDir, r), usualOutside(r, host)} {
		if o != nil && trusted(o.Exe) == nil && o.read(host, r, root) == nil {
			return o, nil
		}
	}
	return nil, nil
}

// openHost opens the host's tree, to read its configuration and libraries.
func openHost() (*jail.Root, error) { return jail.Open("/") }

// runningOutside finds it by its processes.
func runningOutside(r *recipes.Recipe, root *jail.Root) (*Outside, error) {
	found, err := service.Chrooted(root, programNames(r)...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if len(found) > 1 {
		return nil, fail(nil, "", "cannot tell which one is %s: processes %s and %s of the host both have children in jail %s",
			r.Name, found[0].Master.String(), found[1].Master.String(), root.Path())
	}
	master := found[0].Master
	if master.UID != 0 {
		// Whoever has a user namespace can put processes into any directory.
		return nil, fail(nil, "", "cannot work on jail %s: process %s has children in it and is not root's", root.Path(), master.String())
	}
	o := &Outside{Server: r.Name, Exe: found[0].Exe, Argv: found[0].Argv}
	if err := trusted(o.Exe); err != nil {
		return nil, fail(nil, "", "cannot work on %s of process %s: %w", r.Name, master.String(), err)
	}
	if len(o.Argv) == 0 {
		o.Argv = append([]string{o.Exe}, r.Service.Start[min(1, len(r.Service.Start)):]...)
	}
	env, err := service.Environ(master)
	if err != nil {
		return nil, err
	}
	o.Env = hostEnviron(env)
	host, err := openHost()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := o.read(host, r, root); err != nil {
		return nil, &Error{Err: err, Hint: "it runs, but would not come back as it is: look at " + event.Clean(o.Main, 200)}
	}
	return o, nil
}

// programNames are the last names of a server's program.
func programNames(r *recipes.Recipe) []string {
	out := append([]string{r.Name}, r.Aliases...)
	for _, x := range r.Executables {
		out = append(out, path.Base(x))
	}
	return out
}

// trusted refuses a program that others than root may write to, or put another one
// in the place of: it is started as root.
func trusted(exe string) error {
	real, err := filepath.EvalSymlinks(exe)
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", exe, err)
	}
	for p := real; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return fmt.Errorf("cannot look at %s: %w", exe, err)
		}
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
		if st.Uid != 0 || st.Mode&0o002 != 0 && !sticky || st.Mode&0o020 != 0 && st.Gid != 0 && !sticky {
			return fmt.Errorf("cannot trust %s: others than root may write to %s", exe, p)
		}
		if p == "/" || p == "." {
			return nil
		}
	}
}

// read finds the configuration of the server, and proves that with it the children
// are put into this jail. It notes the configuration file and the PID file.
func (o *Outside) read(host *jail.Root, r *recipes.Recipe, root *jail.Root) error {
	if err := o.findMain(r); err != nil {
		return err
	}
	conf, err := o.site(host, o.Argv, o.Env)
	if err != nil {
		return err
	}
	dir := conf.ChrootDir()
	if dir == "" {
		return fmt.Errorf("cannot work on %s: its configuration %s names no ChrootDir", o.Server, event.Clean(o.Main, 200))
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("cannot work on %s: ChrootDir %s of %s: %w", o.Server, event.Clean(dir, 200), event.Clean(o.Main, 200), err)
	}
	if dev, ino := root.DevIno(); uint64(st.Dev) != dev || st.Ino != ino {
		return fmt.Errorf("cannot work on %s: ChrootDir of %s is %s, and not jail %s", o.Server, event.Clean(o.Main, 200), event.Clean(dir, 200), root.Path())
	}
	if p := conf.PIDFile(); p != "" {
		o.PIDFiles = []string{p}
	}
	return nil
}

// findMain finds the configuration file: that of the command line, that of the
// recipe for the recipe's own program, else the one that the program says is
// built in.
func (o *Outside) findMain(r *recipes.Recipe) error {
	c := r.Configuration
	main, dir := optionOf(o.Argv, c.Option), optionOf(o.Argv, "-d")
	if !filepath.IsAbs(main) && (main == "" || dir == "") {
		if slices.Contains(r.Executables, o.Exe) {
			if main == "" {
				main = c.Main
			}
			if dir == "" {
				dir = filepath.Dir(c.Main)
			}
		} else {
			builtRoot, builtMain, err := o.builtIn()
			if err != nil {
				return err
			}
			if main == "" {
				main = builtMain
			}
			if dir == "" {
				dir = builtRoot
			}
		}
	}
	if !filepath.IsAbs(main) {
		main = filepath.Join(dir, main)
	}
	if !filepath.IsAbs(main) {
		return fmt.Errorf("cannot find the configuration of %s: %s is not absolute", o.Server, event.Clean(main, 200))
	}
	o.Main = main
	return nil
}

var (
	builtRootRE = lazyregexp.New(`-D HTTPD_ROOT="([^"]*)"`)
	builtMainRE = lazyregexp.New(`-D SERVER_CONFIG_FILE="([^"]*)"`)
)

// builtIn asks the program where its configuration is.
func (o *Outside) builtIn() (root, main string, err error) {
	out, err := o.ask(context.Background(), "-V")
	if err != nil {
		return "", "", err
	}
	r, m := builtRootRE.FindSubmatch(out), builtMainRE.FindSubmatch(out)
	if r == nil || m == nil {
		return "", "", fmt.Errorf("cannot find the configuration of %s: %s -V does not tell it", o.Server, o.Exe)
	}
	return string(r[1]), string(m[1]), nil
}

// askTime bounds a question to the program.
const askTime = 30 * time.Second

// ask runs the host's program to its end with these arguments and returns what it
// prints. A program that says no is an *exec.ExitError.
func (o *Outside) ask(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.Exe, args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", o.Env, time.Second
	var out []byte
	err := wall.Host(func() (err error) { // it is a program of the host
		out, err = cmd.CombinedOutput()
		return err
	})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("cannot ask %s: %w", o.Exe, err)
	}
	return out, err
}

// site reads the configuration on the host.
func (o *Outside) site(host confFiles, argv, env []string) (apacheSite, error) {
	a, err := webconf.ReadApache(host, o.Main, webconf.ApacheOptions{
		Env: variables(env), ServerRoot: optionOf(argv, "-d"), Defines: optionsOf(argv, "-D"),
	})
	return apacheSite{a}, err
}

// usualOutside is the server as the host's packages start it.
func usualOutside(r *recipes.Recipe, host *jail.Root) *Outside {
	for _, x := range r.Executables {
		if _, err := host.Stat(x); err != nil {
			continue
		}
		o := &Outside{Server: r.Name, Exe: x, Argv: append([]string{x}, r.Service.Start[min(1, len(r.Service.Start)):]...)}
		if vars, err := webconf.ReadEnvVars(host, r.Configuration.Environment); err == nil {
			for _, name := range sortedKeys(vars) {
				o.Env = append(o.Env, name+"="+vars[name])
			}
		}
		o.Env = hostEnviron(o.Env)
		return o
	}
	return nil
}

const outsideFile = "outside.json"

// notedOutside is what an earlier run has noted.
func notedOutside(stateDir string, r *recipes.Recipe) *Outside {
	if stateDir == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(stateDir, outsideFile))
	if err != nil {
		return nil
	}
	var o Outside
	if json.Unmarshal(data, &o) != nil || o.Server != r.Name || !filepath.IsAbs(o.Exe) || len(o.Argv) == 0 || o.Argv[0] != o.Exe {
		return nil
	}
	return &o
}

// note remembers the server for the time when it is down.
func (o *Outside) note(stateDir string) error {
	data, err := json.MarshalIndent(o, "", " ")
	if err != nil {
		return err
	}
	return sys.WriteFileAtomic(filepath.Join(stateDir, outsideFile), append(data, '\n'), 0o600)
}

// maxHostEnv bounds what is kept of a server's environment, in bytes.
const maxHostEnv = 16 << 10

// hostEnviron is what a server on the host is started with again: all that it was
// started with. It is the administrator's own and not the jail's, so that what
// changes which code it runs (LD_LIBRARY_PATH) counts. Left out are what ties it to
// whoever started it then (sockets, the session of a person), and, of one that is
// very large, the longest values.
func hostEnviron(env []string) []string {
	var out []string
	size := 0
	for _, v := range env {
		name, value, ok := strings.Cut(v, "=")
		if !ok || !variableRE.MatchString(name) || ofSession.MatchString(name) || strings.ContainsRune(value, 0) || len(v) > maxHostEnv/4 {
			continue
		}
		if size += len(v); size > maxHostEnv {
			break
		}
		out = append(out, v)
	}
	return out
}

var (
	variableRE = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
	ofSession  = lazyregexp.New(`^(JAILUP_.*|LISTEN_.*|SUDO_.*|SSH_.*|XDG_.*|BASH_FUNC_.*|NOTIFY_SOCKET|WATCHDOG_PID|WATCHDOG_USEC|MAINPID|INVOCATION_ID|JOURNAL_STREAM|PWD|OLDPWD|SHLVL|_)$`)
)
