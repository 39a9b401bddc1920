package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/perigee-run/perigee/sandbox"
)

// start runs a machine from the beginning, in the prepared sandbox from or in
// a new one.
func (s *supervisor) start(ctx context.Context, spec *sandbox.Spec, from string) error {
	run := func(b *box, oci *specs.Spec) error {
		return b.rec.Sandbox.StartRoot(s.confFor(b.rec.Netns), oci)
	}
	if err := s.launch(ctx, spec, from, nil, run); err != nil {
		return fmt.Errorf("cannot start %q: %w", spec.ID, err)
	}
	return nil
}

// launch claims a sandbox for spec and lets run begin it. check, if any, runs
// beside the claim and must agree.
func (s *supervisor) launch(ctx context.Context, spec *sandbox.Spec, from string, check func() error, run func(*box, *specs.Spec) error) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	b, err := s.claimable(ctx, spec, from)
	if err != nil {
		return err
	}
	defer b.opMu.Unlock()
	defer s.hurry.begin()()
	if err := s.begin(b, spec, check, run); err != nil {
		s.discard(b)
		return err
	}
	return nil
}

// claimable returns a booted sandbox under spec.ID, with its opMu held.
func (s *supervisor) claimable(ctx context.Context, spec *sandbox.Spec, from string) (*box, error) {
	if from == "" {
		if err := s.prepare(ctx, spec.ID, spec.Netns); err != nil {
			return nil, err
		}
		b, err := s.find(spec.ID)
		if err != nil {
			return nil, err
		}
		b.opMu.Lock()
		return b, nil
	}
	b, err := s.find(from)
	if err != nil {
		return nil, err
	}
	b.opMu.Lock()
	if err := s.rename(b, from, spec); err != nil {
		b.opMu.Unlock()
		return nil, err
	}
	return b, nil
}

// rename gives a prepared sandbox its machine's id.
func (s *supervisor) rename(b *box, from string, spec *sandbox.Spec) error {
	if state := b.state(); state != sandbox.StatePrepared {
		return fmt.Errorf("sandbox %q is %s, not prepared: %w", from, state, sandbox.ErrState)
	}
	if spec.Netns != "" && spec.Netns != b.rec.Netns {
		return fmt.Errorf("sandbox %q was prepared in %q, not in %q: %w", from, b.rec.Netns, spec.Netns, sandbox.ErrInvalid)
	}
	if from == spec.ID {
		return nil
	}
	if err := s.reserve(spec.ID, b); err != nil {
		return err
	}
	if err := os.Rename(s.boxDir(from), s.boxDir(spec.ID)); err != nil {
		s.forget(spec.ID)
		return fmt.Errorf("cannot rename its directory: %w", err)
	}
	s.forget(from)
	b.mu.Lock()
	b.rec.ID = spec.ID
	b.mu.Unlock()
	return nil
}

// begin hands the machine to the waiting process and runs it.
func (s *supervisor) begin(b *box, spec *sandbox.Spec, check func() error, run func(*box, *specs.Spec) error) error {
	dir := s.boxDir(spec.ID)
	b.mu.Lock()
	b.rec.Spec, b.rec.State = spec, sandbox.StateCreated
	err := b.rec.save(dir)
	b.mu.Unlock()
	if err != nil {
		return err
	}
	agreed := make(chan error, 1)
	go func() {
		if check == nil {
			agreed <- nil
			return
		}
		agreed <- check()
	}()
	oci := ociSpec(spec, filepath.Join(dir, "root"))
	err = errors.Join(s.claim(b, spec, oci, dir), <-agreed)
	if err != nil {
		return err
	}
	if err := run(b, oci); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.State, b.rec.StartedAt = sandbox.StateRunning, time.Now()
	return b.rec.save(dir)
}

