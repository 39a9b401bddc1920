package machine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// TestCrashAtEveryStep loses the daemon before and after each single call to
// the outside that an operation makes, starts the next one, and holds it to the
// promises: what was acknowledged is so, nothing half-made stays, and the
// machine ends in a lasting state that its sandbox agrees with.
func TestCrashAtEveryStep(t *testing.T) {
	ctx := context.Background()
	ops := map[string]struct {
		from, acked string // state before; state that an acknowledgement promises
		do          func(d *daemon, id string) error
	}{
		"start":       {api.StateStopped, api.StateStarted, func(d *daemon, id string) error { _, err := d.Start(ctx, id, ""); return err }},
		"stop":        {api.StateStarted, api.StateStopped, func(d *daemon, id string) error { return d.Stop(ctx, id, api.StopRequest{}, "") }},
		"stop paused": {api.StatePaused, api.StateStopped, func(d *daemon, id string) error { return d.Stop(ctx, id, api.StopRequest{}, "") }},
		"pause":       {api.StateStarted, api.StatePaused, func(d *daemon, id string) error { return d.Pause(ctx, id, "") }},
		"resume":      {api.StatePaused, api.StateStarted, func(d *daemon, id string) error { return d.Resume(ctx, id, "") }},
		"suspend":     {api.StateStarted, api.StateSuspended, func(d *daemon, id string) error { return d.Suspend(ctx, id, "") }},
		"restore":     {api.StateSuspended, api.StateStarted, func(d *daemon, id string) error { _, err := d.Start(ctx, id, ""); return err }},
		"wake":        {api.StateSuspended, api.StateStarted, func(d *daemon, id string) error { _, err := d.Wake(ctx, id); return err }},
		"restart":     {api.StateStarted, api.StateStarted, func(d *daemon, id string) error { return d.Restart(ctx, id, RestartOptions{}, "") }},
		"update": {api.StateStarted, api.StateStarted, func(d *daemon, id string) error {
			_, err := d.Update(ctx, id, api.CreateMachineRequest{Config: config("sleep", "new")}, "")
			return err
		}},
		"destroy": {api.StateStarted, api.StateDestroyed, func(d *daemon, id string) error { return d.Destroy(ctx, id, true, "") }},
		"create": {"", "", func(d *daemon, _ string) error {
			_, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), Name: "new"})
			return err
		}},
	}
	for name, op := range ops {
		for _, answer := range []bool{false, true} {
			for step := 0; ; step++ {
				w := newWorld(t)
				d := w.run()
				id := ""
				if op.from != "" {
					id = d.into(t, op.from)
				}
				d.gate.arm(step, answer)
				err := op.do(d, id)
				reached := d.gate.isDead()
				d.crash()
				what := fmt.Sprintf("%s, crash at call %d (answer lost: %v), acknowledged: %v", name, step, answer, err == nil)
				w.afterCrash(t, what, id, op.acked, err == nil, name)
				if !reached {
					break
				}
			}
		}
	}
}

// afterCrash starts the next daemon and looks.
func (w *world) afterCrash(t *testing.T, what, id, promised string, acked bool, op string) {
	t.Helper()
	began := time.Now()
	d := w.run()
	defer d.end()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("%s: machines were found again after %s", what, took)
	}
	if op == "create" {
		l := d.List("shop")
		if acked != (len(l) == 1) && acked {
			t.Errorf("%s: an acknowledged machine is lost", what)
		}
		if len(l) == 1 {
			id = l[0].ID
			promised = api.StateStarted
		}
	}
	state := api.StateDestroyed
	if d.lookup(id) != nil {
		a, err := d.Wait(t.Context(), id, WaitQuery{States: []string{"settled"}, Timeout: 10 * time.Second})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if state = a.State; promised == api.StateDestroyed {
			state = d.settled(t, id) // the destruction goes on
		}
	}
	switch {
	case op == "wake" && acked && (state == api.StateStarted):
	case acked && promised != "" && state != promised:
		t.Errorf("%s: it is %s, promised was %s", what, state, promised)
	case state == api.StateFailed:
		t.Errorf("%s: it is failed: %s", what, d.lookup(id).now().rec.Standing)
	}
	w.agrees(t, what, d, id, state)
}

// settled waits until no operation has the machine's turn.
func (d *daemon) settled(t testing.TB, id string) string {
	m := d.lookup(id)
	ok(t, m.take(t.Context()))
	defer m.give()
	return m.now().rec.State
}

