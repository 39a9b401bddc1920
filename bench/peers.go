package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// peerAddr is where the apps of all peers listen: they use the network of the
// benchmark's namespace.
const peerAddr = "127.0.0.1:8080"

// contender is one peer's way to bring an app from rest to its first byte.
type contender struct {
	name  string
	kin   string // the depth of ours that it is like
	start func(*benchImage) (time.Duration, error)
}

// contenders are those that this machine has; absent says why the others are
// not among them.
func (b *bench) contenders(d *docker) (out []contender, absent map[string]string) {
	absent = map[string]string{}
	for _, p := range []string{"runc", "runsc"} {
		r, err := b.runtime(p)
		if err != nil {
			absent[p+" run"] = err.Error()
			continue
		}
		out = append(out, contender{p + " run", "cold", r.cold})
	}
	if d != nil {
		out = append(out, contender{"docker run", "cold", d.run}, contender{"docker start", "cold", d.again},
			contender{"docker unpause", "paused", d.unpause})
	}
	return out, absent
}

// plainRuntime starts a process in a container from its image's unpacked root file
// system, on the host's network, with nothing around it: what any platform
// built on it cannot be faster than.
type plainRuntime struct {
	command []string
	work    string
	runs    int
}

func (b *bench) runtime(name string) (*plainRuntime, error) {
	switch name {
	case "runc":
		runc, err := exec.LookPath("runc")
		if err != nil {
			return nil, fmt.Errorf("runc is not installed")
		}
		return &plainRuntime{command: []string{runc}, work: b.work}, nil
	default:
		runsc := filepath.Join(b.bin, "runsc")
		if _, err := os.Stat(runsc); err != nil {
			return nil, fmt.Errorf("stock runsc is not built: make bench does it")
		}
		return &plainRuntime{work: b.work, command: []string{runsc, "--root", filepath.Join(b.work, "runsc"), "--platform=systrap",
			"--network=host", "--ignore-cgroups"}}, nil
	}
}

// do makes a command of the runtime.
func (r *plainRuntime) do(args ...string) *exec.Cmd {
	return exec.Command(r.command[0], append(r.command[1:len(r.command):len(r.command)], args...)...)
}

// cold measures a start to the first byte.
func (r *plainRuntime) cold(img *benchImage) (time.Duration, error) {
	r.runs++
	id := fmt.Sprintf("pgbench-%s-%s-%d-%d", filepath.Base(r.command[0]), img.name, os.Getpid(), r.runs)
	bundle := filepath.Join(r.work, "bundle-"+id)
	if err := writeBundle(bundle, img); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bundle)
	cmd := r.do("run", "--bundle", bundle, id)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	took, err := until(peerAddr, began)
	r.do("kill", id, "KILL").Run()
	cmd.Wait()
	r.do("delete", "--force", id).Run()
	return took, err
}

func writeBundle(dir string, img *benchImage) error {
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process":    map[string]any{"user": map[string]any{"uid": 0, "gid": 0}, "args": img.args, "env": []string{"PATH=/usr/bin:/bin"}, "cwd": "/"},
		"root":       map[string]any{"path": img.rootfs, "readonly": true},
		"hostname":   "bench",
		"mounts": []any{
			map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
			map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			map[string]any{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
		},
		"linux": map[string]any{"namespaces": []any{map[string]any{"type": "pid"}, map[string]any{"type": "ipc"}, map[string]any{"type": "uts"}, map[string]any{"type": "mount"}}},
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o644)
}
