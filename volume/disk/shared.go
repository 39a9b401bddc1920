package disk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Share prepares the folder that holds disks. Processes with mount namespaces of
// their own, as sandboxes are, have copies of the mounts that there are when they
// begin; only below a shared mount does an unmount here reach them. Else a file
// system would go on there, unseen, after it was unmounted. To do so again is no
// error.
func Share(dir string) error {
	if !isMount(dir) {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot prepare %s for volumes: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot prepare %s for volumes: %w", dir, err)
	}
	return nil
}

// Unshare ends what Share began, once no disk in the folder is mounted.
func Unshare(dir string) error {
	for isMount(dir) {
		if err := unix.Unmount(dir, 0); err != nil {
			return err
		}
	}
	return nil
}

// isMount reports whether a file system, also a part of the same one, is mounted at
// the folder.
func isMount(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st)
	return err == nil && st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// idle waits until the image is mounted nowhere, and fails when that does not come.
// No tool may change an image that the kernel has a file system over.
func idle(ctx context.Context, image string) error {
	for end := time.Now().Add(5 * time.Second); ; {
		loop, err := loopOf(image)
		if loop == nil || err != nil {
			return err
		}
		loop.Close()
		if time.Now().After(end) {
			return errors.New("it is mounted still, by a process in a namespace of its own")
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
