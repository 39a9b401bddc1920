//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const (
	lockWait      = 15 * time.Second
	runtimeGrace  = 10 * time.Second
	lockRetryWait = 20 * time.Millisecond
)

// lockDir makes this process the only builder of dir. One that is just ending is waited for.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	deadline := time.Now().Add(lockWait)
	for {
		f, err := tryLock(dir)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		// flock cannot be waited for together with a context.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockRetryWait):
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("cannot start the builder: another one runs in %q", dir)
		}
	}
}

// tryLock fails with EWOULDBLOCK while a builder lives in dir. The kernel drops the lock with its process.
func tryLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the build cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock the build cache %q: %w", dir, err)
	}
	return f, nil
}

// clean removes what a builder that was killed left behind: the containers of its RUN steps, mounts, temporary
// files. The caller holds the lock of dir.
func clean(ctx context.Context, dir, runtime string, log *slog.Logger) error {
	bundles, err := filepath.Glob(filepath.Join(statePath(dir), "runc-*", "executor", "*", "config.json"))
	if err != nil {
		return fmt.Errorf("cannot clean up after the last builder: %w", err)
	}
	for _, b := range bundles {
		id := filepath.Base(filepath.Dir(b))
		log.Info("ending a build step that a killed builder left", "container", id)
		deleteContainer(ctx, dir, runtime, id, log)
	}
	if err := unmountUnder(dir); err != nil {
		return err
	}
	left := []string{tmpPath(dir), runPath(dir)}
	for _, b := range bundles {
		left = append(left, filepath.Dir(b))
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("cannot clean up after the last builder: %w", err)
		}
	}
	return nil
}

// deleteContainer tolerates a runtime that does not know the container: the builder may have died before or after.
func deleteContainer(ctx context.Context, dir, runtime, id string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, runtimeGrace)
	defer cancel()
	cmd := exec.CommandContext(ctx, runtime, "delete", "--force", id)
	cmd.Env = append(os.Environ(), runDirEnv+"="+runPath(dir))
	out, err := cmd.CombinedOutput()
	if err != nil {
		log.Warn("cannot end a left build step", "container", id, "error", err, "output", strings.TrimSpace(string(out)))
	}
}

// unmountUnder detaches every mount below dir, the last made first, and fails unless none is left: removing files
// through a mount would empty the cache.
func unmountUnder(dir string) error {
	mounts, err := mountsUnder(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unmount %q that the last builder left: %w", mounts[i].Mountpoint, err)
		}
	}
	if mounts, err = mountsUnder(dir); err == nil && len(mounts) > 0 {
		err = fmt.Errorf("cannot unmount %q that the last builder left: it is still there", mounts[0].Mountpoint)
	}
	return err
}

func mountsUnder(dir string) ([]*mountinfo.Info, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot list the builder's mounts: %w", err)
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, real+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the builder's mounts: %w", err)
	}
	return mounts, nil
}
