package machine

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestSuspendIsCalledOff has a request come while the memory is being written.
func TestSuspendIsCalledOff(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	for _, from := range []string{api.StateStarted, api.StatePaused} {
		id := d.into(t, from)
		w.sandbox.slow = make(chan struct{})
		done := make(chan error, 1)
		go func() { done <- d.Suspend(context.Background(), id, "") }()
		d.reaches(t, id, api.StateSuspending)
		woken := make(chan error, 1)
		go func() { _, err := d.Wake(context.Background(), id); woken <- err }()
		until(t, "the wake is heard", d.lookup(id).isWanted)
		close(w.sandbox.slow)
		ok(t, <-woken)
		want(t, <-done, api.CodeConflict)
		if d.state(id) != api.StateStarted || w.sandbox.called("restore") != 0 {
			t.Errorf("after %s it is %s", from, d.state(id))
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, id, snapshotPrefix+"*")); len(left) != 0 {
			t.Errorf("snapshots are left: %v", left)
		}
		w.sandbox.slow = nil
	}
}

func TestBusyMachinesStayAwake(t *testing.T) {
	w := newWorld(t)
	var busy atomic.Bool
	var seen atomic.Value
	var d *daemon
	d = w.run(func(c *Config) {
		c.MaySleep = func(id string) bool { seen.Store(d.state(id)); return !busy.Load() }
	})
	id := d.create(t, config("sleep"))
	busy.Store(true)
	for depth, shown := range map[string]string{api.StatePaused: api.StatePaused, api.StateSuspended: api.StateSuspending, api.StateStopped: api.StateStopping} {
		want(t, d.Sleep(t.Context(), id, depth), api.CodeConflict)
		if d.state(id) != api.StateStarted {
			t.Errorf("a busy machine is %s", d.state(id))
		}
		if seen.Load() != shown {
			t.Errorf("MaySleep was asked while readers saw %s, want %s", seen.Load(), shown)
		}
	}
	busy.Store(false)
	ok(t, d.Sleep(t.Context(), id, api.StatePaused))
	want(t, d.Sleep(t.Context(), id, "tired"), api.CodeInvalid)
}

func TestDamagedSnapshotStartsCold(t *testing.T) {
	damages := map[string]func(dir string) error{
		"damaged": func(dir string) error { return os.WriteFile(filepath.Join(dir, "memory"), []byte("who"), 0o600) },
		"missing": os.RemoveAll,
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.run()
			id := d.into(t, api.StateSuspended)
			ok(t, damage(filepath.Join(w.dir, id, d.lookup(id).now().rec.Snapshot)))
			addr, err := d.Wake(t.Context(), id)
			ok(t, err)
			if !addr.IsValid() || d.state(id) != api.StateStarted {
				t.Errorf("it is %s at %s", d.state(id), addr)
			}
			events, _ := d.Events(t.Context(), id)
			if events[0].Type != "start" || events[1].Type != "resume_failed" {
				t.Errorf("events are %v", events[:2])
			}
			if left, _ := filepath.Glob(filepath.Join(w.dir, id, snapshotPrefix+"*")); len(left) != 0 {
				t.Errorf("snapshots are left: %v", left)
			}
		})
	}
}

func TestWakesJoin(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	for _, state := range []string{api.StatePaused, api.StateSuspended, api.StateStopped} {
		id := d.into(t, state)
		before := w.sandbox.called("start") + w.sandbox.called("resume")
		var wg sync.WaitGroup
		addrs := make(chan netip.Addr, 50)
		for range 50 {
			wg.Go(func() {
				a, err := d.Wake(context.Background(), id)
				if err != nil {
					t.Error(err)
				}
				addrs <- a
			})
		}
		wg.Wait()
		close(addrs)
		for a := range addrs {
			if s, _ := d.Status(id); a != s.Addr {
				t.Errorf("a wake answered %s, the machine is at %s", a, s.Addr)
			}
		}
		if n := w.sandbox.called("start") + w.sandbox.called("resume") - before; n != 1 {
			t.Errorf("%s: 50 wakes made %d starts", state, n)
		}
	}
}

