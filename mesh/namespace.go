package mesh

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

const nsfsMagic = 0x6e736673

// onOwnThread runs f on a thread of its own and brings that thread back to the
// namespace it came from. If it cannot, the thread ends with its goroutine, so
// that no other goroutine ever runs in the wrong network.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := thereAndBack(f)
		if home {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// thereAndBack reports whether the thread is in its own namespace again.
func thereAndBack(f func() error) (bool, error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true, fmt.Errorf("cannot open own network namespace: %w", err)
	}
	defer unix.Close(own)
	err = f()
	if back := unix.Setns(own, unix.CLONE_NEWNET); back != nil {
		return false, errors.Join(err, fmt.Errorf("cannot return to own network namespace: %w", back))
	}
	return true, err
}

// makeNamespace makes a network namespace bound to a new file at path, and runs
// f inside it.
func makeNamespace(path string, f func() error) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	file.Close()
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot bind network namespace to %q: %w", path, err)
		}
		return f()
	})
}

// inNamespace runs f inside the namespace bound to path.
func inNamespace(path string, f func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open network namespace %q: %w", path, err)
	}
	defer unix.Close(fd)
	return onOwnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter network namespace %q: %w", path, err)
		}
		return f()
	})
}

// removeNamespace unbinds and removes the file; the namespace goes with its last
// user. Removing the file also ends copies of the mount in other mount namespaces.
func removeNamespace(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot unbind network namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove network namespace: %w", err)
	}
	return nil
}

// isNamespace reports whether a namespace is bound to path.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && int64(st.Type) == nsfsMagic
}

// removeNamespaces removes the files of ours that no slot in keep uses.
func (n *Network) removeNamespaces(keep map[int]*Slot) error {
	entries, err := os.ReadDir(n.netnsDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list network namespaces: %w", err)
	}
	used := map[string]bool{}
	for _, s := range keep {
		used[s.HostDevice] = true
	}
	var errs []error
	for _, e := range entries {
		if _, ours := n.slotID(e.Name()); ours && !used[e.Name()] {
			errs = append(errs, removeNamespace(filepath.Join(n.netnsDir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}
