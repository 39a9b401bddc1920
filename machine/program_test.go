package machine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestExecEndsWithItsMachine: a command that a suspend or a stop cuts off is no fault of ours.
func TestExecEndsWithItsMachine(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	for away, leave := range map[string]func(context.Context, string) error{
		"suspended": func(ctx context.Context, id string) error { return d.Suspend(ctx, id, "") },
		"stopped":   func(ctx context.Context, id string) error { return d.Stop(ctx, id, api.StopRequest{}, "") },
		"restarted": func(ctx context.Context, id string) error { return d.Restart(ctx, id, RestartOptions{}, "") },
		"":          func(context.Context, string) error { return nil },
	} {
		id := d.create(t, config("sleep"))
		w.sandbox.exec = func() (int, error) {
			ok(t, leave(t.Context(), id))
			return -1, errors.New(`urpc method "containerManager.WaitPID" failed: EOF`)
		}
		_, err := d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"x"}})
		if said := api.AsError(err); away != "" && (said.Code != api.CodePrecondition || strings.Contains(said.Message, "urpc")) {
			t.Errorf("%s: %v", away, err)
		} else if away == "" && isAPI(err) {
			t.Errorf("a machine that runs on: %v", err)
		}
	}
}

// TestFieldsAreTheRequests: a refusal names the field that the request has.
func TestFieldsAreTheRequests(t *testing.T) {
	d := newWorld(t).run()
	id := d.create(t, config("sleep"))
	ctx, late := t.Context(), uint64(99)
	_, ttl := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), LeaseTTL: -1})
	_, secrets := d.Create(ctx, "shop", api.CreateMachineRequest{Config: config("sleep"), MinSecretsVersion: &late})
	_, event := d.Wait(ctx, id, WaitQuery{FromEvent: "nope"})
	_, twice := d.Exec(ctx, id, api.ExecRequest{Command: []string{"a"}, Cmd: "b"})
	_, lease := d.AcquireLease(ctx, id, "me", api.LeaseRequest{TTL: -1}, "")
	for _, c := range []struct {
		field string
		err   error
	}{
		{"signal", d.Stop(ctx, id, api.StopRequest{Signal: "BOGUS"}, "")},
		{"timeout", d.Stop(ctx, id, api.StopRequest{Timeout: api.D(-5)}, "")},
		{"signal", d.Restart(ctx, id, RestartOptions{Signal: "SIGFOO"}, "")},
		{"lease_ttl", ttl}, {"ttl", lease}, {"min_secrets_version", secrets}, {"from_event_id", event}, {"cmd", twice},
	} {
		if got := api.AsError(c.err).Field; got != c.field {
			t.Errorf("%v is about field %q, want %q", c.err, got, c.field)
		}
	}
	_, err := d.Wait(ctx, id, WaitQuery{FromEvent: d.lookup(id).now().rec.Events[0].ID})
	ok(t, err)
}

// TestNoProgram: a program that is not there differs from one that may not run.
func TestNoProgram(t *testing.T) {
	for text, code := range map[string]string{
		`error finding executable "x" in PATH [/bin]: no such file or directory`: api.CodeInvalid,
		`error finding executable "x" in PATH [/bin]: permission denied`:         api.CodeUnsupported,
		`failed to load /x: no such file or directory`:                           api.CodeInvalid,
		`failed to load /x: exec format error`:                                   api.CodeUnsupported,
	} {
		err := errors.New(text)
		if got := api.AsError(noProgram(err, "m", "x")); !commandFault(err) || got.Code != code || got.Field != "command" {
			t.Errorf("%s: %s of field %q, want %s", text, got.Code, got.Field, code)
		}
	}
}
