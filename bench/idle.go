package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// idleFigure prints the memory of a node that has nothing to do, and of
// Docker's daemon and containerd in the same state.
func (b *bench) idleFigure(ctx context.Context) error {
	empty, err := startCloud(ctx, b.bin, filepath.Join(b.work, "idle"), "pgidle", "fdab::/16")
	if err != nil {
		return err
	}
	defer empty.stop()
	d, reason := startDocker(ctx, filepath.Join(b.work, "idle-docker"))
	time.Sleep(8 * time.Second)
	pid := empty.cmd.Process.Pid
	rows := [][]string{memoryRow("perigeed", "150", pid)}
	others := slices.DeleteFunc(processes(empty.work), func(p int) bool { return p == pid })
	rows = append(rows, memoryRow(fmt.Sprintf("its supervisor and 2 prepared sandboxes (%d processes)", len(others)), "", others...))
	if d == nil {
		rows = append(rows, []string{"dockerd + containerd", reason.Error(), "", ""})
	} else {
		rows = append(rows, memoryRow("dockerd + containerd", "", processes(d.dir)...))
		d.stop()
	}
	printTable("An idle node, MiB", []string{"process", "RSS", "PSS", "goal (RSS)"}, rows)
	return nil
}

func memoryRow(what, goal string, pids ...int) []string {
	rss, pss := sumMiB(pids)
	return []string{what, fmt.Sprintf("%.0f", rss), fmt.Sprintf("%.0f", pss), goal}
}

// sleepersFigure makes a hundred apps that sleep and counts what they cost.
func (b *bench) sleepersFigure(ctx context.Context) error {
	tiny, err := debian.Tiny()
	if err != nil {
		return err
	}
	img, err := b.makeImage("tiny", tiny, 128)
	if err != nil {
		return err
	}
	const apps = 100
	before := len(processes(filepath.Join(b.work, "data")))
	emptyRSS, _ := memoryMiB(b.cloud.cmd.Process.Pid)
	ref, err := b.cloud.put(ctx, "sleeper", img.archive)
	if err != nil {
		return err
	}
	began := time.Now()
	for i := range apps {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		app := fmt.Sprintf("sleeper%d", i)
		if _, err := b.cloud.client.CreateApp(ctx, api.CreateAppRequest{AppName: app}); err != nil {
			return err
		}
		id, err := b.cloud.serve(ctx, app, ref, 64)
		if err != nil {
			return err
		}
		if _, err := b.cloud.client.WaitMachine(ctx, app, id, api.WaitOptions{States: []string{api.StateStarted}, Timeout: time.Minute}); err != nil {
			return err
		}
		if err := b.cloud.client.SuspendMachine(ctx, app, id); err != nil {
			return err
		}
	}
	took := time.Since(began)
	time.Sleep(2 * time.Second)
	rss, _ := memoryMiB(b.cloud.cmd.Process.Pid)
	after := len(processes(filepath.Join(b.work, "data")))
	disk, _ := exec.Command("du", "-sm", filepath.Join(b.work, "data", "machines")).Output()
	size, _, _ := strings.Cut(string(disk), "\t")
	wake, err := b.cloud.firstByte("sleeper7")
	if err != nil {
		return err
	}
	printTable(fmt.Sprintf("%d apps with one suspended machine each", apps), []string{"what", "figure", "goal"}, [][]string{
		{"processes beyond those before", fmt.Sprint(after - before), "0"},
		{"RSS of perigeed before and now, MiB", fmt.Sprintf("%.0f, %.0f", emptyRSS, rss), ""},
		{"disk of all machines, MiB", size, ""},
		{"to make, start and suspend one, ms", fmt.Sprintf("%.0f", ms(took)/apps), ""},
		{"to wake one of them to its first byte, ms", fmt.Sprintf("%.0f", ms(wake)), ""},
	})
	for i := range apps {
		if err := b.cloud.client.DeleteApp(ctx, fmt.Sprintf("sleeper%d", i)); err != nil {
			return err
		}
	}
	return b.cloud.client.DeleteApp(ctx, "sleeper")
}

