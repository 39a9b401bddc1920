//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A lab that is killed takes all its processes and devices along: the kernel
// sees to it (package space). What is left are files, and in case of a kernel
// that is slow, processes whose ids are in state.json with their start times.

type state struct {
	Pid   int       `json:"pid"`
	Inits []process `json:"inits"`
	// Groups are the names of the nodes' control groups.
	Groups []string `json:"groups"`
}

// process is one that cannot be mistaken for a later one of the same id.
type process struct {
	Pid   int    `json:"pid"`
	Start string `json:"start"`
}

// claim makes this process the only lab of a directory.
func claim(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the lab's directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lab's directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot make a lab in %s: another runs there: perigee lab down ends it, or choose another directory", dir)
	}
	return f, nil
}

// release removes the directory, if nothing is kept in it.
func release(lock *os.File, dir string) error {
	if lock == nil {
		return nil
	}
	err := os.Remove(lock.Name())
	_ = os.Remove(dir)
	return errors.Join(err, lock.Close())
}

// sweep removes what a lab leaves, and ends processes that its kernel did not.
func sweep(dir string, keep bool) error {
	var s state
	if b, err := os.ReadFile(filepath.Join(dir, "state.json")); err == nil {
		_ = json.Unmarshal(b, &s) // a half-written file names nobody
	}
	for _, p := range s.Inits {
		if startOf(p.Pid) == p.Start && p.Start != "" {
			_ = unix.Kill(p.Pid, unix.SIGKILL)
		}
	}
	for _, g := range s.Groups {
		removeGroups(g)
	}
	names := []string{"state.json", "state.json.new", "places", "lab.sock", "resolv"}
	if !keep {
		names = append(names, "nodes")
	}
	var errs []error
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(dir, n)); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove what a lab left: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeGroups removes a node's control groups, in every hierarchy, which are
// empty now: the kernel refuses to remove others.
func removeGroups(name string) {
	if name == "" || strings.ContainsAny(name, "/.") {
		return
	}
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, top := range append(tops, "/sys/fs/cgroup/"+name) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i])
		}
	}
}

// Sweep removes what a lab that was killed left in its directory. It reports
// false if a lab runs there, which it leaves alone.
func Sweep(dir string, keep bool) (bool, error) {
	if _, err := os.Stat(dir); err != nil {
		return true, nil //nolint:nilerr // there was none
	}
	lock, err := claim(dir)
	if err != nil {
		return false, nil //nolint:nilerr // it runs
	}
	return true, errors.Join(sweep(dir, keep), release(lock, dir))
}

func (l *Lab) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := state{Pid: os.Getpid(), Groups: l.groups}
	for _, h := range l.hosts {
		s.Inits = append(s.Inits, process{h.Pid(), startOf(h.Pid())})
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := l.path("state.json.new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("cannot write the lab's state: %w", err)
	}
	return os.Rename(tmp, l.path("state.json"))
}

// startOf is when a process began, in the kernel's clock ticks; "" if there is
// none.
func startOf(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, ok := strings.Cut(string(b), ") ") // the name before it may hold anything
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return ""
	}
	return f[19]
}
