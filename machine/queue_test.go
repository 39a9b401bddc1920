package machine

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestStartsGoInLine: of many starts a few are under way, the others come after them, and
// one that a visitor waits for passes the line.
func TestStartsGoInLine(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) { c.CPUs = 1 })
	slow := make(chan struct{})
	w.sandbox.slowStart(slow)
	var all sync.WaitGroup
	start := func(id string) {
		all.Go(func() { _, err := d.Start(context.Background(), id, ""); ok(t, err) })
		d.reaches(t, id, api.StateStarting)
	}
	asleep := func(args ...string) string {
		c := config(args...)
		m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: c, SkipLaunch: true})
		ok(t, err)
		return m.ID
	}
	for range 2 {
		start(asleep("hangs"))
	}
	waits, visited := asleep("sleep"), asleep("sleep")
	start(waits)
	start(visited)
	if _, err := d.Wake(t.Context(), visited); err != nil {
		t.Errorf("the machine that is visited: %v", err)
	}
	time.Sleep(20 * time.Millisecond)
	if s, _ := d.Status(waits); s.State != api.StateStarting {
		t.Errorf("the one in line is %s", s.State)
	}
	close(slow)
	all.Wait()
	if s, _ := d.Status(waits); s.State != api.StateStarted {
		t.Errorf("the one in line is %s at the end", s.State)
	}
}

// TestStopLeavesNothing: what a stop puts off is done before the machine lives again.
func TestStopLeavesNothing(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.into(t, api.StateStarted)
	for range 20 {
		ok(t, d.Stop(t.Context(), id, api.StopRequest{}, ""))
		_, err := d.Start(t.Context(), id, "")
		ok(t, err)
		boxes, err := w.sandbox.List(t.Context())
		ok(t, err)
		live := 0
		for _, b := range boxes {
			if b.Spec != nil {
				live++
			}
		}
		if live != 1 {
			t.Fatalf("there are %d sandboxes of the machine", live)
		}
	}
}
