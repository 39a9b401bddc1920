package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/state/statefile"
	gsandbox "gvisor.dev/gvisor/runsc/sandbox"

	"github.com/perigee-run/perigee/sandbox"
)

// manifestFile lies beside gVisor's files in a snapshot's directory and says
// for what it is good. Written last, it makes the snapshot whole.
const manifestFile = "perigee.json"

// manifest is the contents of manifestFile.
type manifest struct {
	Build buildID `json:"build"`
	// CPU names the processor features that programs in the snapshot may have
	// seen and use.
	CPU string `json:"cpu"`
	// Spec is the hash of what was run, Rootfs of the image it was run from.
	Spec   string                  `json:"spec"`
	Rootfs string                  `json:"rootfs"`
	Files  map[string]snapshotFile `json:"files"`
}

type snapshotFile struct {
	Size int64  `json:"size"`
	CRC  uint32 `json:"crc32c"`
}

// buildID tells two builds of this program apart: a snapshot is gVisor's own
// data structures, as that build lays them out.
type buildID struct {
	Version string `json:"version"`
	Program string `json:"program"`
}

func thisBuild() (buildID, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return buildID{}, fmt.Errorf("cannot read this program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return buildID{}, fmt.Errorf("cannot read this program: %w", err)
	}
	return buildID{Version: gvisorVersion(), Program: hex.EncodeToString(h.Sum(nil)[:16])}, nil
}

// hostCPU is the hash of the processor's features.
var hostCPU = sync.OnceValue(func() string {
	cpuid.Initialize()
	return hashOf(cpuid.HostFeatureSet().FlagString())
})

// manifestFor is what a snapshot of spec must say, but for its files.
func (s *supervisor) manifestFor(spec *sandbox.Spec) (*manifest, error) {
	rootfs, err := rootfsID(spec.Rootfs)
	if err != nil {
		return nil, err
	}
	return &manifest{Build: s.build, CPU: hostCPU(), Spec: specID(spec), Rootfs: rootfs}, nil
}

// specID is the hash of all that must be the same in a restored machine. Where
// it lies on the host, and its limits, may differ.
func specID(spec *sandbox.Spec) string {
	c := *spec
	c.ID, c.Rootfs, c.Netns, c.Console, c.Hostname, c.WritableDir, c.Resources = "", "", "", "", "", "", sandbox.Resources{}
	c.Files = nil
	c.Mounts = slices.Clone(spec.Mounts)
	for i := range c.Mounts {
		c.Mounts[i].Source = ""
	}
	c.Sockets = slices.Clone(spec.Sockets)
	for i := range c.Sockets {
		c.Sockets[i].Host = ""
	}
	b, _ := json.Marshal(c) // plain data
	return hashOf(string(b))
}

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// rootfsID is an image's size and superblock, which holds its time and UUID.
func rootfsID(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the root file system: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("cannot read the root file system: %w", err)
	}
	head := make([]byte, 4096)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("cannot read the root file system: %w", err)
	}
	return hashOf(fmt.Sprintf("%d %s", info.Size(), head[:n])), nil
}

// checkpoint pauses a machine and saves it into dir. It stays paused, so that
// a request that arrives meanwhile only has to resume it.
func (s *supervisor) checkpoint(_ context.Context, id, dir string) error {
	b, err := s.find(id)
	if err != nil {
		return err
	}
	tmp := dir + ".new"
	defer os.RemoveAll(tmp)
	if err := s.save(b, tmp, dir); err != nil {
		return fmt.Errorf("cannot save %q: %w", id, err)
	}
	// The disk may take its time: a request need not wait for it.
	if err := s.seal(b.rec.Spec, tmp, dir); err != nil {
		return fmt.Errorf("cannot save %q: %w", id, err)
	}
	if err := s.checkPast(b, dir); err != nil {
		return fmt.Errorf("cannot save %q: %w", id, err)
	}
	return nil
}

// A machine that has files of the host has one future: from a snapshot it goes on
// once, and not at all if it went on without. Its memory of the files would not be
// as they are.

// rememberPast notes, before it is there, where the snapshot of a machine with
// files of the host will be. The caller holds opMu.
func (s *supervisor) rememberPast(b *box, dir string) error {
	if len(b.rec.Spec.Mounts) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.Past = dir
	return b.rec.save(s.boxDir(b.rec.ID))
}

// checkPast spends a snapshot that was being written while its machine went on.
func (s *supervisor) checkPast(b *box, dir string) error {
	b.opMu.Lock()
	defer b.opMu.Unlock()
	if len(b.rec.Spec.Mounts) == 0 || b.rec.Past == dir {
		return nil
	}
	return errors.Join(spend(dir), fmt.Errorf("it runs on: %w", sandbox.ErrState))
}

// spendPast makes the snapshot of a machine that goes on without it useless. The
// caller holds opMu.
func (b *box) spendPast() error {
	if b.rec.Past == "" {
		return nil
	}
	if err := spend(b.rec.Past); err != nil {
		return err
	}
	b.forgetPast()
	return nil
}

// forgetPast leaves the record on the disk as it is: at worst a snapshot is spent
// twice.
func (b *box) forgetPast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.Past = ""
}

// saved says that the machine has a snapshot that it did not go on after.
func (b *box) saved() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec.Past != ""
}

