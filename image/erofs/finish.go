package erofs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
)

const (
	slotBits   = 5
	inodeSize  = 64
	direntSize = 12
	superAt    = 1024

	layoutPlain  = 0
	layoutInline = 2

	compatChecksum = 1
	compatMtime    = 2
)

// Stamp is what a file system says about itself.
type Stamp struct {
	UUID   [16]byte
	Volume string // at most 16 bytes
	Time   int64  // seconds since 1970
}

// Finish writes the tree below root and makes the file valid. It returns the
// file's length. The file is not synced.
func (w *Writer) Finish(root *Inode, s Stamp) (size int64, err error) {
	if !root.IsDir() {
		return 0, errors.New("the root must be a directory")
	}
	t := &table{next: 2 << slotBits} // inode number 0 would be hidden by readdir
	t.place(root, root)
	if err := w.writeDirs(t); err != nil {
		return 0, err
	}
	meta := w.Offset()
	if err := w.flush(); err != nil {
		return 0, err
	}
	size, err = w.writeInodes(t, meta)
	if err != nil {
		return 0, err
	}
	if err := w.f.Truncate(size); err != nil {
		return 0, fmt.Errorf("cannot set the rootfs' length: %w", err)
	}
	return size, w.writeSuper(root, s, len(t.inodes), meta, size)
}

// table is the order of the inodes in the metadata.
type table struct {
	inodes []*Inode
	next   int64
}

// place gives n and all below it their offsets.
func (t *table) place(n, parent *Inode) {
	n.nlink++
	if n.nlink > 1 {
		return
	}
	n.parent = parent
	t.inodes = append(t.inodes, n)
	n.ino = uint32(len(t.inodes))
	if n.IsDir() {
		sort.Slice(n.Entries, func(i, j int) bool { return n.Entries[i].Name < n.Entries[j].Name })
	}
	t.put(n)
	if !n.IsDir() {
		return
	}
	n.nlink = 2
	for _, e := range n.Entries {
		t.place(e.Inode, n)
		if e.Inode.IsDir() {
			n.nlink++
		}
	}
}

// put finds room for one inode and what follows it: neither the inode nor the
// inline data may cross a block's end.
func (t *table) put(n *Inode) {
	head := int64(inodeSize + XattrSize(n.Xattrs))
	n.inline = n.tail()
	if head+int64(n.inline) > BlockSize {
		n.inline = 0
	}
	rest := BlockSize - t.next%BlockSize
	if rest < inodeSize || n.inline > 0 && rest < head+int64(n.inline) {
		t.next += rest
	}
	n.off = t.next
	t.next = align(t.next+head+int64(n.inline), 1<<slotBits)
}

// tail is the number of bytes that could stand beside the inode.
func (n *Inode) tail() int {
	switch n.Mode & TypeMask {
	case TypeDir:
		n.Size = dirSize(n)
		return int(n.Size % BlockSize)
	case TypeSymlink:
		n.Size = int64(len(n.Target))
		if n.Size < BlockSize {
			return int(n.Size)
		}
	}
	return 0
}

// writeDirs writes what of directories and symlinks does not fit beside them.
func (w *Writer) writeDirs(t *table) error {
	for _, n := range t.inodes {
		out := n.Size - int64(n.inline)
		if out == 0 || n.Mode&TypeMask == TypeFile {
			continue
		}
		switch n.Mode & TypeMask {
		case TypeDir:
			n.Block = uint32(w.Offset() / BlockSize)
			if err := w.write(direntBytes(n)[:out]); err != nil {
				return err
			}
		case TypeSymlink:
			n.Block = uint32(w.Offset() / BlockSize)
			if err := w.write([]byte(n.Target)); err != nil {
				return err
			}
		}
		if err := w.pad(); err != nil {
			return err
		}
	}
	return nil
}

// writeInodes writes the metadata at byte meta and returns where it ends.
func (w *Writer) writeInodes(t *table, meta int64) (end int64, err error) {
	out := bufio.NewWriterSize(io.NewOffsetWriter(w.f, meta), bufSize)
	var at int64
	var b []byte
	for _, n := range t.inodes {
		b = append(b[:0], zeros[:n.off-at]...)
		b = appendInode(b, n)
		b = appendXattrs(b, n.Xattrs)
		b = appendInline(b, n)
		if _, err := out.Write(b); err != nil {
			return 0, fmt.Errorf("cannot write the rootfs: %w", err)
		}
		at += int64(len(b))
	}
	if err := out.Flush(); err != nil {
		return 0, fmt.Errorf("cannot write the rootfs: %w", err)
	}
	return align(meta+at, BlockSize), nil
}

