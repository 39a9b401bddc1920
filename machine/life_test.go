package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
)

// TestTransitions makes every operation in every state: what it leads to, or
// how it is refused.
func TestTransitions(t *testing.T) {
	states := []string{api.StateCreated, api.StateStarted, api.StatePaused, api.StateSuspended, api.StateStopped, api.StateFailed, api.StateDestroyed}
	pre, gone := api.CodePrecondition, api.CodeNotFound
	type op func(context.Context, *daemon, string) error
	table := []struct {
		name string
		do   op
		want []string // by state: the state after, or the code of the refusal
	}{
		{"start", func(c context.Context, d *daemon, id string) error { _, err := d.Start(c, id, ""); return err },
			[]string{"started", "started", "started", "started", "started", api.CodeInvalid, gone}},
		{"stop", func(c context.Context, d *daemon, id string) error { return d.Stop(c, id, api.StopRequest{}, "") },
			[]string{pre, "stopped", "stopped", "stopped", "stopped", "stopped", gone}},
		{"pause", func(c context.Context, d *daemon, id string) error { return d.Pause(c, id, "") },
			[]string{pre, "paused", "paused", pre, pre, pre, gone}},
		{"resume", func(c context.Context, d *daemon, id string) error { return d.Resume(c, id, "") },
			[]string{pre, "started", "started", "started", pre, pre, gone}},
		{"suspend", func(c context.Context, d *daemon, id string) error { return d.Suspend(c, id, "") },
			[]string{pre, "suspended", "suspended", "suspended", pre, pre, gone}},
		{"restart", func(c context.Context, d *daemon, id string) error { return d.Restart(c, id, RestartOptions{}, "") },
			[]string{pre, "started", "started", "started", "started", api.CodeInvalid, gone}},
		{"signal", func(c context.Context, d *daemon, id string) error {
			return d.Signal(c, id, api.SignalRequest{Signal: "TERM"}, "")
		}, []string{pre, "started", pre, pre, pre, pre, gone}}, // its process ends with a failure, and starts again
		{"destroy", func(c context.Context, d *daemon, id string) error { return d.Destroy(c, id, false, "") },
			[]string{"destroyed", pre, pre, "destroyed", "destroyed", "destroyed", gone}},
		{"destroy by force", func(c context.Context, d *daemon, id string) error { return d.Destroy(c, id, true, "") },
			[]string{"destroyed", "destroyed", "destroyed", "destroyed", "destroyed", "destroyed", gone}},
		{"update", func(c context.Context, d *daemon, id string) error {
			_, err := d.Update(c, id, api.CreateMachineRequest{Config: config("sleep")}, "")
			return err
		}, []string{"started", "started", "started", "started", "started", "started", gone}},
		{"update without launch", func(c context.Context, d *daemon, id string) error {
			_, err := d.Update(c, id, api.CreateMachineRequest{Config: config("sleep"), SkipLaunch: true}, "")
			return err
		}, []string{"stopped", "stopped", "stopped", "stopped", "stopped", "stopped", gone}},
		{"wake", func(c context.Context, d *daemon, id string) error { _, err := d.Wake(c, id); return err },
			[]string{"started", "started", "started", "started", "started", api.CodeInvalid, gone}},
		{"sleep paused", func(c context.Context, d *daemon, id string) error { return d.Sleep(c, id, api.StatePaused) },
			[]string{pre, "paused", pre, pre, pre, pre, gone}},
		{"sleep stopped", func(c context.Context, d *daemon, id string) error { return d.Sleep(c, id, api.StateStopped) },
			[]string{pre, "stopped", "stopped", "stopped", pre, pre, gone}},
		{"exec", func(c context.Context, d *daemon, id string) error {
			_, err := d.Exec(c, id, api.ExecRequest{Command: []string{"true"}})
			return err
		}, []string{pre, "started", "started", "started", pre, pre, gone}},
		{"ps", func(c context.Context, d *daemon, id string) error { _, err := d.Processes(c, id); return err },
			[]string{pre, "started", pre, pre, pre, pre, gone}},
		{"stats", func(c context.Context, d *daemon, id string) error { _, err := d.Stats(c, id); return err },
			[]string{pre, "started", "paused", pre, pre, pre, gone}},
		{"cordon", func(c context.Context, d *daemon, id string) error { return d.Cordon(c, id, "") },
			[]string{"created", "started", "paused", "suspended", "stopped", "failed", gone}},
	}
	w := newWorld(t)
	d := w.run()
	for _, c := range table {
		for i, from := range states {
			t.Run(c.name+" when "+from, func(t *testing.T) {
				id := d.into(t, from)
				err := c.do(t.Context(), d, id)
				if _, isCode := api.Codes[c.want[i]]; isCode {
					want(t, err, c.want[i])
					if len(err.Error()) < 20 || !strings.Contains(err.Error(), id) {
						t.Errorf("the refusal says too little: %q", err)
					}
					return
				}
				ok(t, err)
				d.reaches(t, id, c.want[i])
			})
		}
	}
}

