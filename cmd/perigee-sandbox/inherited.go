package main

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// given finds the arguments that tell gVisor's commands of descriptors: --spec-fd=3,
// --io-fds=6,7, --pass-fd=8:1.
var (
	given  = regexp.MustCompile(`^--?[a-z-]*fds?[a-z-]*=(.*)`)
	number = regexp.MustCompile(`\d+`)
)

// closeInherited closes the sockets that this process has of its parent and was not
// given. gVisor's library opens the control sockets of sandboxes so that every process
// begun meanwhile inherits them: a machine's kernel could hold the control of another
// machine, and on a node with some eighty machines they stand where gVisor wants to put a
// machine's output.
func closeInherited(args []string) error {
	keep := map[int]bool{}
	for _, arg := range args {
		if m := given.FindStringSubmatch(arg); m != nil {
			for _, digits := range number.FindAllString(m[1], -1) {
				fd, _ := strconv.Atoi(digits) // a number too large is no descriptor
				keep[fd] = true
			}
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
		// Sockets alone: gVisor's packages open pipes before main, which they need.
		to, err := os.Readlink("/proc/self/fd/" + name)
		if err == nil && strings.HasPrefix(to, "socket:") {
			_ = unix.Close(fd)
		}
	}
	return nil
}
