package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// ErrDamaged says that the file system has faults that no tool may mend by itself. It
// is not mounted then: that could make them worse.
var ErrDamaged = errors.New("its file system is damaged, and has to be mended by hand with e2fsck, or restored from a snapshot")

// mend checks a file system that is marked as faulty: by the kernel, or by a resize2fs
// that did not come to its end. One that only was not unmounted is fine: the kernel
// reads its journal.
func (d *Disk) mend(ctx context.Context) error {
	sb, err := d.settled()
	if err != nil || sb.clean() {
		return err
	}
	return d.check(ctx)
}

// check has the journal read, and repairs what it can. An image that was cut off
// in the middle of a write is whole after that.
func (d *Disk) check(ctx context.Context) error {
	err := run(ctx, d.Image(), "e2fsck", "-f", "-p", d.Image())
	var e *toolError
	switch {
	case !errors.As(err, &e):
		return err
	case e.code < 4: // errors were corrected
		return nil
	}
	return fmt.Errorf("%w: %v", ErrDamaged, err)
}

// superblock is the head of an ext4 file system.
type superblock [1024]byte

// settled reads the superblock once no tool is at it.
func (d *Disk) settled() (*superblock, error) {
	f, err := lockImage(d.Image())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSuperblock(f)
}

func readSuperblock(f *os.File) (*superblock, error) {
	sb := new(superblock)
	if _, err := f.ReadAt(sb[:], 1024); err != nil {
		return nil, fmt.Errorf("cannot read the superblock of a volume: %w", err)
	}
	if sb[0x38] != 0x53 || sb[0x39] != 0xef {
		return nil, errors.New("a volume's image holds no ext4 file system")
	}
	return sb, nil
}

// clean reports whether the file system is marked as valid, and as free of errors.
func (sb *superblock) clean() bool { return sb[0x3a]&3 == 1 }

// blocks is how many the file system has.
func (sb *superblock) blocks() int64 { return sb.word(0x04) | sb.word(0x150)<<32 }

func (sb *superblock) word(at int) int64 {
	return int64(sb[at]) | int64(sb[at+1])<<8 | int64(sb[at+2])<<16 | int64(sb[at+3])<<24
}
