package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// cgroups makes the control groups that hold machines to their limits: one
// directory per machine under every controller's hierarchy, be that version 1,
// version 2, or each for some.
type cgroups struct {
	parent string
	// v1 maps a controller to the mount point of its hierarchy.
	v1 map[string]string
	// v2 is the unified hierarchy's mount point, "" if it has none of the
	// controllers.
	v2 string
}

var controllers = []string{"memory", "cpu", "cpuacct", "pids"}

// findCgroups looks at what is mounted and makes the parent group.
func findCgroups(parent string) (*cgroups, error) {
	c := &cgroups{parent: parent, v1: map[string]string{}}
	unified, err := c.readMounts()
	if err != nil {
		return nil, err
	}
	if _, ok := c.v1["memory"]; !ok && unified != "" {
		c.v2 = unified
		if err := c.delegate(); err != nil {
			return nil, err
		}
	}
	if c.v2 == "" && c.v1["memory"] == "" {
		return nil, errors.New("cannot find the memory control group: mount cgroup2 at /sys/fs/cgroup")
	}
	for _, dir := range c.roots() {
		if err := os.MkdirAll(filepath.Join(dir, parent), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make control group %q: %w", parent, err)
		}
	}
	return c, nil
}

func (c *cgroups) readMounts() (unified string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot read what is mounted: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			unified = l[4]
		case "cgroup":
			for _, option := range strings.Split(r[2], ",") {
				if slices.Contains(controllers, option) {
					c.v1[option] = l[4]
				}
			}
		}
	}
	return unified, nil
}

// delegate lets the groups below the parent have the controllers.
func (c *cgroups) delegate() error {
	dir := c.v2
	for _, part := range append([]string{""}, strings.Split(c.parent, "/")...) {
		dir = filepath.Join(dir, part)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make control group %q: %w", dir, err)
		}
		if err := writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+memory +cpu +pids"); err != nil {
			return fmt.Errorf("cannot delegate controllers in %q: %w", dir, err)
		}
	}
	return nil
}

// roots are the mount points in use, each once.
func (c *cgroups) roots() []string {
	if c.v2 != "" {
		return []string{c.v2}
	}
	var roots []string
	for _, name := range controllers {
		if dir, ok := c.v1[name]; ok && !slices.Contains(roots, dir) {
			roots = append(roots, dir)
		}
	}
	return roots
}

// dir is where a machine's files of one controller are, "" if there is none.
func (c *cgroups) dir(id, controller string) string {
	root := c.v2
	if root == "" {
		root = c.v1[controller]
	}
	if root == "" {
		return ""
	}
	return filepath.Join(root, c.parent, id)
}

// create makes the machine's group, without limits.
func (c *cgroups) create(id string) error {
	for _, root := range c.roots() {
		if err := os.MkdirAll(filepath.Join(root, c.parent, id), 0o755); err != nil {
			return fmt.Errorf("cannot make control group %q: %w", id, err)
		}
	}
	return nil
}

