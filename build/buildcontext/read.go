package buildcontext

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

const (
	defaultBytes    = 2 << 30
	defaultFiles    = 200_000
	maxNameBytes    = 4096
	maxNameDepth    = 100
	headerAllowance = 8 << 10 // what a file's headers may take beyond its data
)

// Limits bound an uploaded build context.
type Limits struct {
	// Bytes is the sum of the files' sizes, after decompression. Default: 2 GiB.
	Bytes int64
	// Files counts files, folders and links. Default: 200,000.
	Files int
}

// ErrTooLarge is wrapped by what Read returns for a context beyond its limits.
var ErrTooLarge = errors.New("the build context is too large: exclude what the build does not need in .dockerignore")

// Read unpacks the tar, gzipped or not, that a client uploaded as build context into the folder dir, which
// must be empty or not exist yet. Nothing is ever written outside of dir, whatever the tar says. Modes (without setuid and
// setgid), times and links are kept; owners are not; a link may point anywhere, as it is only data. Devices and
// pipes, names that leave the folder, and a tar that breaks off are errors; after an error dir is gone.
func Read(ctx context.Context, r io.Reader, dir string, limits Limits) (err error) {
	if limits.Bytes <= 0 {
		limits.Bytes = defaultBytes
	}
	if limits.Files <= 0 {
		limits.Files = defaultFiles
	}
	if err := emptyFolder(dir); err != nil {
		return fmt.Errorf("cannot unpack the build context: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot unpack the build context: %w", err)
	}
	defer root.Close()
	plain, err := gunzip(r)
	if err != nil {
		return err
	}
	u := &unpacker{ctx: ctx, root: root, left: limits, folders: make(map[string]*tar.Header)}
	return u.all(&bounded{r: plain, left: limits.Bytes + int64(limits.Files)*headerAllowance})
}

func emptyFolder(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, err := os.ReadDir(dir)
	if err == nil && len(there) > 0 {
		err = fmt.Errorf("the folder %q is not empty", dir)
	}
	return err
}

// gunzip looks at the first bytes, because clients do not agree on how to say it.
func gunzip(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read the build context: %w", err)
	}
	if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("cannot read the build context: %w", err)
	}
	return z, nil
}

// bounded fails when a stream is longer than its contents can explain: headers and padding without end.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTooLarge
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

type unpacker struct {
	ctx     context.Context // of one Read; spares every method a parameter
	root    *os.Root
	left    Limits
	folders map[string]*tar.Header // by name; nil for one that the tar did not describe
}

func (u *unpacker) all(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = context.Cause(u.ctx)
		}
		if err != nil {
			return fmt.Errorf("cannot read the build context: %w", err)
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("cannot unpack %q of the build context: %w", h.Name, err)
		}
	}
	// To the stream's end, so that a gzip whose checksum is wrong does not pass.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("cannot read the build context: %w", err)
	}
	return u.finishFolders()
}

func (u *unpacker) entry(h *tar.Header, data io.Reader) error {
	name, err := entryName(h.Name)
	if err != nil {
		return err
	}
	if u.left.Files--; u.left.Files < 0 {
		return ErrTooLarge
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the folder itself cannot be a file")
		}
		return nil
	}
	if err := u.parent(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.folder(name, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(name, h, data)
	case tar.TypeSymlink:
		return u.link(name, func() error { return u.root.Symlink(h.Linkname, name) })
	case tar.TypeLink:
		return u.hardLink(name, h)
	case tar.TypeXGlobalHeader:
		return nil
	}
	return fmt.Errorf("it is of type %q: a context holds files, folders and links only", h.Typeflag)
}

// entryName makes a name relative and clean, or says why it cannot be one.
func entryName(raw string) (string, error) {
	if strings.HasPrefix(raw, "/") {
		return "", errors.New("its name is absolute")
	}
	name := path.Clean(raw)
	switch {
	case raw == "" || strings.ContainsRune(raw, 0):
		return "", errors.New("its name is empty or not text")
	case !fs.ValidPath(name) && name != ".":
		return "", errors.New("its name leaves the folder")
	case len(name) > maxNameBytes || strings.Count(name, "/") > maxNameDepth:
		return "", errors.New("its name is too long")
	}
	return name, nil
}

// parent makes the folders above an entry that the tar did not name. They count: a short tar of deep names must not
// become millions of folders.
func (u *unpacker) parent(name string) error {
	dir := path.Dir(name)
	if _, made := u.folders[dir]; made || dir == "." {
		return nil
	}
	if err := u.parent(dir); err != nil {
		return err
	}
	if u.left.Files--; u.left.Files < 0 {
		return ErrTooLarge
	}
	u.folders[dir] = nil
	if err := u.root.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (u *unpacker) folder(name string, h *tar.Header) error {
	st, err := u.root.Lstat(name)
	if err == nil && !st.IsDir() {
		return errors.New("it stands for two things")
	}
	if err != nil {
		// Always writable for us until the end.
		if err := u.root.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	u.folders[name] = h
	return nil
}

func (u *unpacker) file(name string, h *tar.Header, data io.Reader) error {
	if h.Size > u.left.Bytes {
		return ErrTooLarge
	}
	u.left.Bytes -= h.Size
	if err := u.replace(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &cancelable{u.ctx, data})
	if err == nil {
		err = f.Chmod(h.FileInfo().Mode().Perm())
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.root.Chtimes(name, time.Time{}, h.ModTime)
}

type cancelable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelable) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// hardLink joins two names of one file; the tar names the first one from its root.
func (u *unpacker) hardLink(name string, h *tar.Header) error {
	target, err := entryName(h.Linkname)
	if err != nil {
		return fmt.Errorf("the file %q that it is a link to is not in the context: %w", h.Linkname, err)
	}
	if target == name {
		return errors.New("it is a link to itself")
	}
	st, err := u.root.Lstat(target)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%q that it is a link to is not a file", h.Linkname)
	}
	return u.link(name, func() error { return u.root.Link(target, name) })
}

func (u *unpacker) link(name string, create func() error) error {
	if err := u.replace(name); err != nil {
		return err
	}
	return create()
}

// replace makes room for an entry: in a tar the last one of a name counts. A folder is not replaced.
func (u *unpacker) replace(name string) error {
	st, err := u.root.Lstat(name)
	if err != nil {
		return nil //nolint:nilerr // the usual case; any other fault comes back on creation
	}
	if st.IsDir() {
		return errors.New("it stands for two things")
	}
	return u.root.Remove(name)
}

// finishFolders sets modes and times last: filling a folder changes its time, and a folder may forbid writing into it.
func (u *unpacker) finishFolders() error {
	for name, h := range u.folders {
		if h == nil {
			continue
		}
		// The owner keeps the right to look inside and to remove it.
		err := u.root.Chmod(name, h.FileInfo().Mode().Perm()|0o700)
		if err == nil {
			err = u.root.Chtimes(name, time.Time{}, h.ModTime)
		}
		if err != nil {
			return fmt.Errorf("cannot unpack %q of the build context: %w", name, err)
		}
	}
	return nil
}
