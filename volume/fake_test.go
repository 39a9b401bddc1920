package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/volume/disk"
	"github.com/perigee-run/perigee/volume/objects"
	"github.com/perigee-run/perigee/volume/snapshot"
)

// fake is a volume's files without a disk: small, and as slow and as stubborn as a
// test wants. What real ones do, package disk's tests and those of whole nodes show.
type fake struct {
	dir string

	mu        sync.Mutex // guards what follows
	mounted   bool
	busy      bool          // unmounting fails
	damaged   bool          // mounting fails
	size      int64         // what Size says
	allocated int64         // what Allocated says
	hold      chan struct{} // Copy and Grow wait for its end
	still     bool          // it does not grow while it is mounted
	usage     disk.Usage    // what Usage says, if anything
}

func (f *fake) set(edit func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(f)
}

func (f *fake) wait(ctx context.Context) error {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fake) Create(_ context.Context, size int64, _ disk.Key) error {
	f.set(func(f *fake) { f.size = size })
	return os.MkdirAll(f.dir, 0o700)
}

func (f *fake) CreateFrom(ctx context.Context, image string, size int64) error {
	return errors.Join(f.Create(ctx, size, disk.Key{}), os.Remove(image))
}

func (f *fake) Exists() bool { _, err := os.Stat(f.dir); return err == nil }

func (f *fake) Remove() error { return os.RemoveAll(f.dir) }

func (f *fake) Mount(context.Context, disk.Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.damaged {
		return disk.ErrDamaged
	}
	f.mounted = true
	return nil
}

func (f *fake) Mounted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mounted
}

func (f *fake) Unmount(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy && f.mounted {
		return errors.New("it is busy")
	}
	f.mounted = false
	return nil
}

func (f *fake) Thaw() bool   { return false }
func (f *fake) Data() string { return filepath.Join(f.dir, "data") }

func (f *fake) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.size, nil
}

func (f *fake) Allocated() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.allocated
}

func (f *fake) Usage() (disk.Usage, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.usage, f.usage.Blocks > 0
}

func (f *fake) Grow(ctx context.Context, size int64) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.still && f.mounted {
		return disk.ErrMounted
	}
	f.size, f.usage.Available, f.usage.Blocks = size, f.usage.Available+(size-f.size)/4096, size/4096
	return nil
}

func (f *fake) Copy(ctx context.Context, to string) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	half := to + ".half"                                                                                  // who looks for the copy meanwhile sees none, as with the real one
	if err := os.WriteFile(half, bytes.Repeat([]byte("the image of "+f.dir), 1<<16), 0o600); err != nil { // of several chunks
		return err
	}
	return os.Rename(half, to)
}

// oneApp is the app "shop" and no other.
type oneApp struct{}

func (oneApp) Owner(app string) (Owner, error) {
	if app != "shop" {
		return Owner{}, api.Errorf(api.CodeNotFound, "there is no app %q", app)
	}
	return Owner{ID: "app_1", Org: "personal"}, nil
}

// slow is a store of objects that takes its time, or fails, if it is told to.
type slow struct {
	*objects.Dir
	shared bool

	mu   sync.Mutex // guards what follows
	hold chan struct{}
	err  error // of Put
	left int   // puts that work before err
}

func (s *slow) Put(ctx context.Context, name string, data []byte) error {
	s.mu.Lock()
	hold, err := s.hold, s.err
	if s.left > 0 {
		s.left, err = s.left-1, nil
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.Dir.Put(ctx, name, data)
}

func (s *slow) Shared() bool { return s.shared }

func (s *slow) stall(hold chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
}

// fail has Put fail, once it has worked for so many times.
func (s *slow) fail(err error, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.left = err, left
}

// fakes is a store over fakes, on a disk of a hundred GB.
type fakes struct {
	*Store
	t       *testing.T
	objects *slow
	place   string

	mu    sync.Mutex // guards what follows
	files map[string]*fake
	free  int64
}

func newFakes(t *testing.T) *fakes {
	t.Helper()
	k := &fakes{t: t, files: map[string]*fake{}, free: 100 * disk.GiB, place: filepath.Join(t.TempDir(), "snapshots")}
	k.objects = &slow{Dir: objects.NewDir(k.place)}
	repo, err := snapshot.New(k.objects, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Dir: t.TempDir(), Node: "n1", Region: "lab", Key: make([]byte, 32), Records: &table{all: map[string][]byte{}}, Apps: oneApp{}, Snapshots: repo,
		Every: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), patience: 20 * time.Millisecond,
		at:   k.at,
		free: func(string) (int64, error) { k.mu.Lock(); defer k.mu.Unlock(); return k.free, nil },
	}
	if k.Store, err = New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	k.shares = false
	k.Settle(t.Context())
	t.Cleanup(func() {
		k.close()
		if err := disk.Unshare(cfg.Dir); err != nil {
			t.Error(err)
		}
	})
	return k
}

func (k *fakes) at(dir string) files {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := &fake{dir: dir}
	k.files[filepath.Base(dir)] = f
	return f
}

func (k *fakes) disk(id string) *fake {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.files[id]
}

// volume makes a volume and attaches it to the machine m1.
func (k *fakes) volume(gb int) *volume {
	k.t.Helper()
	made, err := k.Create(k.t.Context(), "shop", api.CreateVolumeRequest{SizeGB: &gb})
	if err != nil {
		k.t.Fatal(err)
	}
	if err := k.Attach(k.t.Context(), "shop", "m1", []api.Mount{{Volume: made.ID}}); err != nil {
		k.t.Fatal(err)
	}
	return k.lookup(made.ID)
}

// run runs the store and returns its end.
func (k *fakes) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	return func() {
		k.t.Helper()
		cancel()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			k.t.Error("Run does not end")
		}
	}
}

// within waits until ok.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within 5 s: %s", what)
}
