package node

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountMemory keeps a folder in memory. The sandboxes' own state describes
// processes, environment and so secrets included: it means nothing after a
// reboot and has no business on a disk.
func mountMemory(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the sandboxes' state: %w", err)
	}
	if mounted(dir) {
		return nil
	}
	if err := unix.Mount("perigee", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fmt.Errorf("cannot keep the sandboxes' state in memory: mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

func mounted(dir string) bool {
	var here, above unix.Stat_t
	if unix.Stat(dir, &here) != nil || unix.Stat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

func unmountMemory(dir string) error {
	if !mounted(dir) {
		return nil
	}
	return unix.Unmount(dir, unix.MNT_DETACH)
}