func TestCreateIsWhole(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app"}, LeaseTTL: 60, Release: 4})
	ok(t, err)
	if !idForm.MatchString(m.ID) || len(m.InstanceID) != 26 || rules.Name(m.Name) != nil || m.Nonce == "" || m.Release != 4 {
		t.Errorf("odd machine: %+v", m)
	}
	if len(m.Events) != 2 || m.Events[0].Type != "start" || m.Events[1].Type != "launch" {
		t.Errorf("events are %v, want start before launch", m.Events)
	}
	if w.records.recs["shop."+m.ID].State != api.StateStarted {
		t.Error("the machine is not on disk")
	}
	for _, app := range []string{"shop", ""} {
		if l := d.List(app); len(l) != 1 || l[0].ID != m.ID {
			t.Errorf("List(%q) = %v", app, l)
		}
	}
	if l := d.List("blog"); len(l) != 0 {
		t.Errorf("another app has %v", l)
	}
}

// TestFailedCreateLeavesNothing also covers what the sandbox refuses.
func TestFailedCreateLeavesNothing(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	for code, req := range map[string]api.CreateMachineRequest{
		api.CodeInvalid:  {Config: config("broken")},
		api.CodeImage:    {Config: &api.MachineConfig{Image: "none"}},
		api.CodeConflict: {Config: config("sleep"), MinSecretsVersion: new(uint64(4))},
	} {
		_, err := d.Create(t.Context(), "shop", req)
		want(t, err, code)
	}
	_, err := d.Create(t.Context(), "nosuch", api.CreateMachineRequest{Config: config("sleep")})
	want(t, err, api.CodeNotFound)
	w.expectEmpty(t)
	if all := d.List(""); len(all) != 0 {
		t.Errorf("machines are left: %v", all)
	}
}

// expectEmpty fails unless no machine has left anything.
func (w *world) expectEmpty(t testing.TB) {
	t.Helper()
	if n := len(w.records.List("")); n != 0 {
		t.Errorf("%d records are left", n)
	}
	if c := w.sandbox.count(); len(c) != 0 {
		t.Errorf("sandboxes are left: %v", c)
	}
	if s := w.nets.Slots(); len(s) != 0 {
		t.Errorf("slots are left: %v", s)
	}
	if e, _ := os.ReadDir(w.dir); len(e) != 0 {
		t.Errorf("folders are left: %v", e)
	}
}

func TestNames(t *testing.T) {
	d := newWorld(t).run()
	req := api.CreateMachineRequest{Config: config("sleep"), Name: "one"}
	m, err := d.Create(t.Context(), "shop", req)
	ok(t, err)
	_, err = d.Create(t.Context(), "shop", req)
	want(t, err, api.CodeNameTaken)
	_, err = d.Create(t.Context(), "blog", req)
	ok(t, err)
	ok(t, d.Destroy(t.Context(), m.ID, true, ""))
	_, err = d.Create(t.Context(), "shop", req)
	ok(t, err)
}

func TestRestartPolicies(t *testing.T) {
	x := func(code int, oom bool) sandbox.Exit { return sandbox.Exit{Code: code, OOM: oom} }
	cases := []struct {
		policy   string
		max      int
		restarts int
		exit     sandbox.Exit
		again    bool
		delay    time.Duration
	}{
		{"", 0, 0, x(0, false), false, 0},
		{"", 0, 0, x(1, false), true, time.Second},
		{"", 0, 0, x(0, true), true, time.Second},
		{"on-failure", 0, 3, x(1, false), true, 8 * time.Second},
		{"on-failure", 0, 9, x(1, false), true, time.Minute},
		{"on-failure", 0, 10, x(1, false), false, 0},
		{"on-failure", 2, 2, x(1, false), false, 0},
		{"on-failure", 20, 19, x(1, false), true, time.Minute},
		{"no", 0, 0, x(1, false), false, 0},
		{"always", 0, 0, x(0, false), true, time.Second},
		{"always", 3, 200, x(1, false), true, time.Minute},
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s %d/%d exit %d", c.policy, c.restarts, c.max, c.exit.Code), func(t *testing.T) {
			r := &Record{Restarts: c.restarts, Config: api.MachineConfig{Restart: &api.Restart{Policy: c.policy, MaxRetries: c.max}}}
			again, delay := restarts(r, c.exit, time.Second)
			if again != c.again || again && delay != c.delay {
				t.Errorf("got %v after %s, want %v after %s", again, delay, c.again, c.delay)
			}
		})
	}
}

