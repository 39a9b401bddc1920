package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func sortStrings(s []string) { sort.Strings(s) }

// traces are what machines leave on the host: everything that carries the
// node's own names.
type traces map[string]int

// traces counts the node's processes, mounts, devices, namespaces, cgroups,
// descriptors and folders.
func (n *Node) traces() traces {
	tr := traces{}
	tr["sandbox processes"] = len(n.sandboxes())
	tr["mounts"] = n.grep("/proc/self/mountinfo", n.Dir)
	tr["network devices"] = n.grep("/proc/net/dev", n.prefix()+"-")
	tr["cgroups"] = n.cgroups()
	tr["daemon descriptors"] = entries(fmt.Sprintf("/proc/%d/fd", n.PID()))
	tr["machine folders"] = entries(filepath.Join(n.Data(), "machines"))
	return tr
}

func (n *Node) prefix() string {
	for i, a := range n.args {
		if a == "--network-prefix" {
			return n.args[i+1]
		}
	}
	return "perigee"
}

// sandboxes are the processes of perigee-sandbox that belong to this node,
// without the supervisor.
func (n *Node) sandboxes() (pids []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), n.Dir) && strings.Contains(string(b), "boot") {
			pids = append(pids, filepath.Base(filepath.Dir(p)))
		}
	}
	return pids
}

func (n *Node) grep(file, what string) int {
	b, _ := os.ReadFile(file)
	return strings.Count(string(b), what)
}

func (n *Node) cgroups() (count int) {
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + n.prefix() + "/*", "/sys/fs/cgroup/" + n.prefix() + "/*"} {
		m, _ := filepath.Glob(pattern)
		for _, dir := range m {
			if fi, err := os.Stat(dir); err == nil && fi.IsDir() && !strings.HasSuffix(dir, "supervisor") {
				count++
			}
		}
	}
	return count
}

func entries(dir string) int {
	e, _ := os.ReadDir(dir)
	return len(e)
}

// noLeftovers waits until no more sandboxes than the pool and running machines
// are there.
func (n *Node) noLeftovers(running int) {
	n.T.Helper()
	const pool = 2
	var have traces
	for range 100 {
		have = n.traces()
		if have["sandbox processes"] <= running+pool && have["network devices"] <= running+pool+1 && have["machine folders"] <= running {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	n.T.Errorf("left behind with %d machines running and a pool of %d: %v", running, pool, have)
}

// TestNothingIsLeftBehind makes, starts and destroys machines in a loop
// (PERIGEE_LOOP of them) and compares the host before and after.
func TestNothingIsLeftBehind(t *testing.T) {
	n := Start(t)
	image := n.importImage("loop", Tiny(t))
	ctx := context.Background()
	cycle := func() {
		m, err := n.Client.CreateMachine(ctx, "loop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: image, Guest: &api.Guest{MemoryMB: 128}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Client.WaitMachine(ctx, "loop", m.ID, api.WaitOptions{States: []string{api.StateStarted}, Timeout: 30 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if err := n.Client.DestroyMachine(ctx, "loop", m.ID, true); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		cycle()
	}
	n.noLeftovers(0)
	time.Sleep(settled)
	before := n.traces()
	for range envInt("PERIGEE_LOOP", 40) {
		cycle()
	}
	n.noLeftovers(0)
	time.Sleep(settled)
	after := n.traces()
	t.Logf("before %v", before)
	t.Logf("after  %v", after)
	for what, had := range before {
		if slack := map[string]int{"daemon descriptors": 12}[what]; after[what] > had+slack {
			t.Errorf("%s: %d before, %d after", what, had, after[what])
		}
	}
}

// settled is how long the pool of prepared sandboxes takes to be full again.
const settled = 2 * time.Second

// importImage creates the app and brings an archive to the node.
func (n *Node) importImage(app, tar string) (ref string) {
	n.T.Helper()
	ctx := context.Background()
	if _, err := n.Client.CreateApp(ctx, api.CreateAppRequest{AppName: app}); err != nil {
		n.T.Fatal(err)
	}
	f, err := os.Open(tar)
	if err != nil {
		n.T.Fatal(err)
	}
	defer f.Close()
	for p, err := range n.Client.ImportImage(ctx, app, f) {
		if err != nil {
			n.T.Fatal(err)
		}
		if p.Kind == "done" {
			ref = p.Image
		}
	}
	return ref
}