func appendInline(b []byte, n *Inode) []byte {
	if n.inline == 0 {
		return b
	}
	if n.IsDir() {
		all := direntBytes(n)
		return append(b, all[len(all)-n.inline:]...)
	}
	return append(b, n.Target...)
}

func appendInode(b []byte, n *Inode) []byte {
	le := binary.LittleEndian
	layout := uint16(layoutPlain)
	if n.inline > 0 {
		layout = layoutInline
	}
	xattrs := 0
	if size := XattrSize(n.Xattrs); size > 0 {
		xattrs = (size-xattrHead)/4 + 1
	}
	union := n.Block
	if t := n.Mode & TypeMask; t == TypeChar || t == TypeBlock {
		union = n.Rdev
	}
	b = le.AppendUint16(b, 1|layout<<1) // extended
	b = le.AppendUint16(b, uint16(xattrs))
	b = le.AppendUint16(b, n.Mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(n.Size))
	b = le.AppendUint32(b, union)
	b = le.AppendUint32(b, n.ino)
	b = le.AppendUint32(b, n.UID)
	b = le.AppendUint32(b, n.GID)
	b = le.AppendUint64(b, uint64(n.Mtime))
	b = le.AppendUint32(b, n.MtimeNsec)
	b = le.AppendUint32(b, n.nlink)
	return append(b, zeros[:16]...)
}

// dirent is an entry on its way to the disk.
type dirent struct {
	name string
	n    *Inode
}

// dirents are a directory's entries with . and .. in their sorted places.
func dirents(n *Inode) []dirent {
	all := make([]dirent, 0, len(n.Entries)+2)
	dots := []dirent{{".", n}, {"..", n.parent}}
	for _, e := range n.Entries {
		for len(dots) > 0 && dots[0].name < e.Name {
			all, dots = append(all, dots[0]), dots[1:]
		}
		all = append(all, dirent{e.Name, e.Inode})
	}
	return append(all, dots...)
}

// fit counts the entries that go into one block and the bytes they take.
func fit(all []dirent) (count, size int) {
	for _, d := range all {
		if size+direntSize+len(d.name) > BlockSize {
			break
		}
		size += direntSize + len(d.name)
		count++
	}
	return count, size
}

// dirSize is the length of a directory: whole blocks and the last one's bytes.
func dirSize(n *Inode) int64 {
	var size int64
	for all := dirents(n); len(all) > 0; {
		count, used := fit(all)
		all = all[count:]
		if len(all) > 0 {
			used = BlockSize
		}
		size += int64(used)
	}
	return size
}

// direntBytes is a directory's content: in each block first the fixed parts of
// its entries, then their names.
func direntBytes(n *Inode) []byte {
	b := make([]byte, 0, n.Size)
	for all := dirents(n); len(all) > 0; {
		count, used := fit(all)
		b = appendDirents(b, all[:count])
		all = all[count:]
		if len(all) > 0 {
			b = append(b, zeros[:BlockSize-used]...)
		}
	}
	return b
}

func appendDirents(b []byte, block []dirent) []byte {
	at := len(block) * direntSize
	for _, d := range block {
		b = binary.LittleEndian.AppendUint64(b, d.n.nid())
		b = binary.LittleEndian.AppendUint16(b, uint16(at))
		b = append(b, d.n.fileType(), 0)
		at += len(d.name)
	}
	for _, d := range block {
		b = append(b, d.name...)
	}
	return b
}

// writeSuper writes the superblock, which makes the file a file system.
func (w *Writer) writeSuper(root *Inode, s Stamp, inodes int, meta, size int64) error {
	le := binary.LittleEndian
	b := make([]byte, BlockSize)
	sb := b[superAt:]
	le.PutUint32(sb[0:], 0xe0f5e1e2)
	le.PutUint32(sb[8:], compatChecksum|compatMtime)
	sb[12] = 12 // log2 of the block size
	le.PutUint16(sb[14:], uint16(root.nid()))
	le.PutUint64(sb[16:], uint64(inodes))
	le.PutUint64(sb[24:], uint64(s.Time))
	le.PutUint32(sb[36:], uint32(size/BlockSize))
	le.PutUint32(sb[40:], uint32(meta/BlockSize))
	copy(sb[48:64], s.UUID[:])
	copy(sb[64:80], s.Volume)
	le.PutUint32(sb[4:], ^crc32.Checksum(sb, crc32.MakeTable(crc32.Castagnoli)))
	if _, err := w.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("cannot write the rootfs' superblock: %w", err)
	}
	return nil
}