func TestExit(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	t.Run("0 stays stopped", func(t *testing.T) {
		id := d.create(t, config("exit", "0"))
		d.reaches(t, id, api.StateStopped)
		ev := d.exitOf(t, id)
		if ev.ExitCode != 0 || ev.RequestedStop || ev.Restarting {
			t.Errorf("exit event %+v", ev)
		}
	})
	t.Run("1 is tried again and given up", func(t *testing.T) {
		c := config("exit", "1")
		c.Restart = &api.Restart{Policy: "on-failure", MaxRetries: 3}
		id := d.create(t, c)
		d.reaches(t, id, api.StateStopped)
		m, _ := d.Get(t.Context(), id)
		if n := count(m.Events, "start"); n != 4 {
			t.Errorf("%d starts, want 4", n)
		}
		if !strings.Contains(m.Standing, "given up after 3 restarts") {
			t.Errorf("standing is %q", m.Standing)
		}
	})
	t.Run("out of memory", func(t *testing.T) {
		c := config("sleep")
		c.Restart = &api.Restart{Policy: "no"}
		id := d.create(t, c)
		w.sandbox.dies(id, sandbox.Exit{Code: 137, Signal: 9, OOM: true})
		d.reaches(t, id, api.StateStopped)
		if ev := d.exitOf(t, id); !ev.OOMKilled || ev.ExitCode != 137 || ev.Signal != 9 {
			t.Errorf("exit event %+v", ev)
		}
		if m, _ := d.Get(t.Context(), id); !strings.Contains(m.Standing, "out of memory") {
			t.Errorf("standing is %q", m.Standing)
		}
	})
	t.Run("auto_destroy", func(t *testing.T) {
		c := config("exit", "0")
		c.AutoDestroy = true
		id := d.create(t, c)
		d.reaches(t, id, api.StateDestroyed)
	})
}

func (d *daemon) exitOf(t testing.TB, id string) *api.ExitEvent {
	t.Helper()
	events, err := d.Events(t.Context(), id)
	ok(t, err)
	for _, e := range events {
		if e.Type == "exit" {
			return e.Request.ExitEvent
		}
	}
	t.Fatal("there is no exit event")
	return nil
}

func count(events []api.Event, typ string) (n int) {
	for _, e := range events {
		if e.Type == typ {
			n++
		}
	}
	return n
}

func TestBackoffIsCalledOff(t *testing.T) {
	for name, op := range map[string]func(*daemon, string) error{
		"stop":    func(d *daemon, id string) error { return d.Stop(context.Background(), id, api.StopRequest{}, "") },
		"destroy": func(d *daemon, id string) error { return d.Destroy(context.Background(), id, true, "") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			d := w.run(func(c *Config) { c.backoff = time.Hour })
			id := d.create(t, config("exit", "1"))
			d.reaches(t, id, api.StateRestarting)
			ok(t, op(d, id))
			if c := w.sandbox.count(); len(c) != 0 {
				t.Errorf("sandboxes are left: %v", c)
			}
		})
	}
	t.Run("start", func(t *testing.T) {
		w := newWorld(t)
		d := w.run(func(c *Config) { c.backoff = time.Hour })
		id := d.create(t, config("sleep"))
		w.sandbox.dies(id, sandbox.Exit{Code: 1})
		d.reaches(t, id, api.StateRestarting)
		_, err := d.Start(t.Context(), id, "")
		ok(t, err)
		d.reaches(t, id, api.StateStarted)
	})
}

func TestStopSignals(t *testing.T) {
	cases := []struct {
		name string
		conf api.StopConfig
		req  api.StopRequest
		args []string
		want []string
	}{
		{"the image's", api.StopConfig{}, api.StopRequest{}, []string{"sleep"}, []string{"signal 15"}},
		{"the configuration's", api.StopConfig{Signal: "SIGQUIT"}, api.StopRequest{}, []string{"sleep"}, []string{"signal 3"}},
		{"the request's", api.StopConfig{Signal: "SIGQUIT"}, api.StopRequest{Signal: "hup"}, []string{"sleep"}, []string{"signal 1"}},
		{"kill after the time", api.StopConfig{Timeout: api.D(time.Millisecond)}, api.StopRequest{}, []string{"stubborn"}, []string{"signal 15", "signal 9"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			d := w.run()
			conf := config(c.args...)
			conf.StopConfig = &c.conf
			id := d.create(t, conf)
			ok(t, d.Stop(t.Context(), id, c.req, ""))
			for _, s := range c.want {
				if w.sandbox.called(s) != 1 {
					t.Errorf("calls are %v, want %v", w.sandbox.calls, c.want)
				}
			}
			if ev := d.exitOf(t, id); !ev.RequestedStop {
				t.Errorf("exit event %+v", ev)
			}
		})
	}
}

