package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Host is the machines of one node. All methods may be called from any
// goroutine; those that change something wait until Run has found what an
// earlier run left.
type Host struct {
	cfg  Config
	log  *slog.Logger
	pool *pool

	ctx   context.Context // of everything in the background; ends with Run
	stop  context.CancelFunc
	ready chan struct{} // closed when adoption is done

	starting atomic.Int32  // starts under way
	atOnce   chan struct{} // a token for each start that nobody waits for at the door
	latest   atomic.Int64  // when the latest start ended, in Unix nanoseconds

	raising  sync.Mutex    // held while a machine is given more memory
	unbidden chan struct{} // a place for each machine that the timetable is busy with

	watchers watchers
	voice    voice

	mu       sync.RWMutex // guards what follows
	machines map[string]*machine
	names    map[string]string // <app>/<name> → machine id
	graves   []string          // ids of destroyed machines that are still in machines
	closing  bool
	wg       sync.WaitGroup // of everything in the background
}

// maxGraves is how many destroyed machines are remembered, for those who wait
// for the end of one.
const maxGraves = 1000

// New checks the configuration and reads the node's records. It starts nothing.
// It fails if Dir holds a machine that belongs to a node of another name.
func New(cfg Config) (*Host, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make machine directory: %w", err)
	}
	h := &Host{cfg: cfg, log: cfg.Logger, ready: make(chan struct{}), machines: map[string]*machine{}, names: map[string]string{},
		atOnce: make(chan struct{}, 2*cfg.CPUs), unbidden: make(chan struct{}, maxUnbidden)}
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.pool = newPool(h)
	for _, e := range cfg.Records.List("") {
		if e.Value.Node == cfg.Node {
			h.enter(newMachine(h, e.Value))
		} else if err := h.foreign(&e.Value); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// foreign refuses the record of another node's machine whose folder is here:
// this node was renamed. Without its record a machine is a stray, so to go on
// would be to end it and remove its folder.
func (h *Host) foreign(r *Record) error {
	if !idForm.MatchString(r.ID) {
		return nil
	}
	if _, err := os.Stat(h.dir(r.ID)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("cannot take over the machines of node %q: this node is called %q, but the folder of machine %q is in %q; "+
		"call this node %q again, or move the folder away", r.Node, h.cfg.Node, r.ID, h.cfg.Dir, r.Node)
}

// Run finds the machines that an earlier run left, puts them into the state
// they should be in, and then keeps them there until ctx ends. Machines keep
// running when it returns. It is called once.
func (h *Host) Run(ctx context.Context) error {
	defer h.close()
	if err := h.adopt(ctx); err != nil {
		return fmt.Errorf("cannot find the node's machines again: %w", err)
	}
	close(h.ready)
	h.spawn(h.pool.run)
	h.spawn(h.sink)
	h.spawn(h.timetable)
	<-ctx.Done()
	return nil
}

// Ready is closed when Run has found what an earlier run left.
func (h *Host) Ready() <-chan struct{} { return h.ready }

func (h *Host) close() {
	h.mu.Lock()
	h.closing = true
	h.mu.Unlock()
	h.stop()
	h.wg.Wait()
	h.pool.drain()
}

// spawn runs f in the background; false when the host is closing.
func (h *Host) spawn(f func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return false
	}
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		f()
	}()
	return true
}

// act runs op with the machine's turn. The caller may leave early; the
// operation is carried to its end all the same.
func (h *Host) act(ctx context.Context, id, nonce string, op func(context.Context, *machine) error) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	if err := m.admits(nonce); err != nil {
		return err
	}
	return h.detached(ctx, m, func(run context.Context) error {
		// What was true before the turn may not be any more.
		if m.now().gone {
			return notFound(id)
		}
		if err := m.admits(nonce); err != nil {
			return err
		}
		return op(run, m)
	})
}

// detached takes the machine's turn and runs op on the host's own time.
func (h *Host) detached(ctx context.Context, m *machine, op func(context.Context) error) error {
	if err := m.take(ctx); err != nil {
		return err
	}
	done := make(chan error, 1)
	ok := h.spawn(func() {
		defer m.give()
		done <- op(h.ctx)
	})
	if !ok {
		m.give()
		return errClosing()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("machine %q: %w; the operation goes on", m.id, ctx.Err())
	}
}

func errClosing() error {
	return api.Errorf(api.CodeInternal, "the node is stopping").WithHint("try again in a moment")
}

func notFound(id string) error {
	return api.Errorf(api.CodeNotFound, "machine %q is not on this node", id)
}

// find returns the machine, once adoption is done.
func (h *Host) find(ctx context.Context, id string) (*machine, error) {
	select {
	case <-h.ready:
	default:
		select {
		case <-h.ready:
		case <-h.ctx.Done():
			return nil, errClosing()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	m := h.lookup(id)
	if m == nil {
		return nil, notFound(id)
	}
	return m, nil
}

func (h *Host) lookup(id string) *machine {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.machines[id]
}

func (h *Host) all() []*machine {
	h.mu.RLock()
	defer h.mu.RUnlock()
	all := make([]*machine, 0, len(h.machines))
	for _, m := range h.machines {
		all = append(all, m)
	}
	return all
}

// enter makes the machine known.
func (h *Host) enter(m *machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := m.now().rec
	h.machines[m.id] = m
	h.names[r.App+"/"+r.Name] = m.id
}

// leave frees the machine's name; graves keep the machine itself for a while.
func (h *Host) leave(m *machine, grave bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := m.now().rec
	if h.names[r.App+"/"+r.Name] == m.id {
		delete(h.names, r.App+"/"+r.Name)
	}
	if !grave {
		delete(h.machines, m.id)
		return
	}
	if h.graves = append(h.graves, m.id); len(h.graves) > maxGraves {
		delete(h.machines, h.graves[0])
		h.graves = slices.Clone(h.graves[1:])
	}
}

// Get returns a machine; its Config is shared and must not be changed. Destroyed
// machines are remembered for a while.
func (h *Host) Get(ctx context.Context, id string) (api.Machine, error) {
	m := h.lookup(id)
	if m == nil {
		return api.Machine{}, notFound(id)
	}
	return m.now().shown(), nil
}

// List returns the machines of an app, or all with "", oldest first. Their
// Configs are shared and must not be changed.
func (h *Host) List(app string) []api.Machine {
	var out []api.Machine
	for _, m := range h.all() {
		if v := m.now(); !v.gone && (app == "" || v.rec.App == app) {
			out = append(out, v.shown())
		}
	}
	slices.SortFunc(out, func(a, b api.Machine) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// shown is the view in the API's words.
func (v *view) shown() api.Machine {
	r := &v.rec
	return api.Machine{
		ID: r.ID, Name: r.Name, State: r.State, Region: r.Region, ImageRef: r.Image,
		InstanceID: r.Version, Version: r.Version, PrivateIP: r.PrivateIP, SecretsVersion: secretsShown(r.SecretsVersion, r.NoSecrets),
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Config: &r.Config,
		Events: r.Events, Checks: v.checks, HostStatus: "ok", Cordoned: r.Cordoned,
		App: r.App, Node: r.Node, Release: r.Release, Standing: r.Standing, HomeRegion: r.Home,
	}
}

// dir is the machine's folder on the host.
func (h *Host) dir(id string) string { return filepath.Join(h.cfg.Dir, id) }

// milliseconds returns d as people read it, to a tenth.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}