// spend makes a snapshot useless, for good. One that is gone is no error.
func spend(dir string) error {
	if err := os.Remove(filepath.Join(dir, manifestFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// syncMounts forces what the machine has written to its files to disk: a snapshot
// must not know of more than they do after a power cut.
func syncMounts(mounts []sandbox.Mount) error {
	for _, m := range mounts {
		if m.ReadOnly {
			continue
		}
		f, err := os.Open(m.Source)
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Syncfs(int(f.Fd())), f.Close()); err != nil {
			return fmt.Errorf("cannot flush %q: %w", m.Source, err)
		}
	}
	return nil
}

func (s *supervisor) pauseForSave(b *box) error {
	switch state := b.state(); state {
	case sandbox.StatePaused:
		return nil
	case sandbox.StateRunning:
		if err := b.handle().Pause(b.rec.Container); err != nil {
			return err
		}
		return b.setState(s.boxDir(b.rec.ID), sandbox.StatePaused)
	default:
		return fmt.Errorf("it is %s: %w", state, sandbox.ErrState)
	}
}

// save pauses the machine and writes its memory to tmp, which will be dir.
func (s *supervisor) save(b *box, tmp, dir string) error {
	b.opMu.Lock()
	defer b.opMu.Unlock()
	if err := s.endGuests(b); err != nil {
		return err
	}
	if err := s.pauseForSave(b); err != nil {
		return err
	}
	if b.rec.Spec.WritableDir != "" {
		return fmt.Errorf("its writable layer is on the host, which a snapshot cannot hold: %w", sandbox.ErrState)
	}
	if len(b.rec.Spec.Sockets) > 0 {
		if err := b.callLine("HangUp", &struct{}{}); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	if err := s.rememberPast(b, dir); err != nil {
		return err
	}
	opts := gsandbox.CheckpointOpts{Compression: statefile.CompressionLevelNone, Resume: true}
	err := b.handle().Checkpoint(s.confFor(b.rec.Netns), b.rec.Container, tmp, opts)
	if err != nil {
		b.forgetPast()
	}
	return err
}

// seal makes the files in tmp a snapshot and puts it at dir in one step.
func (s *supervisor) seal(spec *sandbox.Spec, tmp, dir string) error {
	m, err := s.manifestFor(spec)
	if err != nil {
		return err
	}
	if err := syncMounts(spec.Mounts); err != nil {
		return err
	}
	if m.Files, err = sealFiles(tmp); err != nil {
		return err
	}
	if err := writeManifest(tmp, m); err != nil {
		return err
	}
	if err := replaceDir(tmp, dir); err != nil {
		return err
	}
	s.sums.trust(dir, m.Files)
	return nil
}

// sealFiles sums up and flushes the files of a snapshot.
func sealFiles(dir string) (map[string]snapshotFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string]snapshotFile{}
	for _, e := range entries {
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		sum, err := sumFile(f)
		err = errors.Join(err, f.Sync(), f.Close())
		if err != nil {
			return nil, err
		}
		files[e.Name()] = sum
	}
	return files, nil
}

func writeManifest(dir string, m *manifest) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, manifestFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceDir puts tmp in the place of dir; after a crash dir is one of both,
// or missing.
func replaceDir(tmp, dir string) error {
	if err := syncDir(tmp); err != nil {
		return err
	}
	old := dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(old), syncDir(filepath.Dir(dir)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// restore runs a machine on from a snapshot. Whatever is wrong with the
// snapshot is an ErrSnapshot; what can be seen from outside is seen before the
// prepared sandbox is used up.
func (s *supervisor) restore(ctx context.Context, spec *sandbox.Spec, from, dir string) error {
	if err := checkSpec(spec); err != nil {
		return fmt.Errorf("cannot restore %q: %w", spec.ID, err)
	}
	m, err := s.checkManifest(spec, dir)
	if err != nil {
		return fmt.Errorf("cannot restore %q from %q: %w: %w", spec.ID, dir, sandbox.ErrSnapshot, err)
	}
	check := func() error { return snapshotError(s.sums.check(dir, m.Files)) }
	run := func(b *box, oci *specs.Spec) error {
		if len(spec.Mounts) > 0 {
			if err := spend(dir); err != nil {
				return err
			}
		}
		return snapshotError(b.rec.Sandbox.Restore(s.confFor(b.rec.Netns), oci, b.rec.Container, dir, false, false, nil))
	}
	restored := *spec
	restored.Files = nil // the snapshot has them
	if err := s.launch(ctx, &restored, from, check, run); err != nil {
		return fmt.Errorf("cannot restore %q: %w", spec.ID, err)
	}
	return nil
}

func snapshotError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", sandbox.ErrSnapshot, err)
}

// maxManifest bounds what is read of a manifest.
const maxManifest = 1 << 16

func (s *supervisor) checkManifest(spec *sandbox.Spec, dir string) (*manifest, error) {
	m, err := readManifest(dir)
	if err != nil {
		return nil, err
	}
	want, err := s.manifestFor(spec)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Build != want.Build:
		return nil, errors.New("it was saved by another build of perigee-sandbox")
	case m.CPU != want.CPU:
		return nil, errors.New("it was saved on another kind of processor")
	case m.Rootfs != want.Rootfs:
		return nil, errors.New("it was saved from another image")
	case m.Spec != want.Spec:
		return nil, errors.New("it was saved with another command, environment or user")
	}
	return m, checkSizes(dir, m.Files)
}

func readManifest(dir string) (*manifest, error) {
	f, err := os.Open(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, fmt.Errorf("it is not whole: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return nil, err
	}
	return parseManifest(b)
}

func parseManifest(b []byte) (*manifest, error) {
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("its manifest is damaged: %w", err)
	}
	for name := range m.Files {
		if name != filepath.Base(name) || name == "." || name == ".." {
			return nil, fmt.Errorf("its manifest names a strange file %q", name)
		}
	}
	if len(m.Files) == 0 {
		return nil, errors.New("its manifest names no files")
	}
	return &m, nil
}

func checkSizes(dir string, files map[string]snapshotFile) error {
	for name, want := range files {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != want.Size {
			return fmt.Errorf("file %q is not as it was saved", name)
		}
	}
	return nil
}