func TestForceCutsAStopShort(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	c := config("stubborn")
	c.StopConfig = &api.StopConfig{Timeout: api.D(5 * time.Minute)}
	id := d.create(t, c)
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop(context.Background(), id, api.StopRequest{}, "") }()
	d.reaches(t, id, api.StateStopping)
	ok(t, d.Destroy(t.Context(), id, true, ""))
	ok(t, <-stopped)
	w.expectEmpty(t)
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.create(t, config("sleep"))
	first, _ := d.Get(t.Context(), id)
	_, err := d.Update(t.Context(), id, api.CreateMachineRequest{Config: &api.MachineConfig{Image: "none"}}, "")
	want(t, err, api.CodeImage)
	if d.state(id) != api.StateStarted || w.sandbox.called("signal 15") != 0 {
		t.Error("a refused update touched the machine")
	}
	second, err := d.Update(t.Context(), id, api.CreateMachineRequest{Config: config("sleep", "2"), CurrentVersion: first.InstanceID, Release: 7}, "")
	ok(t, err)
	if second.InstanceID <= first.InstanceID || second.Config.Init.Exec[1] != "2" || second.PrivateIP != first.PrivateIP || second.Release != 7 {
		t.Errorf("second version is %+v", second)
	}
	_, err = d.Update(t.Context(), id, api.CreateMachineRequest{Config: config("sleep"), CurrentVersion: first.InstanceID}, "")
	want(t, err, api.CodeConflict)
	answer, err := d.Wait(t.Context(), id, WaitQuery{Version: first.InstanceID, States: []string{api.StateStopped}})
	ok(t, err)
	if answer.State != api.StateReplaced {
		t.Errorf("a wait on the old version answered %+v", answer)
	}
	_, err = d.Wait(t.Context(), id, WaitQuery{Version: "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
	want(t, err, api.CodeInvalid)
	if v, _ := d.Versions(t.Context(), id); len(v) != 2 || v[0].ID != second.InstanceID {
		t.Errorf("versions are %v", v)
	}
}

// TestFullDisk: what cannot be written down is not done, not even by half.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	ctx := t.Context()
	m, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), Name: "one"})
	ok(t, err)
	rename := api.CreateMachineRequest{Config: config("sleep"), Name: "two"}
	w.records.fill(true)
	_, err = d.Update(ctx, m.ID, rename, "")
	want(t, err, api.CodeInternal)
	want(t, d.Stop(ctx, m.ID, api.StopRequest{}, ""), api.CodeInternal)
	want(t, d.Destroy(ctx, m.ID, true, ""), api.CodeInternal)
	if got, _ := d.Get(ctx, m.ID); got.State != api.StateStarted || got.Name != "one" || len(got.Events) != len(m.Events) {
		t.Errorf("it is %s, named %q, with events %+v", got.State, got.Name, got.Events)
	}
	w.records.fill(false)
	until(t, "the disk has room", func() bool { return d.lookup(m.ID).sync(ctx) == nil })
	_, err = d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), Name: "one"})
	want(t, err, api.CodeNameTaken)
	_, err = d.Update(ctx, m.ID, rename, "")
	ok(t, err)
	d.crash()
	d = w.run()
	if got, _ := d.Get(ctx, m.ID); got.Name != "two" || got.State != api.StateStarted {
		t.Errorf("after a crash it is %s, named %q", got.State, got.Name)
	}
}

// TestExitSignal: a code above 128 is a signal's only if there is such a signal.
func TestExitSignal(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.create(t, config("sleep"))
	for code, signal := range map[int]int{0: 0, 1: 0, 128: 0, 137: 9, 192: 64, 193: 0, 200: 0, 255: 0} {
		w.sandbox.mu.Lock()
		w.sandbox.code = code
		w.sandbox.mu.Unlock()
		r, err := d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"x"}})
		ok(t, err)
		if r.ExitCode != code || r.ExitSignal != signal {
			t.Errorf("code %d: %+v", code, r)
		}
	}
}

