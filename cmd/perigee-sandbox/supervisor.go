package main

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"

	"github.com/perigee-run/perigee/sandbox"
)

// supervisor makes and keeps a node's sandboxes. All of it that matters is on
// disk and in the sandboxes themselves: it may be killed at any moment.
type supervisor struct {
	dir    string // state directory
	log    *slog.Logger
	groups *cgroups
	// conf is for machines with a network namespace, offline for those without.
	conf, offline *config.Config
	build         buildID
	hurry         hurry
	discards      atomic.Int64
	sums          sums

	mu    sync.Mutex // guards boxes
	boxes map[string]*box
}

// newSupervisor opens the state directory and finds what lives there.
func newSupervisor(dir, group string, log *slog.Logger) (*supervisor, error) {
	s := &supervisor{dir: dir, log: log, boxes: map[string]*box{}}
	s.hurry.mark = filepath.Join(dir, "rcu-expedited-is-ours")
	s.hurry.recover()
	for _, sub := range []string{s.boxesDir(), s.gvisorDir()} {
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make state directory: %w", err)
		}
	}
	var err error
	if s.conf, err = newConfig(s.gvisorDir()); err != nil {
		return nil, err
	}
	if s.offline, err = newConfig(s.gvisorDir(), "--network=none"); err != nil {
		return nil, err
	}
	if s.groups, err = findCgroups(filepath.Join(group, shortHash(dir))); err != nil {
		return nil, err
	}
	if s.build, err = thisBuild(); err != nil {
		return nil, err
	}
	return s, s.recover()
}

// shortHash names a state directory, so that two supervisors of one host keep
// apart.
func shortHash(s string) string {
	h := fnv.New32a()
	h.Write([]byte(s))
	return fmt.Sprintf("%08x", h.Sum32())
}

func (s *supervisor) boxesDir() string  { return filepath.Join(s.dir, "boxes") }
func (s *supervisor) gvisorDir() string { return filepath.Join(s.dir, "gvisor") }

func (s *supervisor) boxDir(id string) string { return filepath.Join(s.boxesDir(), id) }

// confFor is gVisor's configuration for a machine's network.
func (s *supervisor) confFor(netns string) *config.Config {
	if netns == "" {
		return s.offline
	}
	return s.conf
}

// recover loads the sandboxes of an earlier supervisor and removes what it
// left half-made.
func (s *supervisor) recover() error {
	entries, err := os.ReadDir(s.boxesDir())
	if err != nil {
		return fmt.Errorf("cannot read state directory: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(s.boxesDir(), e.Name())
		if b, ok := s.load(dir); ok {
			s.boxes[b.rec.ID] = b
			s.log.Info("found sandbox", "id", b.rec.ID, "state", b.state())
		}
	}
	return s.sweep()
}

// load takes over one sandbox, or says no to one that is of no use: prepared
// ones lost their claim with their supervisor, half-made ones never ran.
func (s *supervisor) load(dir string) (*box, bool) {
	rec, err := readRecord(dir)
	if err != nil || rec.State == sandbox.StatePrepared || rec.State == sandbox.StateCreated {
		return nil, false
	}
	b := &box{rec: *rec, ended: make(chan struct{}), exit: rec.Exit, found: true}
	if b.exit != nil {
		close(b.ended)
		return b, true
	}
	b.main = adopt(rec.Pid, rec.Since)
	b.gofer = adopt(rec.GoferPid, rec.GoferFrom)
	if b.gofer != nil {
		go b.endWith(b.gofer)
	}
	b.followed = true
	if b.main == nil {
		s.finish(b)
	} else {
		if rec.Spec != nil {
			_ = s.groups.limitCPU(rec.Container, rec.Spec.Resources) // an earlier supervisor may have died before it did
		}
		go s.follow(b)
		if rec.Spec != nil && len(rec.Spec.Sockets) > 0 {
			go s.relay(b)
		}
	}
	return b, true
}

// adopt watches a process of an earlier supervisor, if it still is that one.
func adopt(pid int, since uint64) *process {
	if pid == 0 {
		return nil
	}
	p, err := watch(pid, false)
	if err != nil {
		return nil
	}
	if now, err := startTime(pid); err != nil || now != since {
		return nil // its watcher ends with that other process
	}
	return p
}

// sweep ends and removes all that belongs to no sandbox we know.
func (s *supervisor) sweep() error {
	known, containers := map[string]bool{}, map[string]bool{}
	for id, b := range s.boxes {
		known[id], containers[b.rec.Container] = true, true
	}
	s.killStrays(containers)
	entries, err := os.ReadDir(s.boxesDir())
	if err != nil {
		return fmt.Errorf("cannot read state directory: %w", err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			s.log.Info("removing half-made sandbox", "id", e.Name())
			s.removeDir(filepath.Join(s.boxesDir(), e.Name()))
		}
	}
	for _, id := range s.groups.list() {
		if !containers[id] {
			if err := s.groups.remove(id); err != nil {
				s.log.Warn("control group stays", "error", err)
			}
		}
	}
	return s.removeSockets(containers)
}

// killStrays ends the sandbox and gofer processes of this state directory that
// nobody knows.
func (s *supervisor) killStrays(containers map[string]bool) {
	root := "--root=" + s.gvisorDir()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args := commandLine(pid)
		if !strings.HasPrefix(args[0], "runsc-") || !slices.Contains(args, root) || containers[args[len(args)-1]] {
			continue
		}
		s.log.Info("ending stray process", "pid", pid, "container", args[len(args)-1])
		if p, err := watch(pid, false); err == nil {
			if err := p.kill(); err != nil {
				s.log.Warn("stray process stays", "error", err)
			}
		}
	}
}

