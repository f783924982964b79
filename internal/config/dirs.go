package config

import "path/filepath"

// Dirs are the folders that jailup keeps its things in, all absolute.
type Dirs struct {
	Config    string // config.yaml, jails.d/, recipes.d/
	State     string // journals, changesets, manifests, runs
	Cache     string // packages by digest
	Run       string // locks
	Snapshots string
}

// DefaultDirs returns the folders for the user uid. For root they are those of
// the Filesystem Hierarchy Standard, whatever the environment says. For anybody
// else they are those of the XDG Base Directory Specification; as it demands, a
// variable with a relative path counts as not set. Without HOME and without the
// variable that would do instead it is an error.
func DefaultDirs(uid int, getenv func(string) string) (Dirs, error) {
	if uid == 0 {
		return Dirs{
			Config:    "/etc/jailup",
			State:     "/var/lib/jailup",
			Cache:     "/var/cache/jailup",
			Run:       "/run/jailup",
			Snapshots: "/var/lib/jailup/snapshots",
		}, nil
	}
	var failed error
	home := getenv("HOME")
	in := func(variable, under string) string {
		if base := getenv(variable); filepath.IsAbs(base) {
			return filepath.Join(base, "jailup")
		}
		if !filepath.IsAbs(home) && failed == nil {
			failed = &Error{Cause: "cannot find a folder to work in: neither HOME nor " + variable + " is an absolute path",
				Help: "set HOME, or run jailup as root"}
		}
		return filepath.Join(home, under, "jailup")
	}
	d := Dirs{
		Config: in("XDG_CONFIG_HOME", ".config"),
		State:  in("XDG_STATE_HOME", ".local/state"),
		Cache:  in("XDG_CACHE_HOME", ".cache"),
	}
	d.Snapshots = filepath.Join(d.State, "snapshots")
	// The specification names no folder to fall back to; the state folder is
	// private to the user as well, and kernel locks need not vanish at logout.
	d.Run = filepath.Join(d.State, "run")
	if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		d.Run = filepath.Join(base, "jailup")
	}
	if failed != nil {
		return Dirs{}, failed
	}
	return d, nil
}