func TestWait(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	id := d.create(t, config("sleep"))
	t.Run("settled at once", func(t *testing.T) {
		a, err := d.Wait(t.Context(), id, WaitQuery{States: []string{"settled"}})
		ok(t, err)
		if a.State != api.StateStarted || a.EventID == "" {
			t.Errorf("answer %+v", a)
		}
	})
	t.Run("timeout in words", func(t *testing.T) {
		_, err := d.Wait(t.Context(), id, WaitQuery{States: []string{api.StateStopped}, Timeout: time.Millisecond})
		want(t, err, api.CodeTimeout)
		if !strings.Contains(err.Error(), "is started") {
			t.Errorf("error is %q", err)
		}
	})
	t.Run("never started is as good as stopped", func(t *testing.T) {
		m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: config("sleep"), SkipLaunch: true})
		ok(t, err)
		a, err := d.Wait(t.Context(), m.ID, WaitQuery{States: []string{api.StateStopped}, Timeout: time.Millisecond})
		ok(t, err)
		if a.State != api.StateCreated {
			t.Errorf("answer %+v", a)
		}
	})
	t.Run("no such state", func(t *testing.T) {
		_, err := d.Wait(t.Context(), id, WaitQuery{States: []string{"sleepy"}})
		want(t, err, api.CodeInvalid)
	})
	t.Run("a state that passed already", func(t *testing.T) {
		events, _ := d.Events(t.Context(), id)
		ok(t, d.Stop(t.Context(), id, api.StopRequest{}, ""))
		_, err := d.Start(t.Context(), id, "")
		ok(t, err)
		a, err := d.Wait(t.Context(), id, WaitQuery{States: []string{api.StateStopped}, FromEvent: events[0].ID, Timeout: time.Second})
		ok(t, err)
		if a.State != api.StateStopped {
			t.Errorf("answer %+v", a)
		}
	})
	t.Run("destroyed", func(t *testing.T) {
		done := make(chan error, 2)
		for _, state := range []string{api.StateDestroyed, api.StateSuspended} {
			go func() {
				_, err := d.Wait(context.Background(), id, WaitQuery{States: []string{state}})
				if state == api.StateSuspended {
					if !api.IsCode(err, api.CodePrecondition) {
						done <- fmt.Errorf("a wait for suspended ended with %v", err)
						return
					}
					err = nil
				}
				done <- err
			}()
		}
		ok(t, d.Destroy(t.Context(), id, true, ""))
		ok(t, <-done)
		ok(t, <-done)
	})
}

func TestLeases(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	ctx, id := t.Context(), d.create(t, config("sleep"))
	_, err := d.GetLease(ctx, id)
	want(t, err, api.CodeNotFound)
	l, err := d.AcquireLease(ctx, id, "deployer", api.LeaseRequest{TTL: 60, Description: "release 3"}, "")
	ok(t, err)
	for name, op := range map[string]func(nonce string) error{
		"stop":    func(n string) error { return d.Stop(ctx, id, api.StopRequest{}, n) },
		"start":   func(n string) error { _, err := d.Start(ctx, id, n); return err },
		"pause":   func(n string) error { return d.Pause(ctx, id, n) },
		"suspend": func(n string) error { return d.Suspend(ctx, id, n) },
		"restart": func(n string) error { return d.Restart(ctx, id, RestartOptions{}, n) },
		"update": func(n string) error {
			_, err := d.Update(ctx, id, api.CreateMachineRequest{Config: config("sleep")}, n)
			return err
		},
		"destroy": func(n string) error { return d.Destroy(ctx, id, true, n) },
		"cordon":  func(n string) error { return d.Cordon(ctx, id, n) },
		"signal":  func(n string) error { return d.Signal(ctx, id, api.SignalRequest{Signal: "TERM"}, n) },
		"lease":   func(n string) error { _, err := d.AcquireLease(ctx, id, "other", api.LeaseRequest{}, n); return err },
		"release": func(n string) error { return d.ReleaseLease(ctx, id, n) },
	} {
		for _, nonce := range []string{"", "wrong"} {
			err := op(nonce)
			want(t, err, api.CodeConflict)
			if !strings.Contains(err.Error(), "deployer") || !strings.Contains(err.Error(), "release 3") {
				t.Errorf("%s: error %q does not say who has the lease", name, err)
			}
		}
	}
	want(t, d.SetMetadata(ctx, id, nil, "wrong"), api.CodeConflict)
	ok(t, d.SetMetadata(ctx, id, nil, "")) // a note disturbs nobody
	want(t, d.Sleep(ctx, id, api.StatePaused), api.CodeConflict)
	_, err = d.Wake(ctx, id)
	ok(t, err)
	again, err := d.AcquireLease(ctx, id, "deployer", api.LeaseRequest{TTL: 120}, l.Nonce)
	ok(t, err)
	if again.Nonce != l.Nonce || again.ExpiresAt <= l.ExpiresAt {
		t.Errorf("refreshed to %+v from %+v", again, l)
	}
	ok(t, d.Stop(ctx, id, api.StopRequest{}, l.Nonce))
	d.crash()
	d = w.run() // a lease that was granted holds
	want(t, d.Cordon(ctx, id, ""), api.CodeConflict)
	ok(t, d.ReleaseLease(ctx, id, l.Nonce))
	ok(t, d.Cordon(ctx, id, ""))
	want(t, d.Cordon(ctx, id, l.Nonce), api.CodeConflict)
	_, err = d.AcquireLease(ctx, id, "x", api.LeaseRequest{TTL: -1}, "")
	want(t, err, api.CodeInvalid)
	ok(t, d.Destroy(ctx, id, true, l.Nonce)) // clients release their lease before they destroy
	id = d.create(t, config("sleep"))
	l, err = d.AcquireLease(ctx, id, "deployer", api.LeaseRequest{}, "")
	ok(t, err)
	ok(t, d.Destroy(ctx, id, true, l.Nonce))
	ok(t, d.ReleaseLease(ctx, id, l.Nonce)) // and after they have destroyed
}

