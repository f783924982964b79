package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// VM is a machine under software emulation, with the kernel of the host's own
// release and a disk of its own. Its power can be cut: what it had written and not
// flushed is lost then, as in a disk's own cache.
type VM struct {
	t              testing.TB
	dir            string
	kernel, initrd string
	cmd            *exec.Cmd
	in             io.Writer
	screen         *screen
}

// screen is what the machine has printed on its serial line.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// vmModules are what the kernel needs to see its disk, in order, and to show a jail
// as it will be.
func vmModules() []string {
	return []string{"drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev",
		"drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci", "drivers/block/virtio_blk", "fs/overlayfs/overlay"}
}

const vmInit = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc; /bin/busybox mount -t sysfs sysfs /sys; /bin/busybox mount -t devtmpfs dev /dev
for m in /m/*; do /bin/busybox insmod $m; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 600 ]; do /bin/busybox sleep 0.1; i=$((i+1)); done
/bin/busybox mount -t ext4 -o rw /dev/vda /newroot || { echo LAB no root; exec /bin/busybox sleep 1000; }
/bin/busybox mount --move /dev /newroot/dev; /bin/busybox mount --move /proc /newroot/proc; /bin/busybox mount --move /sys /newroot/sys
exec /bin/busybox switch_root /newroot /sbin/init
`

// NewVM makes a machine whose disk is an ext4 file system with the tree root in
// it. Needs root, and the packages of the programs that it names.
func NewVM(t testing.TB, root string) *VM {
	t.Helper()
	Need(t, "root", "apt", "dpkg-deb", "qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4", "loop")
	v := &VM{t: t, dir: ShmDir(t)}
	v.kernel, v.initrd = bootFiles(t)
	if err := os.WriteFile(v.disk(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(v.disk(), 1<<30); err != nil {
		t.Fatal(err)
	}
	mkfs, _ := lookPath("mkfs.ext4")
	if out, err := exec.Command(mkfs, "-q", "-F", "-d", root, v.disk()).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	t.Cleanup(v.kill)
	return v
}

func (v *VM) disk() string { return filepath.Join(v.dir, "disk") }

type bootSet struct{ Dir, Kernel, Initrd string }

// bootFiles gets the kernel package, by the name that the index has for it, and
// makes an initial root of what it takes to mount the disk.
func bootFiles(t testing.TB) (kernel, initrd string) {
	t.Helper()
	a := &apt{dir: filepath.Join(Cache(t), "apt")}
	var s bootSet
	err := withLock("kernel", func() (err error) {
		s, err = cached(filepath.Join(Cache(t), "kernel"), "kernel.json", func(s bootSet) string { return s.Dir }, a.bootSet)
		return err
	})
	orEnd(t, "a kernel for a virtual machine", err)
	return s.Kernel, s.Initrd
}

func (a *apt) bootSet(set string) (s bootSet, err error) {
	s.Dir = set
	arch, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		return s, err
	}
	stanzas, err := a.show("linux-image-cloud-" + strings.TrimSpace(string(arch)))
	if err != nil {
		return s, err
	}
	name := ""
	for _, st := range stanzas {
		for d := range strings.SplitSeq(st["Depends"], ",") {
			if n := strings.Fields(d); len(n) > 0 && strings.HasPrefix(n[0], "linux-image-") {
				name = n[0]
			}
		}
	}
	if name == "" {
		return s, errors.New("the index has no kernel for virtual machines")
	}
	if out, err := a.run(set, "apt-get", "-q", "download", name); err != nil {
		return s, fmt.Errorf("%w: %s", err, tail(out))
	}
	debs, _ := filepath.Glob(filepath.Join(set, "*.deb"))
	if len(debs) != 1 {
		return s, errors.New("no kernel was downloaded")
	}
	tree := filepath.Join(set, "tree")
	if err := unpack(debs[0], tree); err != nil {
		return s, err
	}
	kernels, _ := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if len(kernels) != 1 {
		return s, errors.New("the package of the kernel has none")
	}
	s.Kernel = filepath.Join(set, "vmlinuz")
	if err := os.Rename(kernels[0], s.Kernel); err != nil {
		return s, err
	}
	box, err := lookPath("busybox")
	if err != nil {
		return s, err
	}
	root := filepath.Join(set, "initrd")
	for _, d := range []string{"bin", "m", "proc", "sys", "dev", "newroot"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return s, err
		}
	}
	for i, m := range vmModules() {
		found, _ := filepath.Glob(filepath.Join(tree, "lib/modules/*/kernel", m+".ko*"))
		if len(found) == 0 {
			continue // built in, in another kernel
		}
		if err := os.Rename(found[0], filepath.Join(root, "m", fmt.Sprintf("%d-%s", i, filepath.Base(found[0])))); err != nil {
			return s, err
		}
	}
	data, err := os.ReadFile(box)
	if err != nil {
		return s, err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		return s, err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), []byte(vmInit), 0o755); err != nil {
		return s, err
	}
	s.Initrd = filepath.Join(set, "initrd.gz")
	if out, err := exec.Command("sh", "-c", `cd "$1" && find . | cpio --quiet -o -H newc | gzip -1 > "$2"`, "sh", root, s.Initrd).CombinedOutput(); err != nil {
		return s, fmt.Errorf("cpio: %w: %s", err, out)
	}
	return s, errors.Join(os.RemoveAll(tree), os.RemoveAll(root), os.Remove(debs[0]))
}

