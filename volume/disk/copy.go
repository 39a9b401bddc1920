package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"github.com/perigee-run/perigee/internal/durable"
	"golang.org/x/sys/unix"
)

// The kernel's numbers for what package unix does not name.
const (
	freezeFS = 0xc0045877 // FIFREEZE
	thawFS   = 0xc0045878 // FITHAW
	trimFS   = 0xc0185879 // FITRIM
)

// copyStep is how much is copied between two looks at whether it is still wanted.
const copyStep = 64 << 20

// Copy writes the disk as it is at one moment to the file to, which is made, and
// is whole and on disk when Copy has returned nil. What machines have written and
// synced is in it, and all that follows as after a power cut.
//
// Where the node's file system can share blocks (XFS, Btrfs) writers wait for an
// instant. Elsewhere they wait until all that is used was copied.
func (d *Disk) Copy(ctx context.Context, to string) error {
	from, err := os.Open(d.Image())
	if err != nil {
		return err
	}
	defer from.Close()
	part := to + ".part"
	out, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = d.still(func() error { return duplicate(ctx, out, from) })
	err = errors.Join(err, out.Sync(), out.Close())
	if err == nil {
		err = durable.Rename(part, to)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot copy a volume: %w", err), os.Remove(part))
	}
	return nil
}

// still does something while nobody writes to the disk. Blocks that are not used
// any more are given back before, and what is to be written is written, so that it
// is short.
func (d *Disk) still(do func() error) error {
	if !d.Mounted() {
		return do()
	}
	f, err := os.Open(d.mnt())
	if err != nil {
		return err
	}
	defer f.Close()
	all := struct{ start, length, least uint64 }{0, 1<<64 - 1, 0}
	_ = ioctl(f, trimFS, unsafe.Pointer(&all)) // it only saves space
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return err
	}
	if err := ioctl(f, freezeFS, nil); err != nil {
		return fmt.Errorf("cannot hold the writers: %w", err)
	}
	err = do()
	return errors.Join(err, ioctl(f, thawFS, nil))
}

// Thaw lets writers go on that a killed daemon has left held. It reports whether
// there were any.
func (d *Disk) Thaw() bool {
	if !d.Mounted() {
		return false
	}
	f, err := os.Open(d.mnt())
	if err != nil {
		return false
	}
	defer f.Close()
	return ioctl(f, thawFS, nil) == nil
}

// duplicate shares the blocks, or copies those that are not holes.
func duplicate(ctx context.Context, out, from *os.File) error {
	if unix.IoctlFileClone(int(out.Fd()), int(from.Fd())) == nil {
		return nil
	}
	fi, err := from.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(fi.Size()); err != nil {
		return err
	}
	for at := int64(0); at < fi.Size(); {
		start, end, err := Extent(from, at, fi.Size())
		if err != nil || start == end {
			return err
		}
		if err := copyRange(ctx, out, from, start, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// Extent returns the next part of the file from at that is no hole; start and end
// are both size if there is none.
func Extent(f *os.File, at, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO), start >= size:
		return size, size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	return start, min(end, size), err
}

func copyRange(ctx context.Context, out, from *os.File, start, end int64) error {
	for at := start; at < end; at += copyStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(copyStep, end-at)
		if _, err := out.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := from.Seek(at, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, from, n); err != nil {
			return err
		}
	}
	return nil
}

// SharesBlocks reports whether the file system of the folder can copy a file by
// sharing its blocks.
func SharesBlocks(dir string) bool {
	from, err := os.CreateTemp(dir, "shares-")
	if err != nil {
		return false
	}
	defer os.Remove(from.Name())
	defer from.Close()
	to, err := os.CreateTemp(dir, "shares-")
	if err != nil {
		return false
	}
	defer os.Remove(to.Name())
	defer to.Close()
	return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
}

// Taken is how many bytes of its file system a file takes, 0 if it is not there.
func Taken(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}
