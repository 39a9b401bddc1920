package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// mountImage mounts an EROFS file read-only on the host. New kernels take the
// file itself; older ones a loop device, which goes with the mount.
func mountImage(image, dir string) error {
	err := unix.Mount(image, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "")
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.ENOTBLK) {
		return fmt.Errorf("cannot mount image %q: %w", image, err)
	}
	loop, err := attachLoop(image)
	if err != nil {
		return fmt.Errorf("cannot mount image %q: %w", image, err)
	}
	defer loop.Close()
	if err := unix.Mount(loop.Name(), dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("cannot mount image %q: %w", image, err)
	}
	return nil
}

// attachLoop gives image a free loop device that frees itself when unused.
func attachLoop(image string) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	file, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd())}
		config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody else was quicker
			return nil, err
		}
	}
}

// writeFiles puts the spec's files into a root that is mounted on the host.
// The tree is the image's and the machine's: os.Root keeps every link in it.
func writeFiles(dir string, files []sandbox.File) error {
	if len(files) == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open the writable layer: %w", err)
	}
	defer root.Close()
	for _, f := range files {
		if err := writeRootFile(root, f); err != nil {
			return fmt.Errorf("cannot put file %q: %w", f.Path, err)
		}
	}
	return nil
}

func writeRootFile(root *os.Root, f sandbox.File) error {
	name := filepath.Clean(f.Path)[1:]
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	mode := os.FileMode(f.Mode & 0o777)
	if mode == 0 {
		mode = 0o644
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	return errors.Join(err, out.Chown(int(f.UID), int(f.GID)), out.Chmod(mode), out.Close())
}
