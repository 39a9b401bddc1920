package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
)

// Store is the volumes of one node. All methods may be called from any goroutine.
type Store struct {
	cfg    Config
	log    *slog.Logger
	sealer sealer

	ctx     context.Context // of everything in the background; ends with Run
	stop    context.CancelFunc
	settled chan struct{} // closed by Settle

	rooms  rooms
	shares bool       // copies on the node's disk share blocks
	daily  sync.Mutex // held while a daily snapshot is copied: one at a time

	mu      sync.RWMutex // guards what follows
	volumes map[string]*volume
	making  map[string]chan struct{} // by app and key; closed when that creation has ended
	closing bool
	wg      sync.WaitGroup // of everything in the background
}

// volume is one volume of this node. An operation holds its turn.
type volume struct {
	id   string
	disk files
	turn chan struct{} // holds one token while an operation is under way

	keeping sync.Mutex // held by ensure
	storing sync.Mutex // held while its snapshots in the store are written or deleted
	sending sync.Map   // by ids of snapshots that are being sent, what ends that

	mu      sync.Mutex // guards what follows
	rec     Record
	open    bool // a machine of this run of the daemon uses it
	freeing bool // its machine is gone, and it could not be unmounted
	copying bool // it is being copied, and stays mounted if it is
}

// files is a volume on disk; *disk.Disk is one.
type files interface {
	Create(ctx context.Context, size int64, key disk.Key) error
	CreateFrom(ctx context.Context, image string, size int64) error
	Exists() bool
	Remove() error
	Mount(ctx context.Context, key disk.Key) error
	Mounted() bool
	Unmount(ctx context.Context) error
	Thaw() bool
	Data() string
	Size() (int64, error)
	Allocated() int64
	Usage() (disk.Usage, bool)
	Grow(ctx context.Context, size int64) error
	Copy(ctx context.Context, to string) error
}

var _ files = (*disk.Disk)(nil)

// now returns the present record; what it points to is not to be changed.
func (v *volume) now() Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

func (v *volume) take(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeTimeout, "volume %q is busy", v.id)
	}
}

func (v *volume) give() { <-v.turn }

// New reads the node's records, and puts right what an earlier run left half done.
// It mounts nothing.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	seal, err := newSealer(cfg.Key)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, log: cfg.Logger, sealer: seal, settled: make(chan struct{}), volumes: map[string]*volume{}, making: map[string]chan struct{}{}, rooms: rooms{copies: map[string]int64{}}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	for _, dir := range []string{cfg.Dir, s.copies()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make volume directory: %w", err)
		}
	}
	if err := disk.Share(cfg.Dir); err != nil && disk.Check() == nil && os.Geteuid() == 0 {
		return nil, err
	}
	s.shares = disk.SharesBlocks(s.copies())
	if !disk.GrowsMounted() {
		s.log.Info("volumes in use grow when their machines are started next: CAP_SYS_RESOURCE is missing")
	}
	for _, e := range cfg.Records.List("") {
		if e.Value.Node == cfg.Node {
			s.volumes[e.Value.ID] = s.known(e.Value)
		}
	}
	return s, s.recover(ctx)
}

func (s *Store) known(r Record) *volume {
	return &volume{id: r.ID, disk: s.cfg.at(filepath.Join(s.cfg.Dir, r.ID)), turn: make(chan struct{}, 1), rec: r}
}

// copies is the folder of images that are on their way into the store.
func (s *Store) copies() string { return filepath.Join(s.cfg.Dir, "copies") }

func (s *Store) lookup(id string) *volume {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.volumes[id]
}

func (s *Store) all() []*volume {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*volume, 0, len(s.volumes))
	for _, v := range s.volumes {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *volume) int { return cmp.Compare(a.id, b.id) })
	return out
}

// spawn runs f in the background; false when the store is closing.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		f()
	}()
	return true
}

// onTurn carries op to its end with the volume's turn, also if the caller leaves, and
// has Run wait for it.
func onTurn[T any](ctx context.Context, s *Store, v *volume, op func(ctx context.Context) (T, error)) (out T, err error) {
	if err := v.take(ctx); err != nil {
		return out, err
	}
	return carry(ctx, s, v.give, func() bool { return true }, op)
}

