package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/sandbox"
	"gvisor.dev/gvisor/pkg/erofs"
)

// upperTar packs files as the first content of a machine's writable layer,
// which gVisor unpacks over the image. The directories on the way are packed
// too, each with the owner and mode that it has in the image: a directory of
// the upper layer hides the lower one's.
//
// places are directories to make where the image lacks them: mount points of a
// machine that may not write.
func upperTar(rootfs *os.File, files []sandbox.File, places []string) (*os.File, error) {
	// The library closes what it is given.
	own, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", rootfs.Fd()))
	if err != nil {
		return nil, fmt.Errorf("cannot read the root file system: %w", err)
	}
	image, err := erofs.OpenImage(own)
	if err != nil {
		own.Close()
		return nil, fmt.Errorf("cannot read the root file system %q: %w", rootfs.Name(), err)
	}
	defer image.Close()
	var buf bytes.Buffer
	l := layer{tree: &imageTree{image: image}, out: tar.NewWriter(&buf), dirs: map[string]bool{}}
	for _, p := range places {
		if err := l.addPlace(p); err != nil {
			return nil, fmt.Errorf("cannot make %q: %w", p, err)
		}
	}
	for _, f := range sortedFiles(files) {
		if err := l.add(f); err != nil {
			return nil, fmt.Errorf("cannot put file %q: %w", f.Path, err)
		}
	}
	if err := l.out.Close(); err != nil {
		return nil, fmt.Errorf("cannot pack the files: %w", err)
	}
	return memFile("files", buf.Bytes())
}

func sortedFiles(files []sandbox.File) []sandbox.File {
	out := slices.Clone(files)
	slices.SortStableFunc(out, func(a, b sandbox.File) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// layer is the archive under way and the directories that are in it.
type layer struct {
	tree *imageTree
	out  *tar.Writer
	dirs map[string]bool
}

func (l *layer) add(f sandbox.File) error {
	dir, base := path.Split(path.Clean("/" + f.Path))
	resolved, err := l.tree.resolve(dir)
	if err != nil {
		return err
	}
	if err := l.addDirs(resolved); err != nil {
		return err
	}
	mode := int64(f.Mode & 0o7777)
	if mode == 0 {
		mode = 0o644
	}
	err = l.out.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "." + path.Join(resolved, base), Size: int64(len(f.Data)),
		Mode: mode, Uid: int(f.UID), Gid: int(f.GID),
	})
	if err == nil {
		_, err = l.out.Write(f.Data)
	}
	return err
}

// addPlace packs a directory that the image lacks.
func (l *layer) addPlace(p string) error {
	resolved, err := l.tree.resolve(p)
	if err != nil {
		return err
	}
	if _, ok := l.tree.lookup(resolved); ok {
		return nil
	}
	return l.addDirs(resolved)
}

// addDirs packs the directory p and those above it.
func (l *layer) addDirs(p string) error {
	if l.dirs[p] {
		return nil
	}
	if p != "/" {
		if err := l.addDirs(path.Dir(p)); err != nil {
			return err
		}
	}
	l.dirs[p] = true
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "." + strings.TrimSuffix(p, "/") + "/", Mode: 0o755}
	if inode, ok := l.tree.lookup(p); ok {
		h.Mode, h.Uid, h.Gid = int64(inode.Mode()&0o7777), int(inode.UID()), int(inode.GID())
	}
	return l.out.WriteHeader(h)
}

// imageTree finds paths in an image.
type imageTree struct{ image *erofs.Image }

// maxLinks bounds the symbolic links of one path, as Linux does.
const maxLinks = 40

// resolve follows the symbolic links of directory p as far as it exists; what
// is missing is kept as it is.
func (t *imageTree) resolve(p string) (string, error) {
	at, rest := "/", components(p)
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		inode, ok := t.lookup(next)
		switch {
		case ok && inode.IsSymlink():
			if links++; links > maxLinks {
				return "", fmt.Errorf("%q has too many symbolic links", p)
			}
			target, err := inode.Readlink()
			if err != nil {
				return "", fmt.Errorf("cannot read link %q: %w", next, err)
			}
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(components(target), rest...)
		case ok && !inode.IsDir():
			return "", fmt.Errorf("%q is not a directory in the image", next)
		default:
			at = next
		}
	}
	return at, nil
}

func components(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

// lookup finds p, whose directories are not symbolic links.
func (t *imageTree) lookup(p string) (erofs.Inode, bool) {
	nid := t.image.RootNid()
	for _, name := range components(p) {
		dir, err := t.image.Inode(nid)
		if err != nil || !dir.IsDir() {
			return erofs.Inode{}, false
		}
		if nid, err = dir.Lookup(name); err != nil {
			return erofs.Inode{}, false
		}
	}
	inode, err := t.image.Inode(nid)
	return inode, err == nil
}