// agrees compares the machine's state with what there is outside.
func (w *world) agrees(t *testing.T, what string, d *daemon, id, state string) {
	t.Helper()
	sandboxes := map[sandbox.State]int{}
	switch state {
	case api.StateStarted:
		sandboxes[sandbox.StateRunning] = 1
	case api.StatePaused:
		sandboxes[sandbox.StatePaused] = 1
	}
	if m := d.lookup(id); m != nil { // let the operation that set the state finish
		ok(t, m.take(t.Context()))
		m.give()
	}
	got := w.sandbox.count()
	if fmt.Sprint(got) != fmt.Sprint(sandboxes) {
		t.Errorf("%s: it is %s, and there are sandboxes %v", what, state, got)
	}
	if n := len(w.nets.Slots()); n != len(sandboxes) {
		t.Errorf("%s: it is %s, and there are %d slots", what, state, n)
	}
	entries, _ := os.ReadDir(w.dir)
	if (len(entries) == 1) != (state != api.StateDestroyed) {
		t.Errorf("%s: it is %s, and there are %d folders", what, state, len(entries))
	}
	if state == api.StateDestroyed {
		return
	}
	snapshots := 0
	files, _ := os.ReadDir(d.dir(id))
	for _, f := range files {
		if strings.HasPrefix(f.Name(), snapshotPrefix) {
			snapshots++
		}
	}
	if (snapshots == 1) != (state == api.StateSuspended) {
		t.Errorf("%s: it is %s, and there are %d snapshots", what, state, snapshots)
	}
}

// TestWhileAway has machines live on, end and lose their node while no daemon
// looks.
func TestWhileAway(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	conf := config("sleep")
	runs, pauses, suspends := d.create(t, conf), d.into(t, api.StatePaused), d.into(t, api.StateSuspended)
	ends, fails := d.create(t, conf), d.create(t, conf)
	d.crash()
	w.sandbox.dies(ends, sandbox.Exit{Code: 0})
	w.sandbox.dies(fails, sandbox.Exit{Code: 3})
	d = w.run()
	for id, state := range map[string]string{runs: api.StateStarted, pauses: api.StatePaused, suspends: api.StateSuspended, ends: api.StateStopped, fails: api.StateStarted} {
		d.reaches(t, id, state)
	}
	if w.sandbox.called("start") != 6 {
		t.Errorf("%d starts, want the five and one restart", w.sandbox.called("start"))
	}
	if ev := d.exitOf(t, fails); ev.ExitCode != 3 || !ev.Restarting {
		t.Errorf("exit while away: %+v", ev)
	}
	addr, err := d.Wake(t.Context(), runs)
	if err != nil || !addr.IsValid() {
		t.Errorf("a machine found again answers at %v, %v", addr, err)
	}
	d.crash()

	// The node itself is lost: no sandbox, no slot.
	w.sandbox, w.nets = newFakeSandbox(), newFakeNets()
	d = w.run()
	for id, state := range map[string]string{runs: api.StateStarted, pauses: api.StateStopped, suspends: api.StateSuspended, ends: api.StateStopped, fails: api.StateStarted} {
		d.reaches(t, id, state)
	}
	_, err = d.Wake(t.Context(), suspends)
	ok(t, err)
	if w.sandbox.called("restore") != 1 {
		t.Error("a snapshot on disk was not used after the node's restart")
	}
}

// TestStraysGo puts things of nobody into the node's way.
func TestStraysGo(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	for _, id := range []string{"pool.01ARZ3NDEKTSV4RRFFQ69G5FAV", "0123456789abcd.01ARZ3NDEKTSV4RRFFQ69G5FAV", "odd"} {
		s, _ := w.nets.Acquire(ctx)
		ok(t, w.sandbox.Start(ctx, sandbox.Spec{ID: id, Args: []string{"sleep"}, Netns: s.NetnsPath}, ""))
	}
	ok(t, os.MkdirAll(w.dir+"/0123456789abcd/snapshot-x", 0o700))
	w.run().end()
	w.expectEmpty(t)
}