// claim sets the limits, opens the machine's files and sends both.
func (s *supervisor) claim(b *box, spec *sandbox.Spec, oci *specs.Spec, dir string) error {
	if err := s.groups.limit(b.rec.Container, spec.Resources); err != nil {
		return err
	}
	var files fileSet
	defer files.close()
	if err := s.openStdio(&files, b, spec); err != nil {
		return err
	}
	files.open(filepath.Join(dir, exitFile), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	c := newClaim(spec, oci)
	if err := s.openRoot(&files, b, spec, c, dir); err != nil {
		return err
	}
	if c.Sockets = guestSockets(spec); len(c.Sockets) > 0 && files.err == nil {
		line, err := s.newLine(b, spec.Sockets)
		if err != nil {
			return err
		}
		files.add(line)
	}
	if files.err != nil {
		return files.err
	}
	err := sendClaim(b.claim, c, files.files)
	b.claim.Close()
	return err
}

func newClaim(spec *sandbox.Spec, oci *specs.Spec) *claim {
	memory := hostMemory()
	c := &claim{Spec: oci, HostMemory: memory, MemoryBytes: memory, CPUs: runtime.NumCPU(), CPUQuota: -1}
	if spec.Resources.MemoryMiB > 0 {
		c.MemoryBytes = min(memory, uint64(max(spec.Resources.MemoryMiB, spec.Resources.MaxMemoryMiB))<<20)
	}
	if quota := cpuQuota(spec.Resources); quota > 0 {
		c.CPUQuota, c.CPUPeriod = quota, cpuPeriod
		// Some programs leave locks out when they see one processor.
		c.CPUs = min(c.CPUs, max(2, int((quota+cpuPeriod-1)/cpuPeriod)))
	}
	return c
}

var hostMemory = sync.OnceValue(func() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
})

// openRoot opens the root file system, the files over it, and the mounts.
func (s *supervisor) openRoot(files *fileSet, b *box, spec *sandbox.Spec, c *claim, dir string) error {
	// A read-only machine has the layer too, mounted read-only: for our files and
	// for mount points that the image lacks.
	overlay := specutils.GoferMountConf{Lower: specutils.Erofs, Upper: specutils.MemoryOverlay}
	if spec.WritableDir == "" && len(spec.Mounts) == 0 {
		image := files.open(spec.Rootfs, unix.O_RDONLY, 0)
		c.Mounts, c.GoferFDs = []specutils.GoferMountConf{overlay}, 1
		return s.openUpper(files, image, spec, c)
	}
	return s.openGofer(files, b, spec, c, overlay, dir)
}

func (s *supervisor) openUpper(files *fileSet, image *os.File, spec *sandbox.Spec, c *claim) error {
	places := mountPoints(spec, c.Spec)
	if len(spec.Files)+len(places) == 0 || files.err != nil {
		return nil
	}
	upper, err := upperTar(image, spec.Files, places)
	if err != nil {
		return err
	}
	files.add(upper)
	c.UpperTar = true
	return nil
}

// mountPoints are those that gVisor cannot make itself, because the machine's
// root is read-only.
func mountPoints(spec *sandbox.Spec, oci *specs.Spec) []string {
	if !spec.ReadOnly {
		return nil
	}
	places := []string{"/tmp"} // gVisor makes it for every machine
	for _, m := range oci.Mounts {
		if info, err := os.Stat(m.Source); m.Type != "bind" || err == nil && info.IsDir() {
			places = append(places, m.Destination)
		}
	}
	return places
}

// fileSet collects the files of a claim; the first error stays.
type fileSet struct {
	files []*os.File
	err   error
}

func (s *fileSet) open(path string, flags int, mode os.FileMode) *os.File {
	if s.err != nil {
		return nil
	}
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		s.err = err
		return nil
	}
	s.files = append(s.files, f)
	return f
}

func (s *fileSet) add(f ...*os.File) { s.files = append(s.files, f...) }

func (s *fileSet) close() {
	for _, f := range s.files {
		f.Close()
	}
}
