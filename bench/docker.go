package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// docker is a Docker daemon of the benchmark's own: in the benchmark's network
// namespace, without a bridge or packet filter rules, its data in the work
// folder.
type docker struct {
	dir string
	cmd *exec.Cmd
}

// startDocker starts the daemon and waits until it answers. What keeps it from
// running is the error, and goes into the table.
func startDocker(ctx context.Context, dir string) (*docker, error) {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("dockerd is not installed")
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, fmt.Errorf("docker's command line is not installed")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &docker{dir: dir, cmd: exec.Command(dockerd, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--host", "unix://"+dir+"/sock", "--bridge=none", "--cgroup-parent=/"+dockerGroup, "--iptables=false", "--ip6tables=false")}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		if _, err = d.do("version"); err == nil || ctx.Err() != nil {
			return d, ctx.Err()
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.stop()
	said, _ := os.ReadFile(log.Name())
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return nil, fmt.Errorf("dockerd does not run here: %s", lines[len(lines)-1])
}

const dockerGroup = "pgbench-docker"

// stop ends the daemon and what it would leave behind: a mounted network
// namespace and its control groups.
func (d *docker) stop() {
	defer func() {
		syscall.Unmount(d.dir+"/exec/netns/default", syscall.MNT_DETACH)
		for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
			groups, _ := filepath.Glob(pattern + dockerGroup)
			for _, g := range groups {
				syscall.Rmdir(g)
			}
		}
	}()
	d.cmd.Process.Signal(os.Interrupt)
	done := make(chan struct{})
	go func() { d.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		d.cmd.Process.Kill()
		<-done
	}
}

func (d *docker) command(args ...string) *exec.Cmd {
	return exec.Command("docker", append([]string{"--host", "unix://" + d.dir + "/sock"}, args...)...)
}

func (d *docker) do(args ...string) (string, error) {
	out, err := d.command(args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// load brings the image, and makes the container that start and unpause use.
func (d *docker) load(img *benchImage) error {
	if _, err := d.do("load", "--input", img.archive); err != nil {
		return err
	}
	_, err := d.do("create", "--network", "host", "--name", img.name, img.name+":bench")
	return err
}

// run measures docker run of a new container.
func (d *docker) run(img *benchImage) (time.Duration, error) {
	defer d.do("rm", "--force", "fresh")
	return d.toFirstByte("run", "--detach", "--network", "host", "--name", "fresh", img.name+":bench")
}

// again measures docker start of a container that stands ready, stopped.
func (d *docker) again(img *benchImage) (time.Duration, error) {
	defer d.do("kill", img.name)
	return d.toFirstByte("start", img.name)
}

// unpause measures docker unpause. The request is already there, as it is with
// us: the frozen app's kernel has accepted it.
func (d *docker) unpause(img *benchImage) (time.Duration, error) {
	defer d.do("kill", img.name)
	if _, err := d.toFirstByte("start", img.name); err != nil {
		return 0, err
	}
	if _, err := d.do("pause", img.name); err != nil {
		return 0, err
	}
	time.Sleep(rest / 3)
	return d.toFirstByte("unpause", img.name)
}

func (d *docker) toFirstByte(args ...string) (time.Duration, error) {
	cmd := d.command(args...)
	said := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = said, said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	took, err := until(peerAddr, began)
	if werr := cmd.Wait(); werr != nil {
		return 0, fmt.Errorf("docker %s: %w: %s", args[0], werr, strings.TrimSpace(said.String()))
	}
	return took, err
}