func TestLeaseOfOne(t *testing.T) {
	d := newWorld(t).run()
	id := d.create(t, config("sleep"))
	var wg sync.WaitGroup
	granted := make(chan string, 20)
	for i := range 20 {
		wg.Go(func() {
			if l, err := d.AcquireLease(context.Background(), id, fmt.Sprint(i), api.LeaseRequest{}, ""); err == nil {
				granted <- l.Nonce
			}
		})
	}
	wg.Wait()
	if len(granted) != 1 {
		t.Errorf("%d got the lease", len(granted))
	}
}

func TestMetadata(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	ctx, id := t.Context(), d.create(t, config("sleep"))
	version := d.lookup(id).now().rec.Version
	ok(t, d.SetMetadata(ctx, id, map[string]string{"a": "1", "b": "2"}, ""))
	ok(t, d.PatchMetadata(ctx, id, map[string]*string{"a": nil, "c": new("3")}, ""))
	ok(t, d.DeleteMetadata(ctx, id, "b", ""))
	want(t, d.SetMetadata(ctx, id, map[string]string{"bad key": ""}, ""), api.CodeInvalid)
	got, err := d.Metadata(ctx, id)
	ok(t, err)
	if !reflect.DeepEqual(got, map[string]string{"c": "3"}) || d.lookup(id).now().rec.Version != version || w.sandbox.called("start") != 1 {
		t.Errorf("metadata is %v", got)
	}
}

func TestChanges(t *testing.T) {
	d := newWorld(t).run()
	id := d.create(t, config("sleep"))
	ctx, cancel := context.WithCancel(t.Context())
	changes := d.Changes(ctx)
	if got := <-changes; got != id {
		t.Errorf("first change is %q", got)
	}
	ok(t, d.Pause(t.Context(), id, ""))
	if got := <-changes; got != id {
		t.Errorf("change is %q", got)
	}
	s, _ := d.Status(id)
	if s.State != api.StatePaused || s.Healthy || !s.Addr.IsValid() || s.Group != "app" {
		t.Errorf("status is %+v", s)
	}
	cancel()
	for range changes { // ends
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) {
		c.Nameservers, c.Searches = []string{"fdaa::3"}, []string{"internal"}
		c.PublicIP, c.Door = "192.0.2.7", "/run/door"
	})
	c := config("sleep")
	c.Env = map[string]string{"BOTH": "config", "MINE": "1", "FLY_APP_NAME": "forged", "PERIGEE_ORG": "forged"}
	c.Metadata = map[string]string{"fly_process_group": "web"}
	c.Files = []api.File{{GuestPath: "/etc/app.conf", RawValue: new("aGk="), Mode: 0o600}, {GuestPath: "/key", SecretName: new("PEM")}}
	id := d.create(t, c)
	spec := w.specOf(t, id)
	env := strings.Join(spec.Env, "\n") + "\n"
	for _, line := range []string{"FROM=image", "BOTH=secret", "KEY=s3cret", "MINE=1", "FLY_APP_NAME=shop", "PERIGEE_APP_NAME=shop", "FLY_MACHINE_ID=" + id,
		"FLY_REGION=fra", "PRIMARY_REGION=fra", "FLY_PROCESS_GROUP=web", "FLY_VM_MEMORY_MB=256", "HOME=/home/node", "PATH=" + defaultPath,
		"FLY_IMAGE_REF=local/app:1@sha256:aa", "FLY_PUBLIC_IP=192.0.2.7", "PERIGEE_PUBLIC_IP=192.0.2.7", "PERIGEE_NODE=n1", "PERIGEE_ORG=acme"} {
		if !strings.Contains(env, line+"\n") {
			t.Errorf("%q is not in the environment:\n%s", line, env)
		}
	}
	want := []sandbox.Socket{{Path: "/.fly/api", Host: "/run/door", Name: id}, {Path: "/.perigee/api", Host: "/run/door", Name: id}}
	if !slices.Equal(spec.Sockets, want) {
		t.Errorf("sockets are %+v", spec.Sockets)
	}
	if strings.Contains(env, "forged") {
		t.Errorf("the configuration says what the machine is:\n%s", env)
	}
	if spec.UID != 1000 || spec.GID != 1000 || !slices.Equal(spec.AdditionalGIDs, []uint32{5}) || spec.Cwd != "/srv" || spec.Hostname != id {
		t.Errorf("spec is %+v", spec)
	}
	files := map[string]string{}
	for _, f := range spec.Files {
		files[f.Path] = string(f.Data)
	}
	if files["/etc/app.conf"] != "hi" || files["/key"] != "hello" || files["/etc/resolv.conf"] != "nameserver fdaa::3\nsearch internal\n" || !strings.Contains(files["/etc/hosts"], id) {
		t.Errorf("files are %q", files)
	}
}

