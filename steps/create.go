package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/fileset"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/manifest"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
)

// Create builds a new file jail at dir, which must not exist or be an empty
// directory. It is built under another name beside it and gets its own when it
// is whole; on an error nothing is left. What a killed one left there goes first.
//
// enter is called with the whole jail before it gets its name, and makes its
// manifest durable where it will be looked for: a crash at any instant leaves no
// jail at dir, or one that is known as whole. The function it returns, not nil
// where its error is nil, takes that back; it is called where the jail does not
// get its name after all.
func Create(ctx context.Context, e *Env, dir, listen string, enter func(*jail.Root, *manifest.Manifest) (func() error, error)) (m *manifest.Manifest, err error) {
	if listen == "" {
		listen = e.Recipe.Create.Listen
	}
	if listen != "" {
		if err := recipes.CheckListen(listen); err != nil {
			return nil, fail(ErrUsage, "", "cannot create a jail: --listen: %w", err)
		}
	}
	parent, err := prepareParent(dir)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := sys.SweepTemp(parent, isNewJail); err != nil {
		e.note(event.Warning, err.Error(), "")
	}
	base := filepath.Base(dir)
	tmp := "." + base + newJail + e.Run
	step := func(name string, do func() error) error {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		e.Events.StepStart(name)
		began := time.Now()
		if err := do(); err != nil {
			return err
		}
		e.Events.StepDone(name, time.Since(began), "")
		return nil
	}
	b := &builder{e: e, listen: listen}
	defer func() {
		rerr := errors.Join(b.dropStage(parent, tmp), sys.RemoveTree(int(parent.Fd()), tmp))
		for _, f := range b.locks {
			f.Close()
		}
		if err == nil && rerr != nil {
			e.note(event.Warning, rerr.Error(), "")
		}
	}()
	if err := step("resolve", func() error { return e.resolveTarget(ctx) }); err != nil {
		return nil, err
	}
	if err := step("fetch", func() error { return e.fetchTarget(ctx) }); err != nil {
		return nil, err
	}
	err = step("build", func() error { return b.build(ctx, filepath.Join(parent.Name(), tmp), parent, tmp) })
	if b.root != nil {
		defer b.root.Close()
	}
	if err != nil {
		return nil, err
	}
	if err := step("rehearse", func() error { return b.test(ctx) }); err != nil {
		return nil, err
	}
	err = step("commit", func() error {
		if err := b.dropStage(parent, tmp); err != nil {
			return err
		}
		if err := sys.Fchmod(b.root.Fd(), 0o755); err != nil {
			return err
		}
		if err := sys.Syncfs(b.root.Fd()); err != nil {
			return err
		}
		forget, err := enter(b.root, b.manifest)
		if err != nil {
			return err
		}
		// rename(2): an empty directory is replaced, anything else that appeared
		// meanwhile is an error.
		if err := sys.Renameat2(int(parent.Fd()), tmp, int(parent.Fd()), base, 0); err != nil {
			return errors.Join(fmt.Errorf("cannot create jail %s: %w", dir, err), forget())
		}
		return sys.FsyncDir(int(parent.Fd()))
	})
	return b.manifest, err
}

// A new jail is built in .NAME.jailup-new-RUN, from the files in a folder with
// -stage behind that.
const newJail = ".jailup-new-"

var newJailName = lazyregexp.New(`^\..+\.jailup-new-` + RunPattern + `(-stage)?$`)

// RunPattern is what a run's id looks like, as a regular expression.
const RunPattern = `[0-9]{8}T[0-9]{6}Z-[0-9a-f]{7}`

// NewJailNames is the regular expression of the names under which a jail is built.
func NewJailNames() string { return newJailName.String() }

func isNewJail(name string) bool { return newJailName.MatchString(name) }

