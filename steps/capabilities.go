package steps

import "golang.org/x/sys/unix"

// MissingCapabilities names what it takes to exchange files of any owner, to signal a
// server and to start it in its jail, and this process has not; nil where the kernel
// does not say.
func MissingCapabilities() []string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if unix.Capget(&header, &have[0]) != nil {
		return nil // the kernel does not say; the steps will
	}
	var lacks []string
	for _, c := range []struct {
		bit  uint
		name string
	}{
		{unix.CAP_CHOWN, "CAP_CHOWN"},
		{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
		{unix.CAP_FOWNER, "CAP_FOWNER"},
		{unix.CAP_KILL, "CAP_KILL"},
		{unix.CAP_SETGID, "CAP_SETGID"},
		{unix.CAP_SETUID, "CAP_SETUID"},
		{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	} {
		if have[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			lacks = append(lacks, c.name)
		}
	}
	return lacks
}
