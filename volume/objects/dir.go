package objects

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/perigee-run/perigee/internal/durable"
)

// Dir is a Store in a folder of the node. It is lost with the node's disk.
type Dir struct {
	path  string
	spare func(dir string, bytes int64) error
}

var _ Store = (*Dir)(nil)

// NewDir keeps objects in the folder path, which is made when it is needed.
func NewDir(path string) *Dir { return &Dir{path: path} }

// Guard has Put ask before it takes so many bytes of the folder's disk. It must be
// called before the Dir is used.
func (d *Dir) Guard(spare func(dir string, bytes int64) error) { d.spare = spare }

// Path is the folder.
func (d *Dir) Path() string { return d.path }

// Shared is false: other nodes have folders of their own.
func (d *Dir) Shared() bool { return false }

func (d *Dir) file(name string) (string, error) {
	if !fs.ValidPath(name) || name == "." {
		return "", fmt.Errorf("cannot use %q as name of an object", name)
	}
	return filepath.Join(d.path, filepath.FromSlash(name)), nil
}

// Put implements Store.
func (d *Dir) Put(_ context.Context, name string, data []byte) error {
	path, err := d.file(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if d.spare != nil {
		if err := d.spare(d.path, int64(len(data))); err != nil {
			return fmt.Errorf("cannot write object %q: %w", name, err)
		}
	}
	return durable.WriteFile(path, 0o600, data)
}

// Get implements Store.
func (d *Dir) Get(_ context.Context, name string) ([]byte, error) {
	path, err := d.file(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return b, err
}

// Walk implements Store.
func (d *Dir) Walk(ctx context.Context, prefix string, each func(name string) error) error {
	from := d.path
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		var err error
		if from, err = d.file(prefix[:i]); err != nil {
			return err
		}
	}
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // a folder that went meanwhile
			return ctx.Err()
		case err != nil || e.IsDir() || strings.HasSuffix(path, ".new"):
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(d.path, path)
		if name := filepath.ToSlash(rel); err == nil && strings.HasPrefix(name, prefix) {
			err = each(name)
		}
		return err
	})
}

// Delete implements Store.
func (d *Dir) Delete(_ context.Context, name string) error {
	path, err := d.file(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(path); dir != d.path && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
		continue // folders that are empty now go too
	}
	return nil
}
