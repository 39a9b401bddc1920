package zone

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a file must be left alone before it is read: it may come in
// pieces.
const settle = 200 * time.Millisecond

// places turns addresses into places by files that may change under it.
type places struct {
	log                    *slog.Logger
	prefixFile, mmdbFile   string
	prefixes               atomic.Pointer[prefixes]
	mmdb                   atomic.Pointer[mmdb]
	prefixStamp, mmdbStamp stamp // Run's alone after newPlaces
}

// stamp tells whether a file is the one that was read.
type stamp struct {
	modified time.Time
	size     int64
	young    bool // it was read so soon that a later change may bear the same time
}

// clockTick is more than file systems round times to.
const clockTick = time.Second

func stampOf(info os.FileInfo) stamp {
	return stamp{info.ModTime(), info.Size(), time.Since(info.ModTime()) < clockTick}
}

func newPlaces(cfg Config) (*places, error) {
	p := &places{log: cfg.Logger, prefixFile: cfg.Prefixes, mmdbFile: cfg.MMDB}
	if err := p.loadPrefixes(); err != nil {
		return nil, err
	}
	return p, p.loadMMDB()
}

// find returns where the address is, and for how many bits of it that is true:
// 0 if it depends on nothing.
func (p *places) find(a netip.Addr) (place, int) {
	bits := 0
	if pre := p.prefixes.Load(); pre != nil {
		var region string
		if region, bits = pre.lookup(a); region != "" {
			return inRegion(region), bits
		}
	}
	db := p.mmdb.Load()
	if db == nil {
		return place{}, bits
	}
	where, more, err := db.lookup(a)
	if err != nil {
		p.log.Debug("cannot find client", "error", err)
	}
	return where, max(bits, more)
}

func (p *places) loadPrefixes() error {
	return load(p.prefixFile, "prefixes", &p.prefixStamp, &p.prefixes, parsePrefixes)
}

func (p *places) loadMMDB() error {
	return load(p.mmdbFile, "places", &p.mmdbStamp, &p.mmdb, parseMMDB)
}

// load reads a file unless it is the one that was read last. One that cannot be
// used changes nothing.
func load[T any](path, what string, last *stamp, into *atomic.Pointer[T], parse func([]byte) (*T, error)) error {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", what, err)
	}
	now := stampOf(info)
	if now == *last && !now.young {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", what, err)
	}
	*last = now
	v, err := parse(b)
	if err != nil {
		return fmt.Errorf("cannot use %s from %q: %w", what, path, err)
	}
	into.Store(v)
	return nil
}

// run reads the files again when they change, until ctx ends. It watches their
// folders: a file is often replaced by another of the name.
func (p *places) run(ctx context.Context) error {
	if p.prefixFile == "" && p.mmdbFile == "" {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("cannot watch the files of places: %w", err)
	}
	defer w.Close()
	for _, path := range []string{p.prefixFile, p.mmdbFile} {
		if path == "" {
			continue
		}
		if err := w.Add(filepath.Dir(path)); err != nil {
			return fmt.Errorf("cannot watch %q for changes: %w", path, err)
		}
	}
	return p.watch(ctx, w)
}

func (p *places) watch(ctx context.Context, w *fsnotify.Watcher) error {
	quiet := time.NewTimer(0) // what changed before we watched
	defer quiet.Stop()
	waiting := true // a busy folder must not put the reading off for ever
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C:
			waiting = false
			p.reload()
			continue
		case err := <-w.Errors:
			p.log.Warn("cannot see all changes of the files of places", "error", err)
		case <-w.Events:
		}
		if !waiting {
			waiting = true
			quiet.Reset(settle)
		}
	}
}

func (p *places) reload() {
	before := [2]any{p.prefixes.Load(), p.mmdb.Load()}
	for _, err := range []error{p.loadPrefixes(), p.loadMMDB()} {
		if err != nil {
			p.log.Error("places stay as they were", "error", err)
		}
	}
	if before != [2]any{p.prefixes.Load(), p.mmdb.Load()} {
		p.log.Info("places were read again")
	}
}
