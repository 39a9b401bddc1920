package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/perigee-run/perigee/internal/durable"
	"golang.org/x/sys/unix"
)

// GiB is the unit of a volume's size.
const GiB = int64(1) << 30

// Disk is a volume's folder. Its methods must not run at the same time, but for
// Usage.
type Disk struct{ dir string }

// At is the disk in the folder dir, whether it is there or not. Its path must be
// absolute.
func At(dir string) *Disk { return &Disk{dir} }

// Image is the path of the file that holds the file system.
func (d *Disk) Image() string { return filepath.Join(d.dir, "image") }

// Data is the path of what the machine sees, while the disk is mounted.
func (d *Disk) Data() string { return filepath.Join(d.mnt(), "data") }

func (d *Disk) mnt() string { return filepath.Join(d.dir, "mnt") }

// Create makes the disk, size bytes large, all or nothing: when it has returned
// nil the disk survives a crash.
func (d *Disk) Create(ctx context.Context, size int64, key Key) error {
	return d.make(func(half *Disk) error {
		if err := half.format(ctx, size); err != nil {
			return err
		}
		return half.prepare(ctx, key)
	})
}

// CreatePlain is Create for a disk that is not encrypted, for MountPlain.
func (d *Disk) CreatePlain(ctx context.Context, size int64) error {
	return d.make(func(half *Disk) error {
		if err := half.format(ctx, size); err != nil {
			return err
		}
		if err := half.MountPlain(ctx); err != nil {
			return err
		}
		return errors.Join(os.Mkdir(half.Data(), 0o755), half.Unmount(ctx))
	})
}

// CreateFrom makes the disk of a copy of another one's image, which it takes
// away, and lets it grow to size bytes.
func (d *Disk) CreateFrom(ctx context.Context, image string, size int64) error {
	return d.make(func(half *Disk) error {
		if err := os.Rename(image, half.Image()); err != nil {
			return err
		}
		return half.growOffline(ctx, size)
	})
}

// make builds the disk in a folder beside its own and then puts it in place.
func (d *Disk) make(build func(half *Disk) error) error {
	half := At(d.dir + ".new")
	if err := half.Remove(); err != nil {
		return err
	}
	err := os.MkdirAll(half.mnt(), 0o700)
	if err == nil {
		err = build(half)
	}
	if err == nil {
		err = durable.Sync(half.dir)
	}
	if err == nil {
		err = durable.Rename(half.dir, d.dir)
	}
	if err != nil {
		return errors.Join(err, half.Remove())
	}
	return nil
}

// format writes an empty file system that can be encrypted. No blocks are kept
// for root: a machine's root is nobody here.
func (d *Disk) format(ctx context.Context, size int64) error {
	f, err := os.OpenFile(d.Image(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	return run(ctx, d.Image(), "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-O", "encrypt", "-E", "nodiscard", d.Image())
}

// prepare makes the encrypted folder in a new file system.
func (d *Disk) prepare(ctx context.Context, key Key) error {
	if err := d.Mount(ctx, key); err != nil {
		return err
	}
	err := os.Mkdir(d.Data(), 0o755)
	if err == nil {
		err = encrypt(d.mnt(), d.Data(), key)
	}
	return errors.Join(err, d.Unmount(ctx))
}

// Exists reports whether the disk was made.
func (d *Disk) Exists() bool {
	_, err := os.Stat(d.Image())
	return err == nil
}

// Remove unmounts the disk and deletes it; one that is not there is no error. When it
// has returned nil the disk does not come back after a crash.
func (d *Disk) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Unmount(ctx); err != nil {
		return err
	}
	// The image first: a folder without one is nothing.
	if err := os.Remove(d.Image()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return err
	}
	if err := durable.Sync(filepath.Dir(d.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Mounted reports whether the disk is mounted.
func (d *Disk) Mounted() bool {
	var in, on unix.Stat_t
	return unix.Stat(d.dir, &in) == nil && unix.Stat(d.mnt(), &on) == nil && in.Dev != on.Dev
}

// Mount mounts the disk and hands the key to the kernel; Data is there then. One
// that is mounted stays as it is; one that is damaged is not mounted (ErrDamaged).
func (d *Disk) Mount(ctx context.Context, key Key) error {
	if err := d.MountPlain(ctx); err != nil {
		return err
	}
	if err := addKey(d.mnt(), key); err != nil {
		return errors.Join(err, d.Unmount(ctx))
	}
	return nil
}

// MountPlain is Mount for a disk that is not encrypted.
func (d *Disk) MountPlain(ctx context.Context) error {
	if d.Mounted() {
		return nil
	}
	if err := d.mend(ctx); err != nil {
		return fmt.Errorf("cannot mount a volume: %w", err)
	}
	lock, err := lockImage(d.Image()) // a tool that a killed daemon started may still be at it
	if err != nil {
		return fmt.Errorf("cannot mount a volume: %w", err)
	}
	defer lock.Close()
	loop, err := attach(d.Image())
	if err != nil {
		return fmt.Errorf("cannot mount a volume: %w", err)
	}
	err = unix.Mount(loop.Name(), d.mnt(), "ext4", unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV, "errors=remount-ro")
	loop.Close() // the mount holds the device from here on
	if err != nil {
		return fmt.Errorf("cannot mount a volume: %w", err)
	}
	return nil
}

// Unmount ends what Mount began, once all is on disk. It waits while something
// still uses the disk, and gives up when ctx ends: the disk is mounted then, and
// a later Mount goes on with it.
func (d *Disk) Unmount(ctx context.Context) error {
	for d.Mounted() {
		err := unix.Unmount(d.mnt(), 0)
		switch {
		case err == nil:
			continue
		case !errors.Is(err, syscall.EBUSY):
			return fmt.Errorf("cannot unmount a volume: %w", err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("cannot unmount a volume: %w", err)
		}
	}
	return nil
}

// Size is how large the disk may become: that of its image.
func (d *Disk) Size() (int64, error) {
	fi, err := os.Stat(d.Image())
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// Allocated is how many bytes of the node's own disk it takes.
func (d *Disk) Allocated() int64 {
	return Taken(d.Image())
}

// Usage is how full a file system is, in blocks of BlockSize bytes.
type Usage struct{ BlockSize, Blocks, Free, Available int64 }

// Usage returns how full the disk is; false unless it is mounted.
func (d *Disk) Usage() (u Usage, ok bool) {
	var st unix.Statfs_t
	if !d.Mounted() || unix.Statfs(d.mnt(), &st) != nil {
		return u, false
	}
	return Usage{int64(st.Bsize), int64(st.Blocks), int64(st.Bfree), int64(st.Bavail)}, true
}

// Free is how many bytes the file system that holds path has left.
func Free(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
