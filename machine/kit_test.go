package machine

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

var discard = slog.New(slog.DiscardHandler)

// want fails the test unless err carries the code.
func want(t testing.TB, err error, code string) {
	t.Helper()
	if !api.IsCode(err, code) {
		t.Fatalf("got error %v, want one with code %q", err, code)
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(args ...string) *api.MachineConfig {
	return &api.MachineConfig{Image: "app", Init: &api.Init{Exec: args}}
}

func (d *daemon) create(t testing.TB, c *api.MachineConfig) string {
	t.Helper()
	m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: c})
	ok(t, err)
	return m.ID
}

func (d *daemon) state(id string) string {
	m, err := d.Get(context.Background(), id)
	if err != nil {
		return "unknown"
	}
	return m.State
}

// reaches waits until the machine is in the state.
func (d *daemon) reaches(t testing.TB, id, state string) {
	t.Helper()
	if _, err := d.Wait(t.Context(), id, WaitQuery{States: []string{state}, Timeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
}

// into brings a machine into a state by the ordinary operations.
func (d *daemon) into(t testing.TB, state string) string {
	t.Helper()
	ctx := t.Context()
	c := config("sleep")
	switch state {
	case api.StateCreated:
		m, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: c, SkipLaunch: true})
		ok(t, err)
		return m.ID
	case api.StateFailed:
		m, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("broken"), SkipLaunch: true})
		ok(t, err)
		_, err = d.Start(ctx, m.ID, "")
		want(t, err, api.CodeInvalid)
		return m.ID
	}
	id := d.create(t, c)
	switch state {
	case api.StateStopped:
		ok(t, d.Stop(ctx, id, api.StopRequest{}, ""))
	case api.StatePaused:
		ok(t, d.Pause(ctx, id, ""))
	case api.StateSuspended:
		ok(t, d.Suspend(ctx, id, ""))
	case api.StateDestroyed:
		ok(t, d.Destroy(ctx, id, true, ""))
	}
	return id
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("waited too long: %s", what)
}