// add moves a process, with what it will start, into the machine's group.
func (c *cgroups) add(id string, pid int) error {
	for _, root := range c.roots() {
		if err := writeFile(filepath.Join(root, c.parent, id, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cannot move process %d to control group %q: %w", pid, id, err)
		}
	}
	return nil
}

const cpuPeriod = 100_000 // microseconds

// startBoost is how long a machine that starts or is restored has the processors
// for itself: runtimes compile on several threads before they serve the first
// request, which somebody waits for, and a quota would stop them in the middle.
const startBoost = 2 * time.Second

// limit sets the machine's limits; that of its processor time after startBoost.
func (c *cgroups) limit(id string, r sandbox.Resources) error {
	time.AfterFunc(startBoost, func() { _ = c.limitCPU(id, r) }) // it may have ended: then its group is gone
	return c.write(id, c.settings(id, r))
}

// limitCPU sets the limit of processor time at once.
func (c *cgroups) limitCPU(id string, r sandbox.Resources) error {
	return c.write(id, c.cpuSettings(id, r))
}

func (c *cgroups) write(id string, settings [][2]string) error {
	for _, s := range settings {
		if err := writeFile(s[0], s[1]); err != nil {
			return fmt.Errorf("cannot limit %q: %w", id, err)
		}
	}
	return nil
}

// setter adds settings to out for the version of control groups that is here.
func (c *cgroups) setter(id string, out *[][2]string) func(controller, v1, v2, value string) {
	return func(controller, v1, v2, value string) {
		name := v1
		if c.v2 != "" {
			name = v2
		}
		if dir := c.dir(id, controller); dir != "" && name != "" {
			*out = append(*out, [2]string{filepath.Join(dir, name), value})
		}
	}
}

func (c *cgroups) cpuSettings(id string, r sandbox.Resources) (out [][2]string) {
	quota := cpuQuota(r)
	if quota == 0 {
		return nil
	}
	set := c.setter(id, &out)
	set("cpu", "cpu.cfs_period_us", "", strconv.Itoa(cpuPeriod))
	set("cpu", "cpu.cfs_quota_us", "", strconv.FormatInt(quota, 10))
	set("cpu", "", "cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod))
	return out
}

func (c *cgroups) settings(id string, r sandbox.Resources) (out [][2]string) {
	set := c.setter(id, &out)
	if r.MemoryMiB > 0 {
		set("memory", "memory.limit_in_bytes", "memory.max", strconv.FormatInt(int64(r.MemoryMiB)<<20, 10))
		set("memory", "", "memory.oom.group", "1")
	}
	if r.PIDs > 0 {
		set("pids", "pids.max", "pids.max", strconv.Itoa(hostTasks(r.PIDs)))
	}
	return out
}

// cpuQuota is the share of processors as microseconds in each period, 0 for no
// limit. The kernel takes no less than a millisecond.
func cpuQuota(r sandbox.Resources) int64 {
	if r.CPUs <= 0 {
		return 0
	}
	return max(int64(r.CPUs*cpuPeriod), 1000)
}

// oomKills counts how often the kernel killed for the machine's memory limit.
func (c *cgroups) oomKills(id string) uint64 {
	name := "memory.oom_control"
	if c.v2 != "" {
		name = "memory.events"
	}
	return fieldOf(filepath.Join(c.dir(id, "memory"), name), "oom_kill")
}

// stats reads what the machine uses.
func (c *cgroups) stats(id string) (sandbox.Stats, error) {
	var s sandbox.Stats
	usage, inactive := "memory.usage_in_bytes", "total_inactive_file"
	if c.v2 != "" {
		usage, inactive = "memory.current", "inactive_file"
	}
	dir := c.dir(id, "memory")
	used, err := numberIn(filepath.Join(dir, usage))
	if err != nil {
		return s, fmt.Errorf("cannot read the memory use of %q: %w", id, err)
	}
	// File pages that the kernel drops when it wants are nobody's use.
	s.MemoryBytes = used - min(used, fieldOf(filepath.Join(dir, "memory.stat"), inactive))
	if c.v2 != "" {
		s.CPUNanos = 1000 * fieldOf(filepath.Join(dir, "cpu.stat"), "usage_usec")
	} else if dir := c.dir(id, "cpuacct"); dir != "" {
		s.CPUNanos, _ = numberIn(filepath.Join(dir, "cpuacct.usage"))
	}
	return s, nil
}

// remove deletes the machine's group; its processes have ended. The kernel may
// need a moment to notice.
func (c *cgroups) remove(id string) error {
	for _, root := range c.roots() {
		dir := filepath.Join(root, c.parent, id)
		if err := removeGroup(dir); err != nil {
			return fmt.Errorf("cannot remove control group %q: %w", dir, err)
		}
	}
	return nil
}

func removeGroup(dir string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > time.Second {
			return err
		}
		time.Sleep(wait)
	}
}

// list names the groups that exist.
func (c *cgroups) list() []string {
	var ids []string
	for _, root := range c.roots() {
		entries, _ := os.ReadDir(filepath.Join(root, c.parent))
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(ids, e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	return ids
}

// writeFile writes to a file of the kernel's, which exists.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func numberIn(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// fieldOf reads one "name value" line of a file; 0 if there is none.
func fieldOf(path, name string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// hostTasks is how many threads of the host a machine of n processes may need:
// each has a stub on the host, and the sandbox has threads of its own.
func hostTasks(n int) int { return 256 + 4*n }
