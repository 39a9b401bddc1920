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

// TestLimits looks at what the kernel was told of a machine's size. Processor
// time is limited a little after the start.
func TestLimits(t *testing.T) {
	n := Start(t)
	image := n.importImage("limits", Tiny(t))
	_, err := n.Client.CreateMachine(context.Background(), "limits", api.CreateMachineRequest{Config: &api.MachineConfig{Image: image, Guest: &api.Guest{CPUs: 1, MemoryMB: 128, PIDs: 64}}})
	if err != nil {
		t.Fatal(err)
	}
	n.told("128 MiB", []string{"memory.limit_in_bytes", "memory.max"}, "134217728")
	n.told("1 CPU", []string{"cpu.cfs_quota_us", "cpu.max"}, "100000")
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
