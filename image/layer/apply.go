package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/perigee-run/perigee/image/erofs"
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	aufs     = ".wh..wh."
	paxXattr = "SCHILY.xattr."
)

// Apply merges one layer, an uncompressed tar, over those applied before. It
// reads up to the archive's end, not necessarily up to r's.
func (t *Tree) Apply(ctx context.Context, r io.Reader) error {
	defer func() { t.layer++; t.lastDir = nil }()
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the layer's archive: %w", readable(err))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.entry(hdr, tr); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", shorten(hdr.Name), readable(err))
		}
	}
}

// readable says in words what io's sentinel leaves open.
func readable(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive is truncated: %w", err)
	}
	return err
}

func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// entry takes one entry of the archive.
func (t *Tree) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := split(hdr.Name)
	if err != nil {
		return err
	}
	if err := t.grow(512); err != nil {
		return err
	}
	if err := t.count(len(hdr.Name) + len(hdr.Linkname)); err != nil {
		return err
	}
	if len(parts) == 0 {
		return t.rootEntry(hdr)
	}
	if marked, err := t.whiteout(parts); marked || err != nil {
		return err
	}
	dir, err := t.parent(parts)
	if err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeLink {
		return t.hardLink(dir, parts[len(parts)-1], hdr.Linkname)
	}
	n, err := t.node(hdr, r)
	if err != nil {
		return err
	}
	t.put(dir, parts[len(parts)-1], n)
	return nil
}

// rootEntry takes "./", which says who owns the root.
func (t *Tree) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return errors.New("the root must be a directory")
	}
	ino, err := t.inode(hdr)
	if err == nil {
		t.root.ino = ino
	}
	return err
}

// whiteout acts on the names that remove what lower layers have.
func (t *Tree) whiteout(parts []string) (marked bool, err error) {
	last := len(parts) - 1
	for _, p := range parts[:last] {
		if strings.HasPrefix(p, whiteout) {
			return true, nil // inside aufs' own bookkeeping
		}
	}
	name, marked := strings.CutPrefix(parts[last], whiteout)
	if !marked {
		return false, nil
	}
	if parts[last] != opaque && strings.HasPrefix(parts[last], aufs) {
		return true, nil
	}
	if name == "" || name == "." || name == ".." {
		return true, errors.New("the whiteout names nothing")
	}
	dir, err := t.dir(parts[:last], false)
	if errors.Is(err, errNotThere) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	if parts[last] == opaque {
		t.lastDir = nil
		t.clear(link{dir, t.layer})
		return true, nil
	}
	t.hide(dir, name)
	return true, nil
}

// hardLink gives an object that exists another name. Only the way to the target
// goes through symlinks, as link(2) has it.
func (t *Tree) hardLink(dir *node, name, target string) error {
	parts, err := split(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	if len(parts) == 0 {
		return errors.New("hard link to the root")
	}
	from, err := t.dir(parts[:len(parts)-1], false)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", shorten(target), err)
	}
	l, ok := from.kids[parts[len(parts)-1]]
	if !ok {
		return fmt.Errorf("hard link to %q: %w", shorten(target), errNotThere)
	}
	if l.n.ino.IsDir() {
		return fmt.Errorf("hard link to %q, which is a directory", shorten(target))
	}
	t.put(dir, name, l.n)
	return nil
}

// node makes the object that a header describes and stores its contents.
func (t *Tree) node(hdr *tar.Header, r io.Reader) (*node, error) {
	ino, err := t.inode(hdr)
	if err != nil {
		return nil, err
	}
	n := &node{ino: ino, cleared: t.layer}
	if ino.Mode&erofs.TypeMask != erofs.TypeFile || ino.Size == 0 {
		return n, nil
	}
	if err := t.grow(ino.Size); err != nil {
		return nil, err
	}
	if n.ino.Block, err = t.sink.WriteFile(r, ino.Size); err != nil {
		return nil, err
	}
	t.stored = append(t.stored, n)
	return n, nil
}

// inode translates a header, refusing what no file system could hold.
func (t *Tree) inode(hdr *tar.Header) (erofs.Inode, error) {
	ino := erofs.Inode{Mode: uint16(hdr.Mode & 0o7777), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid)}
	if uint64(hdr.Uid) >= math.MaxUint32 || uint64(hdr.Gid) >= math.MaxUint32 {
		return ino, fmt.Errorf("owner %d:%d is out of range", hdr.Uid, hdr.Gid)
	}
	if m := hdr.ModTime; !m.IsZero() {
		ino.Mtime, ino.MtimeNsec = m.Unix(), uint32(m.Nanosecond())
	}
	if err := setType(&ino, hdr); err != nil {
		return ino, err
	}
	return ino, t.setXattrs(&ino, hdr.PAXRecords)
}

func setType(ino *erofs.Inode, hdr *tar.Header) error {
	switch hdr.Typeflag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		ino.Mode |= erofs.TypeFile
		ino.Size = hdr.Size
	case tar.TypeDir:
		ino.Mode |= erofs.TypeDir
	case tar.TypeFifo:
		ino.Mode |= erofs.TypeFifo
	case tar.TypeSymlink:
		ino.Mode = erofs.TypeSymlink | 0o777
		ino.Target = hdr.Linkname
		if len(ino.Target) == 0 || len(ino.Target) > erofs.MaxTarget || strings.IndexByte(ino.Target, 0) >= 0 {
			return fmt.Errorf("a symlink's target must have 1 to %d bytes and no NUL", erofs.MaxTarget)
		}
	case tar.TypeChar:
		ino.Mode |= erofs.TypeChar
		return setDevice(ino, hdr)
	case tar.TypeBlock:
		ino.Mode |= erofs.TypeBlock
		return setDevice(ino, hdr)
	default:
		return fmt.Errorf("entry type %q is not one that images have", hdr.Typeflag)
	}
	return nil
}

func setDevice(ino *erofs.Inode, hdr *tar.Header) error {
	if uint64(hdr.Devmajor) >= 1<<12 || uint64(hdr.Devminor) >= 1<<20 {
		return fmt.Errorf("device %d:%d is out of range", hdr.Devmajor, hdr.Devminor)
	}
	ino.Rdev = erofs.Device(uint32(hdr.Devmajor), uint32(hdr.Devminor))
	return nil
}

// setXattrs takes the attributes the format knows. Those that would steer an
// overlay file system stacked on the rootfs are left out.
func (t *Tree) setXattrs(ino *erofs.Inode, records map[string]string) error {
	for key, value := range records {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !erofs.XattrKnown(name) || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if strings.IndexByte(name, 0) >= 0 || len(value) > math.MaxUint16 {
			return fmt.Errorf("extended attribute %q is malformed", shorten(name))
		}
		ino.Xattrs = append(ino.Xattrs, erofs.Xattr{Name: name, Value: value})
		t.meta += int64(len(name) + len(value))
	}
	if erofs.XattrSize(ino.Xattrs) > erofs.MaxXattrs {
		return fmt.Errorf("its extended attributes take more than %d bytes", erofs.MaxXattrs)
	}
	return nil
}
