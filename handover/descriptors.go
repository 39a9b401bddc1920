package handover

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// duplicateAll duplicates all or none. The copies stay as the originals are set:
// without waiting.
func duplicateAll[T any](from map[string]T, duplicate func(T) (int, error)) (map[string]int, error) {
	files := map[string]int{}
	for name, old := range from {
		fd, err := duplicate(old)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("cannot hand over %q: %w", name, err)
		}
		files[name] = fd
	}
	return files, nil
}

func duplicateOf(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(old uintptr) { fd, err = duplicate(int(old)) })
	return fd, errors.Join(e, err)
}

func duplicate(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3) }

func closeAll(files map[string]int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}