// Boot switches the machine on.
func (v *VM) Boot() {
	v.t.Helper()
	running, log := filepath.Join(v.dir, "running"), filepath.Join(v.dir, "log")
	for _, f := range []string{running, log} {
		if err := os.RemoveAll(f); err != nil {
			v.t.Fatal(err)
		}
	}
	if err := cloneSparse(v.disk(), running); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		v.t.Fatal(err)
	}
	qemu, _ := lookPath("qemu-system-x86_64")
	v.cmd = exec.Command(qemu, "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-smp", "2",
		"-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none", "-serial", "stdio",
		"-kernel", v.kernel, "-initrd", v.initrd, "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on systemd.show_status=0 systemd.log_target=journal",
		"-blockdev", "driver=file,node-name=disk0,filename="+running,
		"-blockdev", "driver=file,node-name=log0,filename="+log,
		"-blockdev", "driver=blklogwrites,node-name=d0,file=disk0,log=log0",
		"-device", "virtio-blk-pci,drive=d0,write-cache=on")
	v.screen = &screen{}
	v.cmd.Stdout, v.cmd.Stderr = v.screen, v.screen
	v.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	var err error
	if v.in, err = v.cmd.StdinPipe(); err != nil {
		v.t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
}

// Type sends a line to the machine's serial line.
func (v *VM) Type(line string) {
	v.t.Helper()
	if _, err := io.WriteString(v.in, line+"\n"); err != nil {
		v.t.Fatal(err)
	}
}

// Screen is what was printed since the machine was switched on.
func (v *VM) Screen() string { return v.screen.String() }

// Prints waits until the machine has printed a text, n times.
func (v *VM) Prints(within time.Duration, text string, n int) bool {
	return Within(within, func() bool { return strings.Count(v.Screen(), text) >= n })
}

// Cut takes the power away. What the machine had flushed is on the disk.
func (v *VM) Cut() {
	v.t.Helper()
	v.kill()
	if err := v.apply(v.disk()); err != nil {
		v.t.Fatal(err)
	}
}

func (v *VM) kill() {
	if v.cmd == nil {
		return
	}
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
	v.cmd = nil
}

// Look mounts the disk as it would be after a cut at this moment, and calls do
// with the folder. It belongs into a private mount namespace.
func (v *VM) Look(do func(root string)) {
	v.t.Helper()
	v.mounted(filepath.Join(v.dir, "look"), do)
}

// Twin is a second machine, switched off, whose disk is what a cut at this moment
// would leave of this one's, and then what change makes of it. It belongs into a
// private mount namespace.
func (v *VM) Twin(change func(root string)) *VM {
	v.t.Helper()
	twin := &VM{t: v.t, dir: ShmDir(v.t), kernel: v.kernel, initrd: v.initrd}
	v.t.Cleanup(twin.kill)
	v.mounted(twin.disk(), change)
	return twin
}

// mounted makes an image of the disk as it would be after a cut at this moment, and
// calls do with the folder on which it is mounted.
func (v *VM) mounted(image string, do func(root string)) {
	v.t.Helper()
	at := filepath.Join(v.dir, "mnt")
	err := os.RemoveAll(image)
	if err == nil {
		err = cloneSparse(v.disk(), image)
	}
	if err == nil && v.cmd != nil {
		err = v.apply(image)
	}
	if err == nil {
		err = os.MkdirAll(at, 0o755)
	}
	if err == nil {
		release := takeSlot(v.t)
		defer release()
		err = mountImage(image, at, "ext4")
	}
	if err != nil {
		v.t.Fatal(err)
	}
	defer unmountAll(v.t, at)
	do(at)
}

// Of the log that blklogwrites keeps, in the form of the kernel's
// device-mapper/log-writes: a header, then entries, each in sectors.
const (
	logMagic = 0x6a736677736872
	logFlush = 1
)

// apply writes to an image what the machine wrote up to its last flush.
func (v *VM) apply(image string) error {
	log, err := os.Open(filepath.Join(v.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	disk, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer disk.Close()
	var super struct {
		Magic, Version, Entries uint64
		Sector                  uint32
	}
	err = binary.Read(io.NewSectionReader(log, 0, 28), binary.LittleEndian, &super)
	if errors.Is(err, io.EOF) {
		return nil // empty: the machine has only just been switched on
	}
	if err != nil {
		return fmt.Errorf("cannot read the log of writes: %w", err)
	}
	if super.Magic != logMagic || super.Sector < 512 {
		return errors.New("cannot read the log of writes: it has another form")
	}
	sector := int64(super.Sector)
	type entry struct{ Sector, Sectors, Flags, Len uint64 }
	type write struct{ at, from, size int64 }
	var pending []write
	at := sector
	for range super.Entries {
		var e entry
		if err := binary.Read(io.NewSectionReader(log, at, 32), binary.LittleEndian, &e); err != nil {
			return fmt.Errorf("cannot read the log of writes: %w", err)
		}
		at += sector
		size := int64(e.Sectors) * sector
		if e.Flags&4 != 0 {
			size = 0 // a discard has no data: what was there may stay
		}
		if e.Flags&logFlush != 0 {
			for _, w := range pending {
				if _, err := io.Copy(io.NewOffsetWriter(disk, w.at), io.NewSectionReader(log, w.from, w.size)); err != nil {
					return err
				}
			}
			pending = nil
		}
		if size > 0 {
			pending = append(pending, write{int64(e.Sector) * sector, at, size})
			at += size
		}
	}
	return nil
}
