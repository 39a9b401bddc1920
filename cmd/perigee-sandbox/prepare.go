package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	gsandbox "gvisor.dev/gvisor/runsc/sandbox"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/perigee-run/perigee/sandbox"
)

// prepare makes a sandbox that waits for its claim.
func (s *supervisor) prepare(_ context.Context, id, netns string) error {
	b := &box{ended: make(chan struct{}), rec: record{ID: id, Container: id, State: sandbox.StatePrepared, Netns: netns}}
	b.opMu.Lock()
	defer b.opMu.Unlock()
	if err := s.reserve(id, b); err != nil {
		return err
	}
	if err := s.boot(b); err != nil {
		s.discard(b)
		return fmt.Errorf("cannot prepare sandbox %q: %w", id, err)
	}
	b.followed = true
	go s.follow(b)
	return nil
}

// boot starts the sandbox process of b and waits until it waits.
func (s *supervisor) boot(b *box) error {
	defer s.hurry.begin()()
	dir := s.boxDir(b.rec.ID)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make its directory: %w", err)
	}
	if err := s.groups.create(b.rec.Container); err != nil {
		return err
	}
	spec, err := writeBundle(dir, b.rec.Netns)
	if err != nil {
		return err
	}
	ours, theirs, err := claimPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	b.claim = ours
	// Any descriptor of ours that the child saw would be the guest's to abuse.
	h, err := gsandbox.New(s.confFor(b.rec.Netns), &gsandbox.Args{
		ID: b.rec.Container, Spec: spec, BundleDir: dir,
		PassFiles:       map[int]*os.File{0: theirs},
		GoferMountConfs: specutils.GoferMountConfFlags{{Lower: specutils.Erofs, Upper: specutils.MemoryOverlay}},
	})
	if err != nil {
		return fmt.Errorf("cannot start the sandbox process: %w", err)
	}
	b.rec.Sandbox, b.rec.Pid = h, h.Getpid()
	if b.main, err = watch(b.rec.Pid, true); err != nil {
		return err
	}
	if b.rec.Since, err = startTime(b.rec.Pid); err != nil {
		return err
	}
	if err := s.groups.add(b.rec.Container, b.rec.Pid); err != nil {
		return err
	}
	if err := sendPlaced(b.claim); err != nil {
		return err
	}
	return b.rec.save(dir)
}

// writeBundle writes the placeholder that gVisor's first half of boot reads:
// only the network namespace in it counts.
func writeBundle(dir, netns string) (*specs.Spec, error) {
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: dir},
		Process: &specs.Process{Args: []string{"/"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}},
		Linux:   &specs.Linux{Namespaces: namespaces(netns)},
	}
	body, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("cannot write the placeholder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), body, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write the placeholder: %w", err)
	}
	return spec, nil
}
