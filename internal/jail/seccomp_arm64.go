package jail

import "golang.org/x/sys/unix"

const (
	seccompNative  = unix.AUDIT_ARCH_AARCH64
	seccompForeign = 0
	seccompMknod   = 0 // there is mknodat(2) only
)

var archRefused = []uint32{}