// TestStagedSecretsWait: a machine starts again with the secrets that it was made
// with; those set since come with the next version.
func TestStagedSecretsWait(t *testing.T) {
	w := newWorld(t)
	v := &vault{}
	with := func(c *Config) { c.Secrets = v }
	d := w.run(with)
	ctx := t.Context()
	bare := d.create(t, config("sleep"))
	v.set(map[string]string{"KEY": "one"})
	id := d.create(t, config("sleep"))
	v.set(map[string]string{"KEY": "two"})
	sees := func(when, id, line string) {
		t.Helper()
		env := w.specOf(t, id).Env
		if got := slices.Contains(env, line); !got && line != "" {
			t.Errorf("%s: %q is not in %q", when, line, env)
		}
		if line == "" && slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "KEY=") }) {
			t.Errorf("%s: it has a secret: %q", when, env)
		}
	}
	ok(t, d.Restart(ctx, id, RestartOptions{}, ""))
	sees("restart", id, "KEY=one")
	ok(t, d.Restart(ctx, bare, RestartOptions{}, ""))
	sees("restart of one from before", bare, "")
	ok(t, d.Suspend(ctx, id, ""))
	_, err := d.Wake(ctx, id)
	ok(t, err)
	sees("wake", id, "KEY=one")
	ok(t, d.Stop(ctx, id, api.StopRequest{}, ""))
	d.crash()
	d = w.run(with)
	_, err = d.Start(ctx, id, "")
	ok(t, err)
	sees("start after a crash", id, "KEY=one")
	_, err = d.Update(ctx, id, api.CreateMachineRequest{Config: config("sleep")}, "")
	ok(t, err)
	sees("update", id, "KEY=two")
}

func (w *world) specOf(t testing.TB, id string) sandbox.Spec {
	t.Helper()
	infos, _ := w.sandbox.List(t.Context())
	for _, i := range infos {
		if strings.HasPrefix(i.ID, id+".") {
			return *i.Spec
		}
	}
	t.Fatal("the machine has no sandbox")
	return sandbox.Spec{}
}

