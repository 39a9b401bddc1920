package machine

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

func TestNext(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for schedule, want := range map[string]string{"hourly": "2026-01-31T13:00:00Z", "daily": "2026-02-01T12:00:00Z",
		"weekly": "2026-02-07T12:00:00Z", "monthly": "2026-02-28T12:00:00Z"} {
		if got := next(schedule, at, at).Format(time.RFC3339); got != want {
			t.Errorf("%s: %s, want %s", schedule, got, want)
		}
	}
}

// TestMonthlyComesBack: a machine made on the 31st has each month's last day, or its own.
func TestMonthlyComesBack(t *testing.T) {
	made := time.Date(2027, 10, 31, 9, 30, 0, 7, time.UTC)
	at := made
	for _, want := range []string{"2027-11-30", "2027-12-31", "2028-01-31", "2028-02-29", "2028-03-31"} {
		if at = next("monthly", made, at); at.Format(time.DateOnly) != want || at.Format("15:04:05.000000000") != "09:30:00.000000007" {
			t.Errorf("%s, want %s", at, want)
		}
	}
	drifted := time.Date(2027, 12, 3, 9, 30, 0, 7, time.UTC)
	if got := next("monthly", made, drifted).Format(time.DateOnly); got != "2027-12-31" {
		t.Errorf("after a turn on another day: %s", got)
	}
}

// hourly is a world with a machine that has an hourly schedule, and a clock that the hours
// are added to.
func hourly(t *testing.T) (w *world, d *daemon, hours *atomic.Int64, id string) {
	w, hours = newWorld(t), &atomic.Int64{}
	d = w.run(func(c *Config) {
		c.every, c.clock = time.Millisecond, func() time.Time { return time.Now().Add(time.Duration(hours.Load()) * time.Hour) }
	})
	c := config("sleep")
	c.Schedule = "hourly"
	return w, d, hours, d.create(t, c)
}

// TestScheduledMachineRunsAgain moves the clock by hours.
func TestScheduledMachineRunsAgain(t *testing.T) {
	w, d, hours, id := hourly(t)
	starts := func() (n int) {
		events, err := d.Events(t.Context(), id)
		ok(t, err)
		for _, e := range events {
			if e.Type == "start" {
				n++
			}
		}
		return n
	}
	for want := 2; want < 4; want++ {
		w.sandbox.dies(id, sandbox.Exit{At: time.Now()})
		d.reaches(t, id, api.StateStopped)
		time.Sleep(20 * time.Millisecond)
		if n := starts(); n != want-1 {
			t.Fatalf("%d starts before it is due", n)
		}
		hours.Add(1)
		until(t, "the machine runs again", func() bool { return starts() == want })
		d.reaches(t, id, api.StateStarted)
	}
	hours.Add(1) // it runs: this turn is missed
	time.Sleep(20 * time.Millisecond)
	w.sandbox.dies(id, sandbox.Exit{At: time.Now()})
	d.reaches(t, id, api.StateStopped)
	time.Sleep(20 * time.Millisecond)
	if n := starts(); n != 3 {
		t.Errorf("%d starts after a turn that was missed", n)
	}
}

// TestSlowStartHoldsUpNobody: a machine whose start hangs leaves the others their turns.
func TestSlowStartHoldsUpNobody(t *testing.T) {
	w := newWorld(t)
	var hours atomic.Int64
	d := w.run(func(c *Config) {
		c.every, c.clock = time.Millisecond, func() time.Time { return time.Now().Add(time.Duration(hours.Load()) * time.Hour) }
	})
	hourly := func(program string) string {
		c := config(program)
		c.Schedule = "hourly"
		id := d.create(t, c)
		w.sandbox.dies(id, sandbox.Exit{At: time.Now()})
		d.reaches(t, id, api.StateStopped)
		return id
	}
	slow := make(chan struct{})
	ids := []string{hourly("sleep"), hourly("hangs"), hourly("sleep"), hourly("sleep")}
	w.sandbox.slowStart(slow)
	hours.Add(1)
	for _, i := range []int{0, 2, 3} {
		d.reaches(t, ids[i], api.StateStarted)
	}
	if s := d.state(ids[1]); s == api.StateStarted {
		t.Errorf("the one that hangs is %s", s)
	}
	close(slow)
	d.reaches(t, ids[1], api.StateStarted)
}

