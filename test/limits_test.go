package test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestLimits looks at what the kernel was told of a machine's size, and at what it may
// keep. Processor time is limited a little after the start.
func TestLimits(t *testing.T) {
	n := Start(t)
	image := n.importImage("limits", Tiny(t))
	_, err := n.Client.CreateMachine(context.Background(), "limits", api.CreateMachineRequest{Config: &api.MachineConfig{Image: image, Guest: &api.Guest{CPUs: 1, MemoryMB: 128, PIDs: 64}}})
	if err != nil {
		t.Fatal(err)
	}
	n.told("128 MiB", []string{"memory.limit_in_bytes", "memory.max"}, "134217728")
	n.told("1 CPU", []string{"cpu.cfs_quota_us", "cpu.max"}, "100000")
	n.keeps(image)
}

// keeps: what a machine keeps of its root file system has a size, lasts, and goes with
// the machine.
func (n *Node) keeps(image string) {
	n.T.Helper()
	ctx := context.Background()
	m, err := n.Client.CreateMachine(ctx, "limits", api.CreateMachineRequest{Config: &api.MachineConfig{
		Image: image, Rootfs: &api.Rootfs{Persist: "always", SizeGB: 1}, Init: &api.Init{Exec: []string{"/bin/busybox", "sleep", "100000"}}, StopConfig: &api.StopConfig{Signal: "SIGKILL"},
	}})
	if err != nil {
		n.T.Fatal(err)
	}
	sh := func(line, want string, fails bool) {
		n.T.Helper()
		r, err := n.Client.Exec(ctx, "limits", m.ID, api.ExecRequest{Command: []string{"/bin/busybox", "sh", "-c", line}})
		if err != nil || (r.ExitCode != 0) != fails || !strings.Contains(r.Stdout+r.Stderr, want) {
			n.T.Errorf("%s: %+v, %v; want %q", line, r, err, want)
		}
	}
	restart := func() {
		n.T.Helper()
		if err := n.Client.RestartMachine(ctx, "limits", m.ID); err != nil {
			n.T.Fatal(err)
		}
	}
	sh("echo kept > /f && sync && cat /f", "kept", false)
	sh("dd if=/dev/zero of=/big bs=1M count=1100", "No space left", true)
	sh("rm /big && echo more >> /f", "", false)
	restart()
	sh("cat /f", "kept\nmore", false)
	n.Kill()
	n.Run()
	sh("cat /f && echo after >> /f", "kept\nmore", false)
	restart()
	sh("cat /f", "kept\nmore\nafter", false)
	layer := filepath.Join(n.Data(), "volumes", "layers", m.ID)
	if _, err := os.Stat(filepath.Join(layer, "layer", "image")); err != nil {
		n.T.Error(err)
	}
	if err := n.Client.DestroyMachine(ctx, "limits", m.ID, true); err != nil {
		n.T.Fatal(err)
	}
	if _, err := os.Stat(layer); !os.IsNotExist(err) {
		n.T.Errorf("what a destroyed machine kept: %v", err)
	}
	huge := &api.MachineConfig{Image: image, Rootfs: &api.Rootfs{Persist: "restart", SizeGB: 16384}}
	if _, err := n.Client.CreateMachine(ctx, "limits", api.CreateMachineRequest{Config: huge}); !api.IsCode(err, api.CodeCapacity) || api.AsError(err).Field != "config.rootfs.size_gb" {
		n.T.Errorf("16 TiB are promised: %v", err)
	}
}

// told waits until a control group of the node has the value in one of the files.
func (n *Node) told(what string, files []string, value string) {
	n.T.Helper()
	for range 60 {
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			for _, f := range files {
				m, _ := filepath.Glob(pattern + n.prefix() + "/*/*/" + f)
				more, _ := filepath.Glob(pattern + n.prefix() + "/*/" + f)
				for _, path := range append(m, more...) {
					if b, _ := os.ReadFile(path); strings.HasPrefix(string(b), value) {
						return
					}
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	n.T.Errorf("no control group says %s (%s)", what, value)
}
