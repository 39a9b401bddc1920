// Package erofs writes a tree of inodes as one uncompressed EROFS file, in a
// single forward pass: file contents go out as they arrive, directories and
// inodes follow, and the superblock that makes the file valid comes last.
//
// The subset written is what both Linux and gVisor's reader accept: 4096-byte
// blocks, extended inodes, file contents in whole blocks of their own (gVisor
// maps them), names and symlink targets beside their inode where they fit, no
// feature that a reader could refuse. The same tree and contents always give
// the same bytes, because snapshots of machines remember block addresses.
//
// It is no reader and no general mkfs: no compression, no chunks, no devices.
package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// BlockSize is the unit of everything in the file.
const BlockSize = 4096

// bufSize is how much is gathered before it is written.
const bufSize = 1 << 20

var zeros [bufSize]byte

// Writer writes one file system. It is for one goroutine.
type Writer struct {
	f    *os.File
	buf  []byte // not yet written, begins at byte off
	off  int64
	grow func(written int64) error
}

// NewWriter starts a file system in f, which must be empty. grow, when not nil,
// is called with the length reached before each write; its error ends the work.
func NewWriter(f *os.File, grow func(written int64) error) *Writer {
	w := &Writer{f: f, buf: make([]byte, 0, bufSize), grow: grow}
	w.buf = append(w.buf, zeros[:BlockSize]...) // the superblock's place
	return w
}

// Offset is where the next file's contents will begin, in bytes.
func (w *Writer) Offset() int64 { return w.off + int64(len(w.buf)) }

// WriteFile copies size bytes from r into blocks of their own and returns the
// first one's number. A reader that ends early is io.ErrUnexpectedEOF.
func (w *Writer) WriteFile(r io.Reader, size int64) (block uint32, err error) {
	if size == 0 {
		return 0, nil
	}
	first := w.Offset() / BlockSize
	if first+size/BlockSize+1 > math.MaxUint32 {
		return 0, errors.New("the file system would pass 16 TiB")
	}
	for left := size; left > 0; {
		n, err := w.fill(r, left)
		if err != nil {
			return 0, err
		}
		left -= n
	}
	return uint32(first), w.pad()
}

// fill reads at most left bytes into the free part of the buffer.
func (w *Writer) fill(r io.Reader, left int64) (int64, error) {
	if len(w.buf) == bufSize {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	have := len(w.buf)
	n := min(left, int64(bufSize-have))
	got, err := io.ReadFull(r, w.buf[have:have+int(n)])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	w.buf = w.buf[:have+got]
	return int64(got), err
}

// write appends bytes that are at hand.
func (w *Writer) write(p []byte) error {
	for len(p) > 0 {
		if len(w.buf) == bufSize {
			if err := w.flush(); err != nil {
				return err
			}
		}
		n := copy(w.buf[len(w.buf):bufSize], p)
		w.buf = w.buf[:len(w.buf)+n]
		p = p[n:]
	}
	return nil
}

// pad fills the last block with zeros.
func (w *Writer) pad() error {
	if rest := w.Offset() % BlockSize; rest != 0 {
		return w.write(zeros[:BlockSize-rest])
	}
	return nil
}

// flush writes the buffer; a buffer of zeros becomes a hole.
func (w *Writer) flush() error {
	if w.grow != nil {
		if err := w.grow(w.off); err != nil {
			return err
		}
	}
	if !bytes.Equal(w.buf, zeros[:len(w.buf)]) {
		if _, err := w.f.WriteAt(w.buf, w.off); err != nil {
			return fmt.Errorf("cannot write the rootfs: %w", err)
		}
	}
	w.off += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// Extent is the place of one file's contents.
type Extent struct {
	Block uint32
	Size  int64
}

func (e Extent) end() int64 {
	return int64(e.Block) + (e.Size+BlockSize-1)/BlockSize
}

// Drop gives the disk space of contents that no inode refers to back to the
// host. Where the host's file system cannot do that, the space stays taken.
func (w *Writer) Drop(dead []Extent) error {
	if err := w.flush(); err != nil {
		return err
	}
	for i := 0; i < len(dead); {
		start, end := int64(dead[i].Block), dead[i].end()
		for i++; i < len(dead) && int64(dead[i].Block) == end; i++ {
			end = dead[i].end()
		}
		err := unix.Fallocate(int(w.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			start*BlockSize, (end-start)*BlockSize)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("cannot give back unused blocks: %w", err)
		}
	}
	return nil
}