// Vacant tells whether a jail can be created at dir: nothing is there, or an
// empty directory.
func Vacant(dir string) bool {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil || !info.IsDir() {
		return false
	}
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// prepareParent refuses a place that is taken, and opens the folder that will
// hold the jail.
func prepareParent(dir string) (*os.File, error) {
	if !Vacant(dir) {
		info, err := os.Lstat(dir)
		switch {
		case err != nil:
			return nil, fmt.Errorf("cannot create jail %s: %w", dir, err)
		case !info.IsDir():
			return nil, fail(nil, "", "cannot create jail %s: it is no directory", dir)
		}
		return nil, fail(nil, "to upgrade what is there: jailup upgrade SERVER --jail "+dir, "cannot create jail %s: the directory is not empty", dir)
	}
	if err := sys.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	parent, err := jail.Open(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if there, err := jail.Open(dir); err == nil {
		defer there.Close()
		if there.MountID() != parent.MountID() {
			return nil, fail(nil, "give a folder below it", "cannot create jail %s: it is a mount point, and a jail gets its name when it is whole", dir)
		}
	}
	return sys.OpenDir(parent.Path())
}

// builder fills one new jail.
type builder struct {
	e        *Env
	listen   string
	root     *jail.Root
	manifest *manifest.Manifest
	made     []manifest.File
	locks    []*os.File // of the temporary folders; see sys.MakeTemp
}

// dropStage removes the files that are not in the jail. A second call is fine.
func (b *builder) dropStage(parent *os.File, tmp string) error {
	if b.e.stage != nil {
		b.e.stage.Close()
		b.e.stage = nil
	}
	return sys.RemoveTree(int(parent.Fd()), tmp+"-stage")
}

// folder makes a temporary folder that is swept when this process has died.
func (b *builder) folder(parent *os.File, name string) error {
	f, err := sys.MakeTemp(parent, name)
	if err == nil {
		b.locks = append(b.locks, f)
	}
	return err
}

func (b *builder) build(ctx context.Context, tmp string, parent *os.File, name string) error {
	e := b.e
	if err := b.folder(parent, name); err != nil {
		return fmt.Errorf("cannot create the jail: %w", err)
	}
	root, err := jail.Open(tmp)
	if err != nil {
		return err
	}
	b.root, e.Root = root, root
	if err := b.skeleton(); err != nil {
		return fmt.Errorf("cannot create the jail: %w", err)
	}
	if err := b.folder(parent, name+"-stage"); err != nil {
		return fmt.Errorf("cannot create the jail: %w", err)
	}
	if e.stage, err = fileset.OpenStage(tmp + "-stage"); err != nil {
		return err
	}
	world, err := e.unpack(ctx)
	if err != nil {
		return err
	}
	e.sel, err = fileset.Select(ctx, fileset.Input{Root: root, Recipe: e.next(), World: world, Stage: e.stage, Whole: true})
	if err != nil {
		return setIDHint(err)
	}
	if e.set, err = changeset.Compute(root, e.sel.Input); err != nil {
		return err
	}
	if err := e.checkELF(ctx); err != nil {
		return err
	}
	w, err := changeset.NewWorker(root, e.stage.Dir(), e.set)
	if err != nil {
		return err
	}
	defer w.Close()
	w.Unsynced = true // one sync at the end is for all
	if err := w.Install(ctx); err != nil {
		return err
	}
	// After the packages, whose directories may be the same.
	if err := b.recipe(); err != nil {
		return fmt.Errorf("cannot create the jail: %w", err)
	}
	b.manifest = e.sel.Manifest
	b.manifest.Run, b.manifest.Target, b.manifest.Time = e.Run, e.target.Digest(), time.Now().UTC()
	e.noteParts(b.manifest)
	shipped := b.manifest.Index()
	for _, f := range b.made {
		// What a package ships and the recipe changes is a change like an
		// administrator's: it is kept.
		if _, ok := shipped[f.Path]; !ok {
			b.manifest.Files = append(b.manifest.Files, f)
		}
	}
	return nil
}

func (b *builder) test(ctx context.Context) error {
	if !b.e.Options.Rehearse {
		return nil
	}
	for _, r := range b.e.next().Servers() {
		u := newUnit(b.e, r)
		test := u.testArgv(after)
		if len(test) == 0 {
			continue
		}
		res, err := b.root.Run(ctx, jail.Box{Argv: u.loudly(test), Env: u.environment()})
		if err != nil {
			return &Error{Err: fmt.Errorf("cannot test the new jail: %w", err), Hint: "to go without the test: --rehearse=false"}
		}
		if fails := u.failures(res); len(fails) > 0 {
			return fmt.Errorf("cannot create the jail: %s fails in it: %s", strings.Join(test, " "), strings.Join(fails, "; "))
		}
	}
	return nil
}

// skeleton makes what is there before any package: a usr-merged root.
func (b *builder) skeleton() error {
	for _, d := range []string{"/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/etc", "/var", "/etc/ssl", "/etc/ssl/certs"} {
		if err := b.dir(d, 0o755, 0, 0); err != nil {
			return err
		}
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := b.link("/"+l, "usr/"+l); err != nil {
			return err
		}
	}
	if zone, err := os.Readlink("/etc/localtime"); err == nil && strings.Contains(zone, "/zoneinfo/") {
		return b.link("/etc/localtime", zone)
	}
	return b.link("/etc/localtime", "/usr/share/zoneinfo/UTC")
}

// recipe makes what the recipe wants beside the packages' files: users and
// groups (these and no others), folders, files, devices.
func (b *builder) recipe() error {
	c := b.e.next().Create
	uids, gids := map[string]int{"": 0}, map[string]int{"": 0}
	var passwd, group strings.Builder
	for _, u := range c.Users {
		uids[u.Name] = u.UID
		fmt.Fprintf(&passwd, "%s:x:%d:%d::%s:%s\n", u.Name, u.UID, u.GID, u.Home, u.Shell)
	}
	for _, g := range c.Groups {
		gids[g.Name] = g.GID
		fmt.Fprintf(&group, "%s:x:%d:\n", g.Name, g.GID)
	}
	for _, d := range c.Dirs {
		if err := b.dir(d.Path, d.Perm(), uids[d.Owner], gids[d.Group]); err != nil {
			return err
		}
	}
	for _, l := range c.Links {
		if err := b.link(l.Path, l.To); err != nil {
			return err
		}
	}
	files := map[string]string{
		"/etc/passwd":        passwd.String(),
		"/etc/group":         group.String(),
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
		"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost ip6-localhost\n",
		"/etc/resolv.conf":   hostResolvConf(),
	}
	with := map[string]bool{}
	for _, p := range b.e.next().Parts() {
		with[p.Name] = true
	}
	for _, p := range b.e.next().Parts() { // the main one last
		v := recipes.Values{With: with}
		if p.Name == b.e.Recipe.Name {
			v.Listen = b.listen
		}
		for _, f := range p.Create.Files {
			text, err := f.Render(v)
			if err != nil {
				return err
			}
			files[f.Path] = text
		}
	}
	for _, p := range sortedKeys(files) {
		if err := b.file(p, files[p], 0o644); err != nil {
			return err
		}
	}
	return b.devices()
}

// hostResolvConf gives the jail the host's name servers.
func hostResolvConf() string {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || len(data) > 64<<10 {
		return ""
	}
	return string(data)
}

func (b *builder) at(p string) (*os.File, string, error) { return b.root.OpenParent(p) }

// dir makes a directory and its missing parents; one that is there gets mode and
// owner.
func (b *builder) dir(p string, perm uint32, uid, gid int) error {
	if up := path.Dir(p); up != "/" && !b.root.Exists(up) {
		if err := b.dir(up, 0o755, 0, 0); err != nil {
			return err
		}
	}
	d, base, err := b.at(p)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.Mkdirat(int(d.Fd()), base, perm); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := sys.Fchownat(int(d.Fd()), base, uid, gid); err != nil {
		return err
	}
	return sys.Fchmodat(int(d.Fd()), base, perm)
}

func (b *builder) link(p, to string) error {
	d, base, err := b.at(p)
	if err != nil {
		return err
	}
	defer d.Close()
	err = sys.Symlinkat(to, int(d.Fd()), base)
	if errors.Is(err, unix.EEXIST) {
		return nil // a package brought it
	}
	b.made = append(b.made, manifest.File{Path: p, Mode: unix.S_IFLNK | 0o777, Link: to})
	return err
}

func (b *builder) file(p, text string, perm uint32) error {
	if up := path.Dir(p); !b.root.Exists(up) {
		if err := b.dir(up, 0o755, 0, 0); err != nil {
			return err
		}
	}
	d, base, err := b.at(p)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.PutFileAt(int(d.Fd()), base, []byte(text), os.FileMode(perm)); err != nil {
		return err
	}
	sum, err := hash(strings.NewReader(text))
	if err != nil {
		return err
	}
	b.made = append(b.made, manifest.File{Path: p, Mode: unix.S_IFREG | perm, Size: int64(len(text)), SHA256: sum, Conf: true})
	return nil
}

// devices are the nodes that programs in a jail cannot do without.
func (b *builder) devices() error {
	if err := b.dir("/dev", 0o755, 0, 0); err != nil {
		return err
	}
	for _, n := range []struct {
		name  string
		minor uint32
	}{{"null", 3}, {"zero", 5}, {"random", 8}, {"urandom", 9}} {
		d, base, err := b.at("/dev/" + n.name)
		if err != nil {
			return err
		}
		err = sys.Mknodat(int(d.Fd()), base, unix.S_IFCHR|0o666, unix.Mkdev(1, n.minor))
		d.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
