package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// peer starts a process in a container from its image's unpacked root file
// system, on the host's network, with nothing around it: what any platform
// built on that runtime cannot be faster than.
type peer struct {
	name  string
	start func(id, bundle string) *exec.Cmd
	end   func(id string)
}

// peers are the runtimes that this machine has.
func (b *bench) peers() []peer {
	var out []peer
	if runc, err := exec.LookPath("runc"); err == nil {
		out = append(out, peer{"runc run",
			func(id, bundle string) *exec.Cmd { return exec.Command(runc, "run", "--bundle", bundle, id) },
			func(id string) { exec.Command(runc, "delete", "--force", id).Run() }})
	}
	runsc := filepath.Join(b.bin, "runsc")
	if _, err := os.Stat(runsc); err == nil {
		root := filepath.Join(b.work, "runsc-root")
		global := []string{"--root", root, "--platform=systrap", "--network=host", "--ignore-cgroups"}
		out = append(out, peer{"runsc run",
			func(id, bundle string) *exec.Cmd {
				return exec.Command(runsc, append(global, "run", "--bundle", bundle, id)...)
			},
			func(id string) { exec.Command(runsc, append(global, "delete", "--force", id)...).Run() }})
	}
	return out
}

// cold measures a peer's start to the first byte. Its app listens on 8080 of
// the host.
func (p peer) cold(b *bench, img *benchImage, round int) (time.Duration, error) {
	id := fmt.Sprintf("pgbench-%s-%d-%d", img.name, os.Getpid(), round)
	bundle := filepath.Join(b.work, "bundle-"+id)
	if err := writeBundle(bundle, img); err != nil {
		return 0, err
	}
	defer os.RemoveAll(bundle)
	cmd := p.start(id, bundle)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	took, err := until("127.0.0.1:8080", began)
	p.end(id)
	cmd.Process.Kill()
	cmd.Wait()
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