// TestRenamedNode: a node that was given another name must not take its own
// machines for strays.
func TestRenamedNode(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.create(t, config("sleep"))
	d.crash()
	renamed := func(name string) (*Host, error) {
		return New(Config{Dir: w.dir, Node: name, Sandbox: w.sandbox, Images: fakeImages{}, Networks: w.nets, Records: w.records, Apps: fakeApps{}, Logger: discard})
	}
	_, err := renamed("n2")
	if err == nil || !strings.Contains(err.Error(), `"n1"`) || !strings.Contains(err.Error(), `"n2"`) || !strings.Contains(err.Error(), id) {
		t.Fatalf("a renamed node says %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, id)); err != nil || w.sandbox.count()[sandbox.StateRunning] != 1 {
		t.Errorf("folder: %v, sandboxes: %v", err, w.sandbox.count())
	}
	ok(t, os.RemoveAll(filepath.Join(w.dir, id))) // a machine of another node, elsewhere
	if _, err := renamed("n2"); err != nil {
		t.Errorf("another node's record is in the way: %v", err)
	}
	if d := w.run(); d.state(id) != api.StateStarted {
		t.Errorf("under its own name it is %s", d.state(id))
	}
}

// TestOnceOnly: what is never to be restarted is not run a second time because
// the node was lost, and what goes with its process's end goes.
func TestOnceOnly(t *testing.T) {
	for name, c := range map[string]struct {
		restart *api.Restart
		destroy bool
		want    string
	}{
		"no":                       {&api.Restart{Policy: "no"}, false, api.StateStopped},
		"no, then away":            {&api.Restart{Policy: "no"}, true, "unknown"},
		"auto_destroy":             {nil, true, "unknown"},
		"auto_destroy, on-failure": {&api.Restart{Policy: "on-failure"}, true, api.StateStarted},
		"default":                  {nil, false, api.StateStarted},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.run()
			conf := config("sleep")
			conf.Restart, conf.AutoDestroy = c.restart, c.destroy
			id := d.create(t, conf)
			d.crash()
			w.sandbox, w.nets = newFakeSandbox(), newFakeNets()
			d = w.run()
			until(t, "it comes to rest as "+c.want, func() bool { return d.standsAs(id) == c.want })
			if n := w.sandbox.called("start"); (n == 1) != (c.want == api.StateStarted) {
				t.Errorf("%d starts", n)
			}
			if c.want == api.StateStopped && d.lookup(id).now().rec.Standing == "" {
				t.Error("it does not say why it stopped")
			}
		})
	}
}

// TestReplacedStaysDown: a machine whose place another one has taken while its
// node was away is not started again, and holds up no other.
func TestReplacedStaysDown(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	replaced, wanted := d.create(t, config("sleep")), d.create(t, config("sleep"))
	d.crash()
	w.sandbox, w.nets = newFakeSandbox(), newFakeNets()
	decided := make(chan struct{})
	d = w.run(func(c *Config) {
		c.MayRun = func(ctx context.Context, id string) bool {
			if id == replaced {
				<-decided
			}
			return id != replaced
		}
	})
	d.reaches(t, wanted, api.StateStarted)
	close(decided)
	d.reaches(t, replaced, api.StateStopped)
	if n := w.sandbox.called("start"); n != 1 {
		t.Errorf("%d starts, want one", n)
	}
	d.crash()
	d = w.run()
	d.reaches(t, wanted, api.StateStarted)
	if s := d.standsAs(replaced); s != api.StateStopped {
		t.Errorf("after the next start it is %s", s)
	}
	ok(t, d.Destroy(t.Context(), replaced, true, ""))
}

// standsAs is the machine's state, unknown once it is destroyed.
func (d *daemon) standsAs(id string) string {
	s, there := d.Status(id)
	if !there {
		return "unknown"
	}
	return s.State
}

// TestAutoDestroySurvivesACrash loses the daemon at each step from the exit to
// the machine's end.
func TestAutoDestroySurvivesACrash(t *testing.T) {
	for step := 0; ; step++ {
		w := newWorld(t)
		d := w.run()
		conf := config("sleep")
		conf.AutoDestroy = true
		id := d.create(t, conf)
		ok(t, d.lookup(id).sync(t.Context()))
		d.gate.arm(step, false)
		w.sandbox.dies(id, sandbox.Exit{Code: 0})
		until(t, "it is gone, or the daemon is", func() bool { return d.gate.isDead() || d.standsAs(id) == "unknown" })
		reached := d.gate.isDead()
		d.crash()
		d = w.run()
		until(t, fmt.Sprintf("it goes after a crash at call %d", step), func() bool { return d.standsAs(id) == "unknown" })
		d.end()
		if !reached {
			return
		}
	}
}

// TestHalfASleepIsBrokenOff: a machine that was frozen when the daemon ended, and
// whose sleep nobody was told of, runs on.
func TestHalfASleepIsBrokenOff(t *testing.T) {
	for name, sleep := range map[string]func(d *daemon, id string) error{
		"pause":   func(d *daemon, id string) error { return d.Pause(context.Background(), id, "") },
		"suspend": func(d *daemon, id string) error { return d.Suspend(context.Background(), id, "") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.run()
			id := d.create(t, config("sleep"))
			d.gate.arm(0, true) // the sandbox freezes, and the daemon never hears
			if err := sleep(d, id); err == nil {
				t.Fatal("a sleep that was cut off was acknowledged")
			}
			d.crash()
			if w.sandbox.count()[sandbox.StatePaused] != 1 {
				t.Fatalf("sandboxes are %v", w.sandbox.count())
			}
			d = w.run()
			if d.state(id) != api.StateStarted || w.sandbox.count()[sandbox.StateRunning] != 1 {
				t.Errorf("it is %s, sandboxes are %v", d.state(id), w.sandbox.count())
			}
		})
	}
}
