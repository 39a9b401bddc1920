package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrMounted says that the kernel does not let the disk grow while it is mounted.
// Its image is larger already; the next Grow does the rest, at the latest after
// Unmount.
var ErrMounted = errors.New("the kernel does not let it grow while it is in use")

// errNoRight is why it mostly does not. No other way leads around it: the kernel asks
// for the right of whoever calls, in the initial user namespace.
var errNoRight = fmt.Errorf("%w: the node's daemon lacks CAP_SYS_RESOURCE", ErrMounted)

// GrowsMounted reports whether this process may let a disk grow that is mounted.
func GrowsMounted() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	err := unix.Capget(&head, &caps[0])
	return err == nil && caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// resizeFS is EXT4_IOC_RESIZE_FS: to so many blocks.
const resizeFS = 0x40086610

// Grow makes the disk size bytes large; one that is as large already stays as it
// is, and none ever shrinks. It may be repeated after a crash. ErrMounted says
// that it has to be unmounted first.
func (d *Disk) Grow(ctx context.Context, size int64) error {
	if !d.Mounted() {
		return d.growOffline(ctx, size)
	}
	if err := d.stretch(size); err != nil {
		return err
	}
	if err := d.widen(); err != nil {
		return fmt.Errorf("%w: its loop device does not: %w", ErrMounted, err)
	}
	f, err := os.Open(d.mnt())
	if err != nil {
		return err
	}
	defer f.Close()
	blocks := uint64(size / 4096)
	switch err := ioctl(f, resizeFS, unsafe.Pointer(&blocks)); {
	case errors.Is(err, unix.EPERM) && !GrowsMounted():
		return errNoRight
	case err != nil:
		return fmt.Errorf("%w: %w", ErrMounted, err)
	}
	return unix.Syncfs(int(f.Fd()))
}

// widen tells the loop device that its image is longer.
func (d *Disk) widen() error {
	loop, err := loopOf(d.Image())
	if err == nil && loop == nil {
		err = errors.New("it is not to be found")
	}
	if err != nil {
		return err
	}
	defer loop.Close()
	return unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0)
}

// growOffline grows a file system that is not mounted. The kernel's own growing
// needs a right that not every host gives; these tools need none.
func (d *Disk) growOffline(ctx context.Context, size int64) error {
	if err := d.mend(ctx); err != nil {
		return err
	}
	fi, err := os.Stat(d.Image())
	if err != nil {
		return err
	}
	if blocks, err := d.blocks(); err != nil || fi.Size() >= size && blocks*4096 >= size {
		return err
	}
	if err := d.stretch(size); err != nil {
		return err
	}
	if err := d.check(ctx); err != nil {
		return err
	}
	return run(ctx, d.Image(), "resize2fs", d.Image())
}

// stretch makes the image longer, never shorter.
func (d *Disk) stretch(size int64) error {
	f, err := os.OpenFile(d.Image(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() >= size {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync())
}

// blocks reads from the superblock how many the file system has.
func (d *Disk) blocks() (int64, error) {
	f, err := os.Open(d.Image())
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sb, err := readSuperblock(f)
	if err != nil {
		return 0, err
	}
	return sb.blocks(), nil
}
