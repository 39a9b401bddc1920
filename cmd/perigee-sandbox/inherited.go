package main

import (
	"errors"
	"os"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// given finds the descriptors that gVisor's commands are told of: --spec-fd=3,
// --io-fds=6, --pass-fd=7:1.
var given = regexp.MustCompile(`^--?[a-z-]*fds?[a-z-]*=(\d+)`)

// closeInherited closes what this process has of its parent's and was not given. gVisor's
// library opens the control sockets of sandboxes so that every process begun meanwhile
// inherits them: a machine's kernel could hold the control of another machine, and on a
// node with some eighty machines they stand where gVisor wants to put a machine's output.
func closeInherited(args []string) error {
	keep := map[int]bool{}
	for _, arg := range args {
		if m := given.FindStringSubmatch(arg); m != nil {
			fd, _ := strconv.Atoi(m[1]) // digits; a number too large is no descriptor
			keep[fd] = true
		}
	}
	dir, err := os.Open("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return nil // a file server in its own root, which its first self has gone over
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd < 3 || keep[fd] {
			continue
		}
		// What this process has opened by itself is closed on exec.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}
