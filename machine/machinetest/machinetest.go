// Package machinetest stands in for gVisor and for network namespaces where a room's
// tests need machines to be there, not to run: they start at once, end when they are
// told to, and need no root. What machines really do is tested with the real ones, in
// machine, sandbox and test.
package machinetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"sync"
	"time"

	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// Networks gives slots that lead nowhere.
type Networks struct{}

// PrivateIPv6 makes the address of the machine's id.
func (Networks) PrivateIPv6(id mesh.Identity) netip.Addr {
	a := [16]byte{0xfd}
	copy(a[1:], id.Machine)
	return netip.AddrFrom16(a)
}

// Acquire is a slot whose machine answers on this host.
func (Networks) Acquire(context.Context) (*mesh.Slot, error) {
	return &mesh.Slot{NetnsPath: "/nowhere", IPv4: netip.MustParseAddr("127.0.0.1")}, nil
}

// Assign writes the identity into the slot.
func (Networks) Assign(_ context.Context, s *mesh.Slot, to mesh.Identity) error {
	s.Identity = to
	return nil
}

// Release does nothing.
func (Networks) Release(context.Context, *mesh.Slot) error { return nil }

// Slots are none.
func (Networks) Slots() []mesh.Slot { return nil }

// Sandbox runs nothing, and its machines end when they are told to. Commands run on
// this host. The zero value is ready.
type Sandbox struct {
	mu    sync.Mutex
	all   map[string]*boxed
	start func() // called before a sandbox starts
}

type boxed struct {
	end  chan struct{}
	exit sandbox.Exit
}

// Prepare says that there is no pool.
func (b *Sandbox) Prepare(context.Context, string, string) error { return errors.New("no pool here") }

// Start has the machine running.
func (b *Sandbox) Start(_ context.Context, spec sandbox.Spec, _ string) error {
	b.mu.Lock()
	start := b.start
	b.mu.Unlock()
	if start != nil {
		start()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all == nil {
		b.all = map[string]*boxed{}
	}
	b.all[spec.ID] = &boxed{end: make(chan struct{})}
	return nil
}

// OnStart has f called before each sandbox starts.
func (b *Sandbox) OnStart(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.start = f
}

func (b *Sandbox) find(id string) (*boxed, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if x := b.all[id]; x != nil {
		return x, nil
	}
	return nil, sandbox.ErrNotFound
}

// Wait returns once the machine was told to end.
func (b *Sandbox) Wait(ctx context.Context, id string) (sandbox.Exit, error) {
	x, err := b.find(id)
	if err != nil {
		return sandbox.Exit{}, err
	}
	select {
	case <-x.end:
		return x.exit, nil
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

// Signal ends the machine; SIGHUP is survived.
func (b *Sandbox) Signal(_ context.Context, id string, sig int) error {
	x, err := b.find(id)
	if err != nil || sig == 1 {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-x.end:
	default:
		x.exit = sandbox.Exit{Code: 128 + sig, Signal: sig, At: time.Now()}
		close(x.end)
	}
	return nil
}

// List finds none of earlier times.
func (b *Sandbox) List(context.Context) ([]sandbox.Info, error) { return nil, nil }

// Destroy ends the machine and forgets it.
func (b *Sandbox) Destroy(_ context.Context, id string) error {
	_ = b.Signal(context.Background(), id, 9)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, id)
	return nil
}

// Close ends what runs.
func (b *Sandbox) Close() {
	b.mu.Lock()
	ids := []string{}
	for id := range b.all {
		ids = append(ids, id)
	}
	b.mu.Unlock()
	for _, id := range ids {
		_ = b.Destroy(context.Background(), id)
	}
}

// Pause freezes nothing.
func (b *Sandbox) Pause(context.Context, string) error { return nil }

// Resume wakes nothing.
func (b *Sandbox) Resume(context.Context, string) error { return nil }

// Checkpoint writes nothing.
func (b *Sandbox) Checkpoint(context.Context, string, string) error { return nil }

// Restore is Start.
func (b *Sandbox) Restore(ctx context.Context, spec sandbox.Spec, from, _ string) error {
	return b.Start(ctx, spec, from)
}

// Exec runs the command on this host; "sizes" says how large its terminal was made.
func (b *Sandbox) Exec(ctx context.Context, id string, spec sandbox.ExecSpec, s sandbox.Streams) (int, error) {
	if _, err := b.find(id); err != nil {
		return -1, err
	}
	if spec.Program != "" {
		fmt.Fprintf(s.Stdout, "program %s", spec.Program)
		return 0, nil
	}
	if spec.Args[0] == "sizes" {
		size := <-s.Resize
		fmt.Fprintf(s.Stdout, "%dx%d", size.Cols, size.Rows)
		return 0, nil
	}
	cmd := exec.CommandContext(ctx, spec.Args[0], spec.Args[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return -1, err
	}
	go func() { _, _ = io.Copy(stdin, s.Stdin); stdin.Close() }()
	cmd.Stdout, cmd.Stderr = s.Stdout, s.Stderr
	err = cmd.Run()
	var x *exec.ExitError
	if errors.As(err, &x) && ctx.Err() == nil {
		return x.ExitCode(), nil
	}
	return cmd.ProcessState.ExitCode(), errors.Join(err, ctx.Err())
}

// Stats counts nothing.
func (b *Sandbox) Stats(context.Context, string) (sandbox.Stats, error) { return sandbox.Stats{}, nil }

// Processes is one process, /app.
func (b *Sandbox) Processes(context.Context, string) ([]sandbox.Process, error) {
	return []sandbox.Process{{PID: 1, Command: "/app"}}, nil
}

// Limit bounds nothing.
func (b *Sandbox) Limit(context.Context, string, int) error { return nil }

// Reclaim gets half of what is asked for, in bytes.
func (b *Sandbox) Reclaim(_ context.Context, _ string, mib int) (uint64, error) {
	return uint64(mib) << 19, nil
}
