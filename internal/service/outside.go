package service

import "github.com/jailup/jailup/internal/jail"

// Outside says that the master runs outside the jail, with the root of the host,
// and puts its children into the jail: Apache's ChrootDir. All paths of the Spec
// are then of the host: Executables, Start and PIDFiles. Start runs the command on
// the host.
//
// A master is the server only if one of its children has the jail as its root, or
// had when it was last looked for. For the moments in which it has no children,
// Spec.PIDFiles are a hint: they must come from a configuration that names this
// jail in ChrootDir, not from the recipe. Every other server of the host from the
// same executable is a bystander.
func Outside() Option { return func(c *ProcessController) { c.outside = true } }

// Outer is a server outside a jail that has put processes into it.
type Outer struct {
	Master Process
	// Exe is the path on the host of the program that it runs, as the kernel
	// tells it; of a program that was replaced since, the path it had.
	Exe string
	// Argv is its command line; the first word is Exe. nil if it cannot be told
	// (it shows a title).
	Argv []string
	// Inside are its processes whose root is the jail.
	Inside []Process
}

// Chrooted looks for servers outside a jail that have put processes into it: a
// process whose root is the jail, whose parent has another root, and both run the
// same file. That is so for Apache's ChrootDir, and not for what was started by
// chroot(8). Names are the last names of executables to look for ("apache2",
// "httpd"); none: any. The result is ordered by age, the oldest first, and empty if there is
// none. Needs the right to look into all processes; those that it may not look
// into are left out.
func Chrooted(root *jail.Root, names ...string) ([]Outer, error) { return nil, nil }
