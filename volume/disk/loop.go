package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loopMajor is the kernel's number for loop devices.
const loopMajor = 7

// attach returns a loop device over the image: the one that there is, for a second
// one would be a second file system over the same blocks, or a new one, which goes
// away when the last who has it open or mounted lets go of it.
func attach(image string) (*os.File, error) {
	for end := time.Now().Add(5 * time.Second); ; {
		f, err := loopOf(image)
		if f != nil || err != nil {
			return f, err
		}
		if f, err = configure(image); err == nil || !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return f, err
		}
	}
}

// configure takes a free loop device for the image. unix.EBUSY says that another
// was faster.
func configure(image string) (*os.File, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("this server has no loop devices: %w", err)
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("cannot get a loop device: %w", err)
	}
	dev, err := openLoop(n)
	if err != nil {
		return nil, err
	}
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		dev.Close()
		return nil, err
	}
	defer back.Close()
	conf := unix.LoopConfig{Fd: uint32(back.Fd()), Size: 4096}
	conf.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(conf.Info.File_name[:len(conf.Info.File_name)-1], image)
	if err := ioctl(dev, unix.LOOP_CONFIGURE, unsafe.Pointer(&conf)); err != nil {
		dev.Close()
		return nil, fmt.Errorf("cannot set up loop device %d: %w", n, err)
	}
	return dev, nil
}

// openLoop opens a loop device, and makes its node where nobody does.
func openLoop(n int) (*os.File, error) {
	path := "/dev/loop" + strconv.Itoa(n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot make %s: %w", path, err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	return f, err
}

// loopOf returns the loop device over the image, nil if there is none.
func loopOf(image string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return nil, err
	}
	used, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, path := range used {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(path))), "loop"))
		if err != nil || !backs(path, image) {
			continue
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		// It may have been let go of, and taken for something else, meanwhile.
		if info, err := unix.IoctlLoopGetStatus64(int(dev.Fd())); err == nil && info.Inode == st.Ino && sameDevice(info.Device, st.Dev) {
			return dev, nil
		}
		dev.Close()
	}
	return nil, nil
}

// backs reports whether the file of /sys names the image.
func backs(path, image string) bool {
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	name := strings.TrimSuffix(string(b), "\n")
	return filepath.Base(filepath.Dir(name)) == filepath.Base(filepath.Dir(image)) && filepath.Base(name) == filepath.Base(image)
}

// sameDevice compares a device number as the loop driver gives it, which is the
// kernel's own form cut to 32 bits, with that of stat.
func sameDevice(loop, stat uint64) bool {
	return loop == stat || uint32(loop) == unix.Major(stat)<<20|unix.Minor(stat) || uint32(loop) == unix.Major(stat)<<8|unix.Minor(stat)
}