// TestFullTimetableGoesOn: while as many starts as may be are under way, the timetable
// passes over those that are due, and comes to them when there is a place.
func TestFullTimetableGoesOn(t *testing.T) {
	w, d, hours, id := hourly(t)
	w.sandbox.dies(id, sandbox.Exit{At: time.Now()})
	d.reaches(t, id, api.StateStopped)
	for range maxUnbidden {
		d.unbidden <- struct{}{}
	}
	hours.Add(1)
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		d.keepSchedule(d.lookup(id))
	}()
	select {
	case <-passed:
	case <-time.After(5 * time.Second):
		t.Error("the timetable waits for a place")
	}
	if s := d.state(id); s != api.StateStopped {
		t.Errorf("without a place it is %s", s)
	}
	for range maxUnbidden {
		<-d.unbidden
	}
	d.reaches(t, id, api.StateStarted)
	<-passed
}

// TestStandbyStartsAndStandsDown: the node of the one that it stands by for is lost,
// and comes back.
func TestStandbyStartsAndStandsDown(t *testing.T) {
	w := newWorld(t)
	var lost atomic.Bool
	d := w.run(func(c *Config) {
		c.every, c.Fallen = time.Millisecond, func(app, id string) bool { return app == "shop" && id == "3d8d9014b32789" && lost.Load() }
	})
	c := config("sleep")
	c.Standbys = []string{"3d8d9014b32789", "e2865641be9786"}
	id := d.create(t, c)
	if s := d.state(id); s != api.StateStopped {
		t.Fatalf("a standby machine begins as %s", s)
	}
	time.Sleep(20 * time.Millisecond)
	if s := d.state(id); s != api.StateStopped {
		t.Fatalf("it is %s while nothing is lost", s)
	}
	lost.Store(true)
	d.reaches(t, id, api.StateStarted)
	lost.Store(false)
	d.reaches(t, id, api.StateStopped)
	for _, sleep := range []func(context.Context, string, string) error{d.Pause, d.Suspend} { // also one that sleeps goes
		lost.Store(true)
		d.reaches(t, id, api.StateStarted)
		ok(t, sleep(t.Context(), id, ""))
		lost.Store(false)
		d.reaches(t, id, api.StateStopped)
	}
	lost.Store(true)
	d.reaches(t, id, api.StateStarted)
	ok(t, d.Stop(t.Context(), id, api.StopRequest{}, ""))
	time.Sleep(20 * time.Millisecond)
	if s := d.state(id); s != api.StateStopped {
		t.Errorf("one that was stopped is %s again for the same loss", s)
	}
	lost.Store(false) // it comes back, the standby is started by hand, and it is lost again
	until(t, "it stands for nobody", func() bool { return len(d.lookup(id).now().rec.StandsFor) == 0 })
	_, err := d.Start(t.Context(), id, "")
	ok(t, err)
	lost.Store(true)
	until(t, "the loss is noted", func() bool { return len(d.lookup(id).now().rec.StandsFor) == 1 })
	ok(t, d.Stop(t.Context(), id, api.StopRequest{}, ""))
	time.Sleep(20 * time.Millisecond)
	if s := d.state(id); s != api.StateStopped {
		t.Errorf("one that ran by hand and was stopped is %s for the loss", s)
	}
	comesBack := func() {
		t.Helper()
		lost.Store(false)
		until(t, "it stands for nobody", func() bool { return len(d.lookup(id).now().rec.StandsFor) == 0 })
		time.Sleep(20 * time.Millisecond)
		if s := d.state(id); s != api.StateStarted {
			t.Errorf("one that somebody started is %s when the other is back", s)
		}
	}
	_, err = d.Start(t.Context(), id, "") // by hand, though another is lost
	ok(t, err)
	comesBack()
	lost.Store(true) // and again while it runs
	until(t, "the loss is noted", func() bool { return len(d.lookup(id).now().rec.StandsFor) == 1 })
	comesBack()
	if events, _ := d.Events(t.Context(), id); !slices.ContainsFunc(events, func(e api.Event) bool { return e.Type == "start" && e.Source == byNode }) {
		t.Errorf("events %+v", events)
	}
}

// TestMemoryAsksForRoom: a node that has promised its memory gives a machine no more,
// and takes back what one has too much.
func TestMemoryAsksForRoom(t *testing.T) {
	w := newWorld(t)
	left := 300
	d := w.run(func(c *Config) {
		c.MemoryMB = 4096
		c.Room = func(more int) error {
			if more > left {
				return api.Errorf(api.CodeCapacity, "%d MiB are left", left)
			}
			return nil
		}
	})
	c := config("sleep")
	c.Guest = &api.Guest{CPUKind: "shared", CPUs: 1, MemoryMB: 256, MaxMemoryMB: 2048}
	id := d.create(t, c)
	ok(t, d.SetMemory(t.Context(), id, 512, ""))
	want(t, d.SetMemory(t.Context(), id, 1024, ""), api.CodeCapacity)
	if m := d.lookup(id).limit(); m != 512 {
		t.Errorf("it has %d MiB", m)
	}
	left = 0
	ok(t, d.SetMemory(t.Context(), id, 300, ""))
}
