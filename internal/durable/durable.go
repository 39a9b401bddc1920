// Package durable writes files that must survive a crash. It is not for
// records, which go to the catalog, nor for large files.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile makes or replaces the file at path, whose folder must exist. After
// a crash at any moment it is the old one or the new one, whole; when WriteFile
// has returned nil it is the new one. The file is written as path with ".new"
// at its end first, so two callers must not write one path at a time.
func WriteFile(path string, mode fs.FileMode, data []byte) error {
	tmp := path + ".new"
	if err := write(tmp, mode, data); err != nil {
		_ = os.Remove(tmp) // on a full disk every block counts
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// write makes the file anew: one that a crash left may be readable by others.
func write(path string, mode fs.FileMode, data []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// Sync makes what was made, renamed and removed in a folder survive a crash.
func Sync(dir string) error { return syncDir(dir) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
