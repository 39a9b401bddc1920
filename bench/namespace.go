package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/perigee-run/perigee/internal/debian"
	"github.com/vishvananda/netlink"
)

// errInside says that the inner process failed, and has said why.
var errInside = errors.New("the measurement failed")

// reexec makes what needs the network (the images), then runs the measurement
// in a network namespace of its own: its node then clashes with no other, its
// peers may all listen on port 8080, and nothing of it can stay on the host.
func (b *bench) reexec(ctx context.Context) error {
	if b.needsNode() {
		if err := warmImages(); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp("", "pgbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	cmd := exec.Command("/proc/self/exe", append(os.Args[1:], "-inside", work)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot make a network namespace: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done(): // it ends its node before it ends
		cmd.Process.Signal(syscall.SIGTERM)
		err = <-done
	}
	if err != nil {
		return errInside
	}
	return nil
}

func warmImages() error {
	express, err := debian.Express(npmDir())
	if err != nil {
		return err
	}
	express, _ = withHostNode(express)
	_, err = debian.Image(express)
	return err
}

// npmDir keeps Express between runs.
func npmDir() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "perigee-test", "npm-express")
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find the loopback device: %w", err)
	}
	return netlink.LinkSetUp(lo)
}
