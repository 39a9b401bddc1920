package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// run runs a tool of e2fsprogs that changes an image. One that is stopped in the
// middle leaves a broken file system, so it is left to itself when ctx ends, as when
// the daemon is killed: it holds a lock that whoever comes next waits for.
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
	said, err := scratch()
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.ExtraFiles = []*os.File{lock} // the child's copy keeps the lock
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Start(); err != nil {
		said.Close()
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer said.Close()
		done <- outcome(name, cmd.Wait(), said)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s goes on by itself: %w", name, ctx.Err())
	}
}

// scratch is a file without a name. What a tool says goes there, for a pipe would end
// with the daemon, and the tool with that.
func scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "perigee-tool-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

func outcome(name string, err error, said *os.File) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	text, _ := io.ReadAll(io.NewSectionReader(said, 0, 4096))
	return &toolError{name, exit.ExitCode(), strings.TrimSpace(string(text))}
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