// loopFigure makes, starts and destroys machines and counts what stays.
func (b *bench) loopFigure(ctx context.Context) error {
	ref, err := b.putTiny(ctx, "loop")
	if err != nil {
		return err
	}
	cycle := func() error {
		id, err := b.cloud.serve(ctx, "loop", ref, 64)
		if err != nil {
			return err
		}
		if _, err := b.cloud.client.WaitMachine(ctx, "loop", id, api.WaitOptions{States: []string{api.StateStarted}, Timeout: time.Minute}); err != nil {
			return err
		}
		return b.cloud.client.DestroyMachine(ctx, "loop", id, true)
	}
	for range 5 {
		if err := cycle(); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	before, began := b.traces(), time.Now()
	for range b.loop {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := cycle(); err != nil {
			return err
		}
	}
	took := time.Since(began)
	time.Sleep(2 * time.Second)
	after := b.traces()
	rows := compare(before, after)
	printTable(fmt.Sprintf("%d machines made, started and destroyed, %.0f ms each", b.loop, ms(took)/float64(b.loop)), []string{"on the host", "before", "after", ""}, rows)
	return b.cloud.client.DeleteApp(ctx, "loop")
}

func compare(before, after []trace) (rows [][]string) {
	was := map[string]int{}
	for _, t := range before {
		was[t.what] = t.count
	}
	for _, t := range after {
		rows = append(rows, []string{t.what, fmt.Sprint(was[t.what]), fmt.Sprint(t.count), fmt.Sprintf("%+d", t.count-was[t.what])})
	}
	return rows
}

type trace struct {
	what  string
	count int
}

// traces counts what machines leave on the host; all of it carries the node's
// names, or is in the benchmark's network namespace.
func (b *bench) traces() []trace {
	data := filepath.Join(b.work, "data")
	daemon := b.cloud.cmd.Process.Pid
	all := processes(data)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	devices, _ := os.ReadFile("/proc/self/net/dev")
	rss, _ := memoryMiB(daemon)
	out := []trace{
		{"processes", len(all)},
		{"mounts", strings.Count(string(mounts), data)},
		{"network devices", strings.Count(string(devices), "pgbench-")},
		{"network namespaces of these processes", namespaces(all)},
		{"control groups", controlGroups("pgbench")},
		{"descriptors of perigeed", entries(fmt.Sprintf("/proc/%d/fd", daemon))},
		{"threads of perigeed", threads(daemon)},
	}
	for _, pid := range all {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.Contains(string(line), "perigee-sandbox\x00serve") {
			out = append(out, trace{"descriptors of the supervisor", entries(fmt.Sprintf("/proc/%d/fd", pid))})
		}
	}
	folders, _ := os.ReadDir(data)
	for _, f := range folders {
		if f.IsDir() && f.Name() != "nats" {
			out = append(out, trace{"files and folders in data/" + f.Name(), entries(filepath.Join(data, f.Name()))})
		}
	}
	return append(out, trace{"RSS of perigeed, MiB", int(rss)})
}

func threads(pid int) int {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return len(tasks)
}

// namespaces counts the network namespaces that processes live in.
func namespaces(pids []int) int {
	seen := map[string]bool{}
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			seen[ns] = true
		}
	}
	return len(seen)
}

// controlGroups counts the groups below the node's, in all hierarchies.
func controlGroups(root string) (n int) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + root, "/sys/fs/cgroup/*/" + root} {
		found, _ := filepath.Glob(pattern)
		for _, dir := range found {
			filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
				if err == nil && e.IsDir() {
					n++
				}
				return nil
			})
		}
	}
	return n
}

// putTiny gives the node the smallest image that serves, for an app.
func (b *bench) putTiny(ctx context.Context, app string) (ref string, err error) {
	tiny, err := debian.Tiny()
	if err != nil {
		return "", err
	}
	img, err := b.makeImage("tiny", tiny, 128)
	if err != nil {
		return "", err
	}
	return b.cloud.put(ctx, app, img.archive)
}
