package jail

import "golang.org/x/sys/unix"

const (
	seccompNative  = unix.AUDIT_ARCH_X86_64
	seccompForeign = 0x40000000 // __X32_SYSCALL_BIT of asm/unistd.h: calls of the x32 ABI
	seccompMknod   = unix.SYS_MKNOD
)

// archRefused: ports of the machine (iopl(2)), and calls that other architectures
// never had.
var archRefused = []uint32{
	unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_CREATE_MODULE, unix.SYS_GET_KERNEL_SYMS,
	unix.SYS_QUERY_MODULE, unix.SYS_USELIB, unix.SYS__SYSCTL, unix.SYS_USTAT, unix.SYS_SYSFS,
}