// carry runs op in the background and waits for it, while the caller does. What op
// returns comes by a channel: a caller that has left must not see it. leave is asked
// when the caller would; with false it takes what op has ended with. Then after is
// called.
func carry[T any](ctx context.Context, s *Store, after func(), leave func() bool, op func(ctx context.Context) (T, error)) (out T, err error) {
	type result struct {
		out T
		err error
	}
	done := make(chan result, 1)
	ok := s.spawn(func() {
		defer after()
		run, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		out, err := op(run)
		done <- result{out, err}
	})
	if !ok {
		after()
		return out, errClosing()
	}
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		if leave() {
			return out, ctx.Err()
		}
		r := <-done
		return r.out, r.err
	}
}

// onTurn is for what has no result.
func (s *Store) onTurn(ctx context.Context, v *volume, op func(ctx context.Context) error) error {
	_, err := onTurn(ctx, s, v, func(ctx context.Context) (struct{}, error) { return struct{}{}, op(ctx) })
	return err
}

// save changes the volume's record durably and then shows it. It may be called with
// and without the volume's turn.
func (s *Store) save(ctx context.Context, v *volume, edit func(*Record)) error {
	v.mu.Lock()
	r := v.rec.copy()
	edit(&r)
	_, err := s.cfg.Records.Put(ctx, v.id, r)
	if err == nil {
		v.rec = r
	}
	v.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot write down volume %q: %w", v.id, err)
	}
	s.cfg.Changed(v.id)
	return nil
}

// forget removes the volume's record.
func (s *Store) forget(ctx context.Context, v *volume) error {
	if err := s.cfg.Records.Delete(ctx, v.id); err != nil {
		return fmt.Errorf("cannot forget volume %q: %w", v.id, err)
	}
	s.mu.Lock()
	delete(s.volumes, v.id)
	s.mu.Unlock()
	s.cfg.Changed(v.id)
	return nil
}

// find returns the app's volume.
func (s *Store) find(app, id string) (*volume, error) {
	o, err := s.cfg.Apps.Owner(app)
	if err != nil {
		return nil, err
	}
	v := s.lookup(id)
	if v == nil {
		return nil, notFound(app, id)
	}
	if r := v.now(); r.App != app || r.AppID != o.ID {
		return nil, notFound(app, id)
	}
	return v, nil
}

// there is find for what is not destroyed.
func (s *Store) there(app, id string) (*volume, error) {
	v, err := s.find(app, id)
	if err == nil && v.now().State == api.VolumeDestroyed {
		err = notFound(app, id)
	}
	return v, err
}

func notFound(app, id string) error {
	return api.Errorf(api.CodeNotFound, "app %q has no volume %q", app, id).WithHint("perigee volumes list shows those that it has")
}

func errClosing() error {
	return api.Errorf(api.CodeInternal, "the node is stopping").WithHint("try again in a moment")
}

// Get returns a volume of the app, with its present usage.
func (s *Store) Get(_ context.Context, app, id string) (api.Volume, error) {
	v, err := s.there(app, id)
	if err != nil {
		return api.Volume{}, err
	}
	return s.look(v), nil
}

// look is the volume as it is now.
func (s *Store) look(v *volume) api.Volume {
	r := v.now()
	if u, ok := v.disk.Usage(); ok {
		r.Usage = u
	}
	return r.shown()
}

// Summary returns what others are told of a volume; false if it is not on the node.
func (s *Store) Summary(id string) (Summary, bool) {
	v := s.lookup(id)
	if v == nil {
		return Summary{}, false
	}
	r := v.now()
	return r.summary(), true
}

// Summaries returns what others are told of the node's volumes, by id.
func (s *Store) Summaries() map[string]Summary {
	out := map[string]Summary{}
	for _, v := range s.all() {
		r := v.now()
		if u, ok := v.disk.Usage(); ok {
			r.Usage = u
		}
		out[v.id] = r.summary()
	}
	return out
}

// Shared says that other nodes can restore this one's snapshots.
func (s *Store) Shared() bool { return s.cfg.Snapshots.Shared() }

// quiet is a context of its own for what must be done though the caller has left.
func quiet(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
}

// warn logs what cannot be done now and is tried again.
func (s *Store) warn(what string, v *volume, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		s.log.Warn(what, "volume", v.id, "error", err)
	}
}