// TestWakeDoesNotHastenBackoff holds a request until the machine is up again.
func TestWakeDoesNotHastenBackoff(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) { c.backoff = time.Hour })
	id := d.create(t, config("exit", "1"))
	d.reaches(t, id, api.StateRestarting)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.Wake(ctx, id); err == nil {
		t.Error("the wake succeeded")
	}
	if w.sandbox.called("start") != 1 {
		t.Error("the request started the machine")
	}
	ok(t, d.Stop(t.Context(), id, api.StopRequest{}, ""))
}

func TestPausedMachinesSink(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) { c.SinkAfter = time.Millisecond })
	id := d.into(t, api.StatePaused)
	d.reaches(t, id, api.StateSuspended)
	t.Run("when memory is short", func(t *testing.T) {
		w := newWorld(t)
		d := w.run(func(c *Config) { c.SinkAfter, c.MinFreeMB = time.Hour, 1<<30 })
		d.reaches(t, d.into(t, api.StatePaused), api.StateSuspended)
	})
}

// TestStoppersDoNotSink: a machine that placement is about to stop is not written
// to disk before, unless its memory is needed at once.
func TestStoppersDoNotSink(t *testing.T) {
	stop, suspend, off := api.AutostopStop, api.AutostopSuspend, api.AutostopOff
	for name, c := range map[string]struct {
		services []api.Autostop
		cordoned bool
		short    bool
		sinks    bool
	}{
		"stop":           {services: []api.Autostop{stop}},
		"stop, short":    {services: []api.Autostop{stop}, short: true, sinks: true},
		"stop, cordoned": {services: []api.Autostop{stop}, cordoned: true, sinks: true},
		"mixed":          {services: []api.Autostop{suspend, stop}},
		"suspend":        {services: []api.Autostop{suspend}, sinks: true},
		"stop and off":   {services: []api.Autostop{stop, off}, sinks: true},
		"no service":     {sinks: true},
	} {
		t.Run(name, func(t *testing.T) {
			d := newWorld(t).run(func(c2 *Config) {
				c2.SinkAfter = time.Millisecond
				if c.short {
					c2.MinFreeMB = 1 << 30
				}
			})
			conf := config("sleep")
			for i, a := range c.services {
				conf.Services = append(conf.Services, api.Service{InternalPort: 80 + i, Autostop: &a})
			}
			m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: conf, SkipServiceRegistration: c.cordoned})
			ok(t, err)
			ok(t, d.Pause(t.Context(), m.ID, ""))
			witness := d.into(t, api.StatePaused) // younger: it sinks after the other was looked at
			d.reaches(t, witness, api.StateSuspended)
			if sunk := d.state(m.ID) == api.StateSuspended; sunk != c.sinks {
				t.Errorf("it is %s", d.state(m.ID))
			}
		})
	}
}

func TestPool(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) { c.Pool, c.PoolDelay = 2, time.Millisecond })
	until(t, "the pool is full", func() bool { return d.pool.size() == 2 })
	id := d.create(t, config("sleep"))
	events, _ := d.Events(t.Context(), id)
	if events[0].Detail["prepared"] != true {
		t.Errorf("the start did not use the pool: %v", events[0].Detail)
	}
	until(t, "the pool is full again", func() bool { return d.pool.size() == 2 })
	// The supervisor was restarted: what was prepared is gone.
	w.sandbox.mu.Lock()
	for id := range w.sandbox.boxes {
		if strings.HasPrefix(id, poolPrefix) {
			delete(w.sandbox.boxes, id)
		}
	}
	w.sandbox.mu.Unlock()
	second := d.create(t, config("sleep"))
	for _, id := range []string{id, second} {
		ok(t, d.Destroy(t.Context(), id, true, ""))
	}
	d.end()
	w.expectEmpty(t)
}
