package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	gsandbox "gvisor.dev/gvisor/runsc/sandbox"

	"github.com/perigee-run/perigee/sandbox"
)

// box is one sandbox as the supervisor knows it.
type box struct {
	// opMu is held through an operation that changes the sandbox; mu only
	// around the fields below it. Lock order: opMu, then mu.
	opMu sync.Mutex

	mu    sync.Mutex
	rec   record
	claim *net.UnixConn // while prepared
	main  *process
	gofer *process
	// guests are the programs of ours that run in it; found says that an earlier
	// supervisor may have begun more.
	guests map[*execution]bool
	found  bool
	// ended is closed when exit is set; followed says that somebody will.
	ended    chan struct{}
	followed bool
	exit     *sandbox.Exit
}

// record is what a later supervisor must know of a sandbox: the file
// record.json in its directory.
type record struct {
	ID string `json:"id"`
	// Container is gVisor's id, which stays when a prepared sandbox is claimed.
	Container string        `json:"container"`
	State     sandbox.State `json:"state"`
	Spec      *sandbox.Spec `json:"spec,omitempty"`
	Netns     string        `json:"netns"`
	Sandbox   *gsandbox.Sandbox
	Pid       int    `json:"pid"`
	Since     uint64 `json:"since"`
	GoferPid  int    `json:"gofer_pid,omitempty"`
	GoferFrom uint64 `json:"gofer_from,omitempty"`
	// Mounted are paths on the host to unmount in the end.
	Mounted []string `json:"mounted,omitempty"`
	// Past is the directory of a snapshot that must not be used once the machine
	// runs on.
	Past      string        `json:"past,omitempty"`
	StartedAt time.Time     `json:"started_at,omitzero"`
	Exit      *sandbox.Exit `json:"exit,omitempty"`
}

// exitRecord is what a sandbox leaves in its exit file.
type exitRecord struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

const (
	recordFile = "record.json"
	exitFile   = "exit.json"
)

// save writes the record; a reader sees the old or the new one. It is not
// forced to disk: no sandbox outlives the host's memory.
func (r *record) save(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot write the record of %q: %w", r.ID, err)
	}
	path := filepath.Join(dir, recordFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return fmt.Errorf("cannot write the record of %q: %w", r.ID, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("cannot write the record of %q: %w", r.ID, err)
	}
	return nil
}

func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", filepath.Join(dir, recordFile), err)
	}
	return &r, nil
}

// readExit reads what the sandbox said of its end. A sandbox is not trusted:
// anything but a short well-formed record counts as none.
func readExit(dir string) (*exitRecord, bool) {
	f, err := os.Open(filepath.Join(dir, exitFile))
	if err != nil {
		return nil, false
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 512))
	if err != nil {
		return nil, false
	}
	var e exitRecord
	if json.Unmarshal(b, &e) != nil {
		return nil, false
	}
	return &e, true
}

// exitOf joins what is known of an end.
func exitOf(dir string, p *process, oomKilled bool) sandbox.Exit {
	now := time.Now()
	if e, ok := readExit(dir); ok {
		x := exitFromStatus(unix.WaitStatus(e.Status))
		x.At = now
		if !e.At.After(now) {
			x.At = e.At
		}
		// The kernel may kill one process of the machine for want of memory and
		// leave the sandbox to tell of it.
		x.OOM = oomKilled && x.Signal == int(unix.SIGKILL)
		return x
	}
	x := sandbox.Exit{Code: -1, Unknown: true, At: now}
	switch {
	case oomKilled:
		x = sandbox.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), OOM: true, At: now}
	case p != nil && p.child:
		x = exitFromStatus(p.status)
		x.At = now
	}
	return x
}

func exitFromStatus(ws unix.WaitStatus) sandbox.Exit {
	if ws.Signaled() {
		return sandbox.Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return sandbox.Exit{Code: ws.ExitStatus()}
}

func (b *box) info() sandbox.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := sandbox.Info{ID: b.rec.ID, State: b.rec.State, StartedAt: b.rec.StartedAt, Exit: b.exit, Spec: b.rec.Spec}
	if b.exit != nil {
		i.State = sandbox.StateStopped
	} else if b.main != nil {
		i.Pid = b.main.pid
	}
	return i
}

// state is the box's state, stopped if it has ended.
func (b *box) state() sandbox.State { return b.info().State }

// handle is gVisor's side of the sandbox.
func (b *box) handle() *gsandbox.Sandbox {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec.Sandbox
}

// setState records a new state.
func (b *box) setState(dir string, s sandbox.State) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rec.State = s
	return b.rec.save(dir)
}
