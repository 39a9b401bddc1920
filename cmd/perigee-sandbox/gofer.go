package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/specutils"

	"github.com/perigee-run/perigee/sandbox"
)

// openGofer starts the machine's file server, a process in namespaces of its
// own that sees the machine's mounts and nothing else, and adds its sockets.
func (s *supervisor) openGofer(files *fileSet, b *box, spec *sandbox.Spec, c *claim, overlay specutils.GoferMountConf, dir string) error {
	oci := c.Spec
	root := overlay
	if spec.WritableDir != "" {
		if err := s.mountWritable(b, spec, oci.Root.Path, dir); err != nil {
			return err
		}
		root = specutils.GoferMountConf{Lower: specutils.Lisafs, Upper: specutils.NoOverlay}
	}
	c.Mounts = append(specutils.GoferMountConfFlags{root}, goferConfs(spec)...)
	var sockets goferSockets
	defer sockets.close()
	if err := sockets.make(c.Mounts); err != nil {
		return err
	}
	var image *os.File
	if !root.ShouldUseLisafs() {
		image = files.open(spec.Rootfs, unix.O_RDONLY, 0)
	}
	if files.err != nil {
		return files.err
	}
	mounts, err := s.startGofer(b, oci, c.Mounts, &sockets, dir)
	if err != nil {
		return err
	}
	oci.Mounts = mounts
	files.add(sockets.take()...)
	c.GoferFDs = len(c.Mounts)
	if image != nil {
		return s.openUpper(files, image, spec, c)
	}
	return writeFiles(oci.Root.Path, spec.Files)
}

func goferConfs(spec *sandbox.Spec) []specutils.GoferMountConf {
	confs := make([]specutils.GoferMountConf, len(spec.Mounts))
	for i := range confs {
		confs[i] = specutils.GoferMountConf{Lower: specutils.Lisafs, Upper: specutils.NoOverlay}
	}
	return confs
}

// goferSockets are the two ends of each mount's connection.
type goferSockets struct{ machine, gofer []*os.File }

func (g *goferSockets) make(confs []specutils.GoferMountConf) error {
	for _, conf := range confs {
		if !conf.ShouldUseLisafs() {
			continue
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("cannot make a socket pair: %w", err)
		}
		g.machine = append(g.machine, os.NewFile(uintptr(fds[0]), "gofer"))
		g.gofer = append(g.gofer, os.NewFile(uintptr(fds[1]), "gofer"))
	}
	return nil
}

// take gives the machine's ends away.
func (g *goferSockets) take() []*os.File {
	out := g.machine
	g.machine = nil
	return out
}

func (g *goferSockets) close() {
	for _, f := range append(g.machine, g.gofer...) {
		f.Close()
	}
}

// startGofer returns the machine's mounts as the gofer resolved them.
func (s *supervisor) startGofer(b *box, oci *specs.Spec, confs specutils.GoferMountConfFlags, sockets *goferSockets, dir string) ([]specs.Mount, error) {
	body, err := json.Marshal(oci)
	if err != nil {
		return nil, fmt.Errorf("cannot write the gofer's spec: %w", err)
	}
	specFile, err := memFile("spec", body)
	if err != nil {
		return nil, err
	}
	defer specFile.Close()
	resolved, resolvedGofer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer resolved.Close()
	rpc, rpcGofer, err := os.Pipe()
	if err != nil {
		resolvedGofer.Close()
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	rpc.Close()
	defer rpcGofer.Close()
	cmd := goferCommand(s.conf.ToFlags(), confs, b.rec.Container, dir, specFile, resolvedGofer, rpcGofer, sockets.gofer)
	err = cmd.Start()
	resolvedGofer.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot start the gofer: %w", err)
	}
	if err := s.keepGofer(b, cmd.Process.Pid, dir); err != nil {
		return nil, err
	}
	return readMounts(resolved)
}

