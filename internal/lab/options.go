package lab

type jailConfig struct {
	merged, shm bool
	conf, dir   string
	port        int
	mpm         string
	extensions  []string
	tcp, stray  bool
	also        []string
}

// JailOption changes how a jail is built.
type JailOption func(*jailConfig)

// Merged gives the jail links lib, lib64, bin, sbin into usr, as a usr-merged
// system has; without it they are folders, as mkdir makes them.
func Merged() JailOption { return func(c *jailConfig) { c.merged = true } }

// WithConf sets a whole text: of /etc/nginx/nginx.conf where nginx serves, of
// the only site where apache does. In it, @PORT@ stands for the jail's port and
// @FASTCGI@ for where php-fpm listens, as nginx writes it.
func WithConf(text string) JailOption { return func(c *jailConfig) { c.conf = text } }

// InDir builds the jail as that folder, which must be empty or not be there,
// and leaves it there at the end: it is the caller's. Its processes end.
func InDir(dir string) JailOption { return func(c *jailConfig) { c.dir = dir } }

// InMemory builds the jail below /dev/shm, in a folder that goes with the
// test: much faster than many a disk.
func InMemory() JailOption { return func(c *jailConfig) { c.shm = true } }

// Port sets the port; without it, it is a free one.
func Port(n int) JailOption { return func(c *jailConfig) { c.port = n } }

// MPM sets apache's way to serve: "event" (without this option) or "prefork".
func MPM(name string) JailOption { return func(c *jailConfig) { c.mpm = name } }

// Extensions adds extensions of PHP, named as their packages are without
// "php-" ("mysql", "gd", "imap", "memcached"), to those that PHP's own packages
// bring in any case. They are enabled as phpenmod does it. The packages must be
// among those that the jail is built from.
func Extensions(names ...string) JailOption {
	return func(c *jailConfig) { c.extensions = append(c.extensions, names...) }
}

// OverTCP lets php-fpm listen on a free port of 127.0.0.1 instead of the unix
// socket that Debian's configuration names.
func OverTCP() JailOption { return func(c *jailConfig) { c.tcp = true } }

// StrayLibc adds copies of libc.so.6 and of the program interpreter right in
// /lib, beside those that are in use, as people get them by copying.
func StrayLibc() JailOption { return func(c *jailConfig) { c.stray = true } }

// Also copies more out of the packages, a folder whole and links as links, a
// program or library with the libraries that it needs.
func Also(paths ...string) JailOption {
	return func(c *jailConfig) { c.also = append(c.also, paths...) }
}

func config(opts []JailOption) jailConfig {
	c := jailConfig{mpm: "event"}
	for _, o := range opts {
		o(&c)
	}
	return c
}
