package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/perigee-run/perigee/catalog"
)

const (
	// PartialWait is how long a line without an end is waited for.
	PartialWait = time.Second

	readSize  = 64 << 10
	batchRest = 20 * time.Millisecond // between batches of a machine that is read to the end
	inFlight  = 64                    // batches in memory
)

// Machine is one console to follow. The names become the lines' subject.
type Machine struct {
	App, Region, ID string
	Path            string // of the console file; made if it is not there
}

// CollectorConfig configures a Collector.
type CollectorConfig struct {
	// Store takes the lines. Required.
	Store *Store
	// MaxBacklog is the most bytes of one console file that wait to be shipped.
	// Default 64 MiB.
	MaxBacklog int64
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	safeAfter time.Duration // from acknowledged to safe on disk; tests shorten it
}

// Collector follows console files. Its methods may be called from any goroutine.
type Collector struct {
	cfg     CollectorConfig
	log     *slog.Logger
	watcher *fsnotify.Watcher
	slots   chan []byte // read buffers, inFlight of them
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	machines map[string]*follower
	paths    map[string]*follower
}

// NewCollector starts a collector that follows nothing yet. Close ends it.
func NewCollector(cfg CollectorConfig) (*Collector, error) {
	if cfg.MaxBacklog == 0 {
		cfg.MaxBacklog = 64 << 20
	}
	if cfg.safeAfter == 0 {
		cfg.safeAfter = catalog.SyncInterval + 5*time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch console files: %w; see fs.inotify.max_user_instances", err)
	}
	c := &Collector{cfg: cfg, log: cfg.Logger, watcher: w, slots: make(chan []byte, inFlight),
		machines: map[string]*follower{}, paths: map[string]*follower{}}
	for range inFlight {
		c.slots <- nil // made when first used
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.watch)
	return c, nil
}

// watch passes the kernel's news on: it only ever wakes followers.
func (c *Collector) watch() {
	for {
		select {
		case ev, ok := <-c.watcher.Events:
			if !ok {
				return
			}
			c.mu.Lock()
			f := c.paths[ev.Name]
			c.mu.Unlock()
			if f != nil && ev.Has(fsnotify.Write) {
				f.wake()
			}
		case err, ok := <-c.watcher.Errors:
			if !ok {
				return
			}
			c.log.Warn("console watcher", "error", err)
			c.wakeAll() // news may have been lost
		}
	}
}

func (c *Collector) wakeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.machines {
		f.wake()
	}
}

// Follow ships what is in the machine's console file and what comes. Following a
// machine twice is an error.
func (c *Collector) Follow(m Machine) error {
	f, err := newFollower(c, m)
	if err != nil {
		return fmt.Errorf("cannot follow the console of machine %q: %w", m.ID, err)
	}
	if err := c.add(f); err != nil {
		f.file.Close()
		return fmt.Errorf("cannot follow the console of machine %q: %w", m.ID, err)
	}
	return nil
}

func (c *Collector) add(f *follower) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return errors.New("the collector is closed")
	}
	if c.machines[f.m.ID] != nil || c.paths[f.m.Path] != nil {
		return errors.New("it is followed already")
	}
	if err := c.watcher.Add(f.m.Path); err != nil {
		return fmt.Errorf("%w; see fs.inotify.max_user_watches", err)
	}
	c.machines[f.m.ID], c.paths[f.m.Path] = f, f
	c.wg.Go(f.run)
	return nil
}

// Unfollow ships the rest of the console file, an unfinished line too, and lets
// go of it. Call it when the machine has stopped. When ctx ends first, or the
// collector is closed, the rest is left for the next Follow. An unknown machine
// is no error.
func (c *Collector) Unfollow(ctx context.Context, id string) error {
	c.mu.Lock()
	f := c.machines[id]
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	f.drain()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		f.cancel()
		<-f.done
		return fmt.Errorf("cannot ship the last lines of machine %q: %w", id, ctx.Err())
	}
}

func (c *Collector) forget(f *follower) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.machines, f.m.ID)
	delete(c.paths, f.m.Path)
	if c.ctx.Err() == nil {
		c.watcher.Remove(f.m.Path)
	}
}

// Close stops following. What has not been shipped stays in the files for the
// next start.
func (c *Collector) Close() error {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	err := c.watcher.Close()
	c.wg.Wait()
	return err
}
