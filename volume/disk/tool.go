package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// toolError is a tool of e2fsprogs that failed.
type toolError struct {
	name string
	code int
	said string
}

// Error tells what the tool said.
func (e *toolError) Error() string {
	return fmt.Sprintf("%s ended with code %d: %s", e.name, e.code, e.said)
}

// run runs a tool of e2fsprogs that changes an image. The tool outlives a daemon
// that is killed, so it holds a lock that the next one waits for.
func run(ctx context.Context, image, name string, args ...string) error {
	path, err := find(name)
	if err != nil {
		return err
	}
	lock, err := lockImage(image)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := idle(ctx, image); err != nil {
		return fmt.Errorf("cannot run %s: %w", name, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.ExtraFiles = []*os.File{lock} // the child's copy keeps the lock
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &toolError{name, exit.ExitCode(), strings.TrimSpace(said.String())}
	}
	return err
}

// lockImage waits until no tool changes the image; until the file is closed none
// begins to.
func lockImage(image string) (*os.File, error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// find looks where tools for root are too, which is not on everyone's PATH.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, name); unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("cannot find the program %s: install e2fsprogs", name)
}

// Check reports what this server lacks for volumes.
func Check() error {
	for _, name := range []string{"mkfs.ext4", "resize2fs", "e2fsck"} {
		if _, err := find(name); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return fmt.Errorf("this server has no loop devices: %w", err)
	}
	return nil
}
