package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/debian"
)

// idleFigure prints the memory of a node that has nothing to do, and of
// Docker's daemon and containerd in the same state where they are installed.
func (b *bench) idleFigure(ctx context.Context) error {
	empty, err := startCloudAt(ctx, b.bin, filepath.Join(b.work, "idle"), "pgidle")
	if err != nil {
		return err
	}
	defer empty.stop()
	time.Sleep(5 * time.Second)
	rss, pss := rssMiB(empty.cmd.Process.Pid)
	rows := [][]string{{"perigeed", fmt.Sprintf("%.0f", rss), fmt.Sprintf("%.0f", pss), "150"}}
	all := 0.0
	for _, pid := range processes(empty.work, "perigee-sandbox") {
		_, p := rssMiB(pid)
		all += p
	}
	rows = append(rows, []string{"its supervisor and 2 prepared sandboxes", "", fmt.Sprintf("%.0f", all), ""})
	rows = append(rows, b.dockerIdle()...)
	printTable("An idle node, MiB", []string{"process", "RSS", "PSS", "goal (RSS)"}, rows)
	return nil
}

// dockerIdle starts Docker's daemon in a network namespace of its own.
func (b *bench) dockerIdle() [][]string {
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		return [][]string{{"dockerd + containerd", "not installed", "", ""}}
	}
	root := filepath.Join(b.work, "docker")
	cmd := exec.Command("unshare", "--net", dockerd, "--data-root", root+"/data", "--exec-root", root+"/exec", "--pidfile", root+".pid",
		"-H", "unix://"+root+".sock", "--bridge=none", "--iptables=false")
	if err := cmd.Start(); err != nil {
		return [][]string{{"dockerd + containerd", err.Error(), "", ""}}
	}
	time.Sleep(8 * time.Second)
	var rss, pss float64
	for _, pid := range processes(root, "docker") {
		r, p := rssMiB(pid)
		rss, pss = rss+r, pss+p
	}
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	return [][]string{{"dockerd + containerd", fmt.Sprintf("%.0f", rss), fmt.Sprintf("%.0f", pss), ""}}
}

// processes are those whose command line names both.
func processes(dir, program string) (pids []int) {
	entries, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, e := range entries {
		line, err := os.ReadFile(e)
		if err != nil || !strings.Contains(string(line), dir) || !strings.Contains(string(line), program) {
			continue
		}
		var pid int
		fmt.Sscanf(filepath.Base(filepath.Dir(e)), "%d", &pid)
		pids = append(pids, pid)
	}
	return pids
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
	before := b.boots()
	ref, err := b.cloud.put(ctx, "sleeper", img.archive)
	if err != nil {
		return err
	}
	for range apps {
		id, err := b.cloud.serve(ctx, "sleeper", ref, 64)
		if err != nil {
			return err
		}
		if _, err := b.cloud.client.WaitMachine(ctx, "sleeper", id, api.WaitOptions{States: []string{api.StateStarted}, Timeout: time.Minute}); err != nil {
			return err
		}
		if err := b.cloud.client.SuspendMachine(ctx, "sleeper", id); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	rss, _ := rssMiB(b.cloud.cmd.Process.Pid)
	disk, _ := exec.Command("du", "-sm", filepath.Join(b.work, "data", "machines")).Output()
	size, _, _ := strings.Cut(string(disk), "\t")
	printTable(fmt.Sprintf("%d suspended machines", apps), []string{"what", "figure", "goal"}, [][]string{
		{"sandbox processes beyond those before", fmt.Sprint(b.boots() - before), "0"},
		{"RSS of perigeed, MiB", fmt.Sprintf("%.0f", rss), ""},
		{"disk, MiB", size, ""},
	})
	return b.cloud.client.DeleteApp(ctx, "sleeper")
}

// boots counts the node's sandboxes, the pool among them.
func (b *bench) boots() int {
	n := 0
	for _, pid := range processes(filepath.Join(b.work, "data"), "perigee-sandbox") {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "boot") {
			n++
		}
	}
	return n
}

// loopFigure makes, starts and destroys machines and counts what stays.
func (b *bench) loopFigure(ctx context.Context) error {
	tiny, err := debian.Tiny()
	if err != nil {
		return err
	}
	img, err := b.makeImage("tiny", tiny, 128)
	if err != nil {
		return err
	}
	ref, err := b.cloud.put(ctx, "loop", img.archive)
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
		if err := cycle(); err != nil {
			return err
		}
	}
	took := time.Since(began)
	time.Sleep(2 * time.Second)
	after := b.traces()
	var rows [][]string
	for i := range before {
		rows = append(rows, []string{before[i].what, fmt.Sprint(before[i].count), fmt.Sprint(after[i].count)})
	}
	printTable(fmt.Sprintf("%d machines made, started and destroyed, %.0f ms each", b.loop, ms(took)/float64(b.loop)), []string{"on the host", "before", "after"}, rows)
	return b.cloud.client.DeleteApp(ctx, "loop")
}

type trace struct {
	what  string
	count int
}

// traces counts what machines leave on the host; all of it carries the node's
// names.
func (b *bench) traces() []trace {
	data := filepath.Join(b.work, "data")
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	devices, _ := os.ReadFile("/proc/net/dev")
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/pgbench/*/cgroup.procs")
	more, _ := filepath.Glob("/sys/fs/cgroup/pgbench/*/cgroup.procs")
	return []trace{
		{"processes", len(processes(data, "perigee-sandbox"))},
		{"mounts", strings.Count(string(mounts), data)},
		{"network devices", strings.Count(string(devices), "pgbench-")},
		{"network namespaces", entries(filepath.Join(data, "netns"))},
		{"control groups", len(groups) + len(more)},
		{"descriptors of perigeed", entries(fmt.Sprintf("/proc/%d/fd", b.cloud.cmd.Process.Pid))},
		{"machine folders", entries(filepath.Join(data, "machines"))},
		{"supervisor's folders", entries(filepath.Join(data, "sandbox"))},
	}
}

func entries(dir string) int {
	e, _ := os.ReadDir(dir)
	return len(e)
}
