package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Rename moves a file or a folder that was written with care. When it has
// returned nil the new name survives a crash; before, one of the two is there.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("cannot move %s: %w", from, err)
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return syncDir(filepath.Dir(to))
	}
	return errors.Join(syncDir(filepath.Dir(to)), syncDir(filepath.Dir(from)))
}
