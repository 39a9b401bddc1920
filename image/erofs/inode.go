package erofs

import (
	"encoding/binary"
	"sort"
	"strings"
)

// The file types of Inode.Mode, as stat(2) has them.
const (
	TypeMask    = 0o170000
	TypeFifo    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeFile    = 0o100000
	TypeSymlink = 0o120000
)

// MaxTarget is the longest symlink target Linux can follow.
const MaxTarget = 4095

// Inode is one object of the tree. A hard link is one Inode under two names.
type Inode struct {
	Mode      uint16 // type and permissions
	UID, GID  uint32
	Mtime     int64 // seconds since 1970
	MtimeNsec uint32
	Rdev      uint32  // devices: from Device
	Block     uint32  // files: from WriteFile
	Size      int64   // files: length in bytes
	Target    string  // symlinks, 1 to MaxTarget bytes
	Xattrs    []Xattr // at most MaxXattrs bytes, see XattrSize
	Entries   []Entry // directories; Write sorts them

	nlink  uint32
	ino    uint32
	off    int64 // from the start of the metadata
	inline int   // bytes that follow the inode
	parent *Inode
}

// Entry is a name in a directory, 1 to 255 bytes without slash, not . or ...
type Entry struct {
	Name  string
	Inode *Inode
}

// Xattr is one extended attribute with its full name.
type Xattr struct{ Name, Value string }

// Device encodes a device number the way Linux stores it on disk.
func Device(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// IsDir tells whether n is a directory.
func (n *Inode) IsDir() bool { return n.Mode&TypeMask == TypeDir }

func (n *Inode) nid() uint64 { return uint64(n.off) >> slotBits }

// fileType is the type as directory entries have it.
func (n *Inode) fileType() byte {
	switch n.Mode & TypeMask {
	case TypeFile:
		return 1
	case TypeDir:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeFifo:
		return 5
	case TypeSymlink:
		return 7
	}
	return 0
}

// MaxXattrs is the most that XattrSize may be for one inode: what Linux reads.
const MaxXattrs = 64 << 10

const xattrHead = 12

var xattrPrefixes = []struct {
	name  string
	index byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// splitXattr returns the number of a known prefix and what follows it.
func splitXattr(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if rest, ok := strings.CutPrefix(name, p.name); ok && len(rest) <= 255 {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// XattrKnown tells whether the format has room for an attribute of that name.
func XattrKnown(name string) bool {
	_, rest, ok := splitXattr(name)
	exact := strings.HasPrefix(name, "system.")
	return ok && exact == (rest == "")
}

// XattrSize is the space attributes take beside the inode, in bytes.
func XattrSize(attrs []Xattr) int {
	if len(attrs) == 0 {
		return 0
	}
	n := xattrHead
	for _, a := range attrs {
		_, rest, _ := splitXattr(a.Name)
		n += align(4+len(rest)+len(a.Value), 4)
	}
	return n
}

func appendXattrs(b []byte, attrs []Xattr) []byte {
	if len(attrs) == 0 {
		return b
	}
	sort.Slice(attrs, func(i, j int) bool { return attrs[i].Name < attrs[j].Name })
	start := len(b)
	b = append(b, make([]byte, xattrHead)...)
	for _, a := range attrs {
		index, rest, _ := splitXattr(a.Name)
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(append(b, rest...), a.Value...)
		b = append(b, zeros[:align(len(b)-start, 4)-(len(b)-start)]...)
	}
	return b
}

func align[T int | int64](n, to T) T { return (n + to - 1) / to * to }