func (s *supervisor) removeSockets(containers map[string]bool) error {
	entries, err := os.ReadDir(s.gvisorDir())
	if err != nil {
		return fmt.Errorf("cannot read state directory: %w", err)
	}
	for _, e := range entries {
		id := strings.TrimSuffix(strings.TrimPrefix(e.Name(), "runsc-"), ".sock")
		if !containers[id] {
			_ = os.Remove(filepath.Join(s.gvisorDir(), e.Name()))
		}
	}
	return nil
}

// removeDir deletes a sandbox's directory with what is mounted in it.
func (s *supervisor) removeDir(dir string) {
	for _, name := range []string{"root", "image"} {
		_ = unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH)
	}
	if err := os.RemoveAll(dir); err != nil {
		s.log.Warn("directory stays", "error", err)
	}
}

// find returns a sandbox by id.
func (s *supervisor) find(id string) (*box, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.boxes[id]
	if !ok {
		return nil, fmt.Errorf("sandbox %q: %w", id, sandbox.ErrNotFound)
	}
	return b, nil
}

// reserve puts a new box under id.
func (s *supervisor) reserve(id string, b *box) error {
	if err := checkID(id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.boxes[id]; ok {
		return fmt.Errorf("sandbox %q: %w", id, sandbox.ErrExists)
	}
	s.boxes[id] = b
	return nil
}

func (s *supervisor) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.boxes, id)
}

// follow waits for a sandbox's end and records it.
func (s *supervisor) follow(b *box) {
	<-b.main.done
	s.finish(b)
}

// finish records the end of a sandbox, whose processes are gone or are ended
// now.
func (s *supervisor) finish(b *box) {
	b.mu.Lock()
	defer b.mu.Unlock()
	dir := s.boxDir(b.rec.ID)
	exit := exitOf(dir, b.main, s.groups.oomKills(b.rec.Container) > 0)
	if b.gofer != nil {
		if err := b.gofer.kill(); err != nil {
			s.log.Warn("gofer stays", "id", b.rec.ID, "error", err)
		}
	}
	b.exit, b.rec.Exit, b.rec.State = &exit, &exit, sandbox.StateStopped
	if b.rec.Sandbox != nil {
		b.rec.Sandbox.Pid.Store(0)
	}
	if err := b.rec.save(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("exit not recorded", "id", b.rec.ID, "error", err)
	}
	close(b.ended)
	s.log.Info("sandbox ended", "id", b.rec.ID, "code", exit.Code, "signal", exit.Signal, "oom", exit.OOM)
}

// list describes all sandboxes, by id.
func (s *supervisor) list() []sandbox.Info {
	s.mu.Lock()
	boxes := make([]*box, 0, len(s.boxes))
	for _, b := range s.boxes {
		boxes = append(boxes, b)
	}
	s.mu.Unlock()
	infos := make([]sandbox.Info, 0, len(boxes))
	for _, b := range boxes {
		infos = append(infos, b.info())
	}
	slices.SortFunc(infos, func(a, b sandbox.Info) int { return strings.Compare(a.ID, b.ID) })
	return infos
}