func goferCommand(flags []string, confs specutils.GoferMountConfFlags, id, dir string, spec, mounts, rpc *os.File, sockets []*os.File) *exec.Cmd {
	cmd := exec.Command(specutils.ExePath, flags...)
	cmd.Args[0] = "runsc-gofer"
	cmd.Env = []string{}
	cmd.Args = append(cmd.Args, "gofer", "--bundle", dir, "--gofer-mount-confs="+confs.String(),
		"--spec-fd=3", "--mounts-fd=4", "--rpc-fd=5")
	cmd.ExtraFiles = append([]*os.File{spec, mounts, rpc}, sockets...)
	for i := range sockets {
		cmd.Args = append(cmd.Args, fmt.Sprintf("--io-fds=%d", 6+i))
	}
	cmd.Args = append(cmd.Args, id)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
	}
	return cmd
}

// keepGofer records the gofer, so that a later supervisor knows of it.
func (s *supervisor) keepGofer(b *box, pid int, dir string) error {
	p, err := watch(pid, true)
	if err != nil {
		return err
	}
	since, err := startTime(pid)
	b.mu.Lock()
	b.gofer, b.rec.GoferPid, b.rec.GoferFrom = p, pid, since
	err = errors.Join(err, b.rec.save(dir))
	b.mu.Unlock()
	if err != nil {
		return err
	}
	go b.endWith(p)
	return s.groups.add(b.rec.Container, pid)
}

// endWith ends the machine when its file server has ended: it would go on with
// errors for every file, and nobody would start it again.
func (b *box) endWith(gofer *process) {
	<-gofer.done
	b.mu.Lock()
	main := b.main
	b.mu.Unlock()
	if main != nil {
		_ = main.signal(unix.SIGKILL) // it may have ended, or be on its way out
	}
}

func readMounts(r io.Reader) ([]specs.Mount, error) {
	body, err := io.ReadAll(r)
	if err == nil && len(body) == 0 {
		err = errors.New("it ended early: is each mount's source there?")
	}
	var mounts []specs.Mount
	if err == nil {
		err = json.Unmarshal(body, &mounts)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the gofer's mounts: %w", err)
	}
	return mounts, nil
}

// mountWritable mounts the image with the lasting writable layer over it, on
// the host: the machine reaches it through the gofer.
func (s *supervisor) mountWritable(b *box, spec *sandbox.Spec, root, dir string) error {
	image := filepath.Join(dir, "image")
	upper, work := filepath.Join(spec.WritableDir, "upper"), filepath.Join(spec.WritableDir, "work")
	for _, d := range []string{image, root, upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("cannot make the writable layer: %w", err)
		}
	}
	for _, d := range []string{spec.WritableDir, spec.Rootfs} {
		if strings.ContainsAny(d, ",:\\") {
			return invalid("path %q: an overlay takes no comma, colon or backslash", d)
		}
	}
	if err := mountImage(spec.Rootfs, image); err != nil {
		return err
	}
	s.addMounted(b, image, dir)
	if err := copyOwner(image, upper); err != nil {
		return err
	}
	data := "lowerdir=" + image + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", root, "overlay", 0, data); err != nil {
		return fmt.Errorf("cannot mount the writable layer %q: %w", spec.WritableDir, err)
	}
	s.addMounted(b, root, dir)
	return nil
}

// copyOwner gives the writable layer's root, which hides the image's, the
// owner and mode that the image's has. What the machine changed stays.
func copyOwner(image, upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return fmt.Errorf("cannot look at the image: %w", err)
	}
	entries, err := os.ReadDir(upper)
	if err != nil || len(entries) > 0 {
		return err
	}
	err = errors.Join(os.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
	if err != nil {
		return fmt.Errorf("cannot make the writable layer: %w", err)
	}
	return nil
}

func (s *supervisor) addMounted(b *box, path, dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.Mounted = append(b.rec.Mounted, path)
	if err := b.rec.save(dir); err != nil {
		s.log.Warn("mount not recorded", "path", path, "error", err)
	}
}