func TestCommand(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	cases := []struct {
		name string
		conf api.MachineConfig
		want []string
	}{
		{"the image's", api.MachineConfig{Image: "app"}, []string{"sleep"}},
		{"cmd", api.MachineConfig{Image: "app", Init: &api.Init{Cmd: []string{"5"}}}, []string{"sleep", "5"}},
		{"entrypoint", api.MachineConfig{Image: "app", Init: &api.Init{Entrypoint: []string{"run"}, Cmd: []string{"5"}}}, []string{"run", "5"}},
		{"exec", api.MachineConfig{Image: "app", Init: &api.Init{Exec: []string{"a", "b"}, Cmd: []string{"5"}}}, []string{"a", "b"}},
		{"one process", api.MachineConfig{Image: "app", Processes: []api.Process{{Cmd: []string{"9"}}}}, []string{"sleep", "9"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := w.specOf(t, d.create(t, &c.conf)).Args; !slices.Equal(got, c.want) {
				t.Errorf("runs %q, want %q", got, c.want)
			}
		})
	}
	_, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "bare"}})
	want(t, err, api.CodeInvalid)
	_, err = d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app", Init: &api.Init{User: "nobody"}}})
	want(t, err, api.CodeInvalid)
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"a b":              {"a", "b"},
		`sh -c "echo hi"`:  {"sh", "-c", "echo hi"},
		`a 'b "c' d\ e ""`: {"a", `b "c`, "d e", ""},
		"":                 nil,
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q became %q, %v", line, got, err)
		}
	}
	for _, line := range []string{`"a`, `a\`} {
		if _, err := splitWords(line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestVersionsAreBounded(t *testing.T) {
	r := Record{Config: api.MachineConfig{Env: map[string]string{"A": strings.Repeat("x", 100<<10)}}}
	for range 5 {
		r.Version = newVersion()
		r.addVersion(time.Now())
	}
	if len(r.Versions) != 2 || r.Versions[0].ID != r.Version {
		t.Errorf("%d versions are kept", len(r.Versions))
	}
	b, _ := json.Marshal(r)
	if len(b) > 1<<20 {
		t.Errorf("the record has %d bytes", len(b))
	}
}

func TestPersistentLayer(t *testing.T) {
	for _, c := range []struct {
		persist                string
		restart, stop, updated bool // whether the layer is the same afterwards
	}{{"never", true, true, true}, {"restart", true, true, false}, {"always", true, true, true}} {
		t.Run(c.persist, func(t *testing.T) {
			w := newWorld(t)
			d := w.run()
			conf := config("sleep")
			conf.Rootfs = &api.Rootfs{Persist: c.persist}
			id := d.create(t, conf)
			first := w.specOf(t, id).WritableDir
			if (first == "") != (c.persist == "never") {
				t.Fatalf("layer is %q", first)
			}
			ok(t, d.Restart(t.Context(), id, RestartOptions{}, ""))
			if got := w.specOf(t, id).WritableDir; (got == first) != c.restart {
				t.Errorf("after a restart the layer is %q", got)
			}
			_, err := d.Update(t.Context(), id, api.CreateMachineRequest{Config: conf}, "")
			ok(t, err)
			got := w.specOf(t, id).WritableDir
			if (got == first) != c.updated {
				t.Errorf("after an update the layer is %q", got)
			}
			if entries, _ := filepath.Glob(filepath.Join(w.dir, id, layerName+"*")); got != "" && len(entries) != 1 {
				t.Errorf("layers are %v", entries)
			}
		})
	}
}

// TestTogether has a hundred callers on ten machines; whatever they do, every
// machine ends in a lasting state that its sandbox agrees with.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	d := w.run(func(c *Config) { c.Pool, c.PoolDelay = 3, time.Millisecond })
	var ids []string
	for range 10 {
		ids = append(ids, d.create(t, config("sleep")))
	}
	ctx := context.Background()
	ops := []func(id string) error{
		func(id string) error { _, err := d.Start(ctx, id, ""); return err },
		func(id string) error { return d.Stop(ctx, id, api.StopRequest{}, "") },
		func(id string) error { return d.Pause(ctx, id, "") },
		func(id string) error { return d.Suspend(ctx, id, "") },
		func(id string) error { return d.Restart(ctx, id, RestartOptions{}, "") },
		func(id string) error { _, err := d.Wake(ctx, id); return err },
		func(id string) error { w.sandbox.dies(id, sandbox.Exit{Code: 1}); return nil },
		func(id string) error { return d.Sleep(ctx, id, api.StateSuspended) },
		func(id string) error {
			_, err := d.Update(ctx, id, api.CreateMachineRequest{Config: config("sleep")}, "")
			return err
		},
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for j := range 5 {
				err := ops[(i*7+j*3)%len(ops)](ids[(i+j)%10])
				if err != nil && !api.IsCode(err, api.CodePrecondition) && !api.IsCode(err, api.CodeConflict) {
					t.Errorf("operation failed: %v", err)
				}
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		_, err := d.Wait(t.Context(), id, WaitQuery{States: []string{"settled"}, Timeout: 10 * time.Second})
		ok(t, err)
	}
	for _, id := range ids {
		ok(t, d.Destroy(t.Context(), id, true, ""))
	}
	d.end()
	w.expectEmpty(t)
}

func TestManyCreates(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := d.Create(context.Background(), "shop", api.CreateMachineRequest{Config: config("sleep")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(d.List("shop")); n != 50 || len(w.records.List("")) != 50 {
		t.Errorf("%d machines", n)
	}
}
