package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// describeHost prints what the figures were measured on.
func describeHost() {
	var u syscall.Utsname
	syscall.Uname(&u)
	var mem syscall.Sysinfo_t
	syscall.Sysinfo(&mem)
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("%d cores of %s, %d GiB, Linux %s, load before: %s\n", runtime.NumCPU(), cpuModel(),
		mem.Totalram*uint64(mem.Unit)>>30, cstring(u.Release[:]), strings.Join(strings.Fields(string(load))[:3], " "))
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

func cstring(b []int8) string {
	var s strings.Builder
	for _, c := range b {
		if c == 0 {
			break
		}
		s.WriteByte(byte(c))
	}
	return s.String()
}

// memoryMiB is what one process holds; shared pages count in part in pss.
func memoryMiB(pid int) (rss, pss float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "Rss:":
			rss = kb / 1024
		case "Pss:":
			pss = kb / 1024
		}
	}
	return rss, pss
}

func sumMiB(pids []int) (rss, pss float64) {
	for _, pid := range pids {
		r, p := memoryMiB(pid)
		rss, pss = rss+r, pss+p
	}
	return rss, pss
}

// processes are those whose command line names the folder, and all that
// descend from them: gVisor's own helpers have no command line.
func processes(dir string) []int {
	parent := map[int]int{}
	var found []int
	entries, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, e := range entries {
		var pid int
		fmt.Sscanf(filepath.Base(filepath.Dir(e)), "%d", &pid)
		parent[pid] = parentOf(e)
		line, _ := os.ReadFile(filepath.Join(filepath.Dir(e), "cmdline"))
		if strings.Contains(string(line), dir+"/") && pid != os.Getpid() {
			found = append(found, pid)
		}
	}
	for grew := true; grew; {
		grew = false
		for pid, above := range parent {
			if slices.Contains(found, above) && !slices.Contains(found, pid) {
				found, grew = append(found, pid), true
			}
		}
	}
	return found
}

func parentOf(stat string) (ppid int) {
	b, _ := os.ReadFile(stat)
	_, after, _ := strings.Cut(string(b), ") ")
	var state string
	fmt.Sscan(after, &state, &ppid)
	return ppid
}

// entries counts all that lies under a folder.
func entries(dir string) (n int) {
	filepath.WalkDir(dir, func(string, os.DirEntry, error) error { n++; return nil })
	return max(0, n-1)
}
