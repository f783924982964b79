package steps

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
)

// dropPIDFile removes the PID file that a killed Apache has left. Apache does not
// start where a process has that number: another one by now, or its own master
// that nobody has reaped yet ("already running"). It is called where no process of
// the server is left. What is no small regular file with a number in it stays.
func (u *unit) dropPIDFile() {
	conf, err := u.configuration()
	if err != nil {
		return
	}
	apache, ok := conf.(apacheSite)
	if !ok || apache.PIDFile() == "" {
		return
	}
	root, unlink := u.e.Root, sys.Unlinkat
	if u.facts.Outside != nil {
		host, err := openHost()
		if err != nil {
			return
		}
		defer host.Close()
		root, unlink = host.OnHost(), sys.UnlinkatHost // the walls are around the jail
	}
	if err := removePIDFile(root, apache.PIDFile(), unlink); err != nil {
		u.e.note(event.Warning, "cannot remove the PID file that "+u.name()+" left: "+event.Clean(err.Error(), 300), "")
	}
}

func removePIDFile(root *jail.Root, p string, unlink func(dir int, name string, flags int) error) error {
	text, err := root.ReadFile(p, 64)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil || strings.Trim(string(text), "0123456789 \n") != "" {
		return err
	}
	d, base, err := root.OpenParent(p)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unlink(int(d.Fd()), base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
