package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"
)

// partial ends the name of a copy that is not whole yet.
const partial = ".perigee-part"

// get copies a file of the machine, or a folder.
func (r *remote) get(from, to string, recursive bool) error {
	i, err := r.Stat(from)
	if err != nil {
		return fault("get", from, err)
	}
	switch {
	case !i.IsDir():
		return r.getFile(from, to, i)
	case !recursive:
		return hint(fmt.Errorf("cannot get %q: it is a folder", from), "--recursive copies it with all that is in it")
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	inside, err := r.ReadDir(from)
	if err != nil {
		return fault("get", from, err)
	}
	for _, x := range inside {
		if !filepath.IsLocal(x.Name()) || filepath.Base(x.Name()) != x.Name() {
			return fmt.Errorf("cannot get %q: the machine names a file %q in it", from, x.Name())
		}
		if x.Mode()&(fs.ModeDir|fs.ModeType) != 0 && !x.IsDir() {
			fmt.Fprintf(r.env.Err, "left out %s: it is neither a file nor a folder\n", plain(path.Join(from, x.Name())))
			continue
		}
		if err := r.get(path.Join(from, x.Name()), filepath.Join(to, x.Name()), true); err != nil {
			return err
		}
	}
	return os.Chmod(to, i.Mode().Perm())
}

// getFile writes beside the place first, so that what is there stays whole.
func (r *remote) getFile(from, to string, i fs.FileInfo) (err error) {
	src, err := r.Open(from)
	if err != nil {
		return fault("get", from, err)
	}
	defer src.Close()
	tmp := to + partial
	dst, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	p := r.env.copying(from, i.Size())
	_, err = src.WriteTo(io.MultiWriter(dst, p))
	err = errors.Join(err, dst.Close())
	if err != nil {
		return fault("get", from, err)
	}
	p.done()
	if err := errors.Join(os.Chmod(tmp, i.Mode().Perm()), os.Chtimes(tmp, time.Time{}, i.ModTime())); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

// put copies a file to the machine, or a folder.
func (r *remote) put(from, to string, recursive bool) error {
	i, err := os.Stat(from)
	if err != nil {
		return err
	}
	switch {
	case !i.IsDir():
		return r.putFile(from, to, i)
	case !recursive:
		return hint(fmt.Errorf("cannot put %q: it is a folder", from), "--recursive copies it with all that is in it")
	}
	if err := r.MkdirAll(to); err != nil {
		return fault("put", to, err)
	}
	inside, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, x := range inside {
		if !x.IsDir() && !x.Type().IsRegular() {
			fmt.Fprintf(r.env.Err, "left out %s: it is neither a file nor a folder\n", plain(filepath.Join(from, x.Name())))
			continue
		}
		if err := r.put(filepath.Join(from, x.Name()), path.Join(to, x.Name()), true); err != nil {
			return err
		}
	}
	if err := r.Chmod(to, i.Mode().Perm()); err != nil {
		return fault("put", to, err)
	}
	return nil
}

// putFile writes a new file beside its place first. One that is there is written
// over, for it may have an owner and a mode that are to stay.
func (r *remote) putFile(from, to string, i fs.FileInfo) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp, fresh := to, false
	if _, err := r.Lstat(to); errors.Is(err, fs.ErrNotExist) {
		tmp, fresh = to+partial, true
	}
	dst, err := r.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY)
	if err != nil {
		return fault("put", to, err)
	}
	p := r.env.copying(from, i.Size())
	_, err = dst.ReadFromWithConcurrency(io.TeeReader(src, p), 64)
	err = errors.Join(err, dst.Close())
	if err == nil && fresh {
		err = errors.Join(r.Chmod(tmp, i.Mode().Perm()), r.PosixRename(tmp, to))
	}
	if err != nil {
		if fresh {
			_ = r.Remove(tmp)
		}
		return fault("put", to, err)
	}
	p.done()
	return nil
}

// copying shows on a terminal how far a copy is.
type copying struct {
	env         *env
	name        string
	sent, total int64
	shown       time.Time
}

func (e *env) copying(name string, total int64) *copying {
	return &copying{env: e, name: name, total: total, shown: time.Now()}
}

// Write counts.
func (c *copying) Write(b []byte) (int, error) {
	c.sent += int64(len(b))
	if tty(c.env.Err) && time.Since(c.shown) > 100*time.Millisecond {
		c.shown = time.Now()
		fmt.Fprintf(c.env.Err, "\r\x1b[K%s  %s of %s", plain(c.name), bytesText(c.sent), bytesText(c.total))
	}
	return len(b), nil
}

func (c *copying) done() {
	if tty(c.env.Err) {
		fmt.Fprintf(c.env.Err, "\r\x1b[K%s  %s\n", plain(c.name), bytesText(c.sent))
	}
}
