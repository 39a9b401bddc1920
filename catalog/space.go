package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/api"
)

// The file system of the catalog keeps some bytes free, so that the store never
// meets a full one: it would take no write any more until it is opened anew.
const (
	// Reserve is what must be free for a new record.
	Reserve = 32 << 20
	// LastReserve is what must be free for a change to a record or its removal:
	// what exists can go on, and be removed, for long after nothing new fits.
	LastReserve = 8 << 20

	lookEvery = time.Second // at how much is free
)

// ErrFull is returned by writes when the disk has no room. A write that met
// the end of the disk itself may have been applied all the same.
var ErrFull = errors.New("disk is full")

// fullError is ErrFull in words, for programs and for people.
type fullError struct{ words *api.Error }

func (e fullError) Error() string   { return e.words.Message + "; " + e.words.Hint }
func (e fullError) Unwrap() []error { return []error{ErrFull, e.words} }

// disk knows how much is free where the store is, and whether the store has
// failed to write. Its methods may be called from any goroutine.
type disk struct {
	dir     string
	measure func(dir string) (int64, error)
	faults  chan struct{} // has one when the store may have failed

	mu   sync.Mutex // guards what follows
	seen time.Time  // when free was measured
	free int64
	well context.Context // ends when the store fails to write
	fail context.CancelFunc
}

func newDisk(dir string, measure func(string) (int64, error)) *disk {
	d := &disk{dir: dir, measure: measure, faults: make(chan struct{}, 1)}
	if measure == nil {
		d.measure = freeBytes
	}
	d.healed()
	return d
}

func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("cannot see how much space is free in %q: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// room returns ErrFull unless need bytes are free and the store takes writes.
func (d *disk) room(need int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.well.Err() != nil {
		return d.full(need)
	}
	if time.Since(d.seen) >= lookEvery {
		free, err := d.measure(d.dir)
		if err != nil {
			return err
		}
		d.free, d.seen = free, time.Now()
	}
	if d.free >= need {
		return nil
	}
	d.seen = time.Time{} // whoever frees space and tries again is not to wait
	return d.full(need)
}

// full is the error, with what is free now.
func (d *disk) full(need int64) error {
	free, _ := d.measure(d.dir)
	e := api.Errorf(api.CodeCapacity, "the disk of %s is full: %d MiB are free, and %d MiB must be", d.dir, free>>20, need>>20)
	return fullError{e.WithHint("free space or make the disk larger; `perigee images list` shows what images take")}
}

// guard is ctx, ended with the store's health.
func (d *disk) guard(ctx context.Context) (context.Context, func()) {
	d.mu.Lock()
	well := d.well
	d.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(well, cancel)
	return ctx, func() { stop(); cancel() }
}

// failed is for when the store could not write: no write waits for it any more.
func (d *disk) failed() {
	d.mu.Lock()
	d.fail()
	d.mu.Unlock()
	select {
	case d.faults <- struct{}{}:
	default:
	}
}

func (d *disk) isWell() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.well.Err() == nil
}

func (d *disk) healed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.well, d.fail = context.WithCancel(context.Background())
	d.seen = time.Time{}
}

// hasRoom tells whether a store opened anew could write.
func (d *disk) hasRoom() bool {
	free, err := d.measure(d.dir)
	return err == nil && free >= LastReserve
}

// Room returns ErrFull, in words, unless need bytes are free on the disk of what
// this node keeps and the store takes writes. An outside cluster has its own care.
func (c *Catalog) Room(need int64) error {
	if c.local == nil {
		return nil
	}
	return c.local.disk.room(need)
}

// keepStore opens the store anew after it failed to write, once there is room,
// until ctx ends. reconnect is called when it is open.
func (e *embedded) keepStore(ctx context.Context, reconnect func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.disk.faults:
		}
		e.log.Error("catalog's store cannot write; it is opened anew when the disk has room", "dir", e.dir)
		for !e.reopen(ctx, reconnect) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lookEvery):
			}
		}
	}
}

// reopen starts the embedded server again, which reads its files as after a
// crash. What was acknowledged is in them.
func (e *embedded) reopen(ctx context.Context, reconnect func()) bool {
	if !e.disk.hasRoom() {
		return false
	}
	if err := e.restart(ctx); err != nil {
		e.log.Error("cannot open the catalog's store anew, for now", "error", err)
		return false
	}
	reconnect()
	e.disk.healed()
	e.log.Info("catalog's store takes writes again", "dir", e.dir)
	return true
}
