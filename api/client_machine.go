package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// WaitOptions says what WaitMachine waits for.
type WaitOptions struct {
	States    []string      // any of these; "settled" is any that lasts; default started
	Version   string        // answer "replaced" once the machine has another version
	FromEvent string        // count what came after this event
	Timeout   time.Duration // default and most: a minute
}

func machinePath(app, id, verb string) string {
	return pathf("/apps/%s/machines/%s", app, id) + verb
}

// ListMachines returns the app's machines, oldest first.
func (c *Client) ListMachines(ctx context.Context, app string) (m []Machine, err error) {
	return m, c.call(ctx, http.MethodGet, pathf("/apps/%s/machines", app), nil, nil, &m)
}

// GetMachine returns one machine.
func (c *Client) GetMachine(ctx context.Context, app, id string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodGet, machinePath(app, id, ""), nil, nil, &m)
}

// CreateMachine makes a machine and, unless told not to, starts it.
func (c *Client) CreateMachine(ctx context.Context, app string, req CreateMachineRequest) (m Machine, err error) {
	if req.IdempotencyKey != "" {
		c = c.With(IdempotencyHeader, req.IdempotencyKey)
	}
	return m, c.call(ctx, http.MethodPost, pathf("/apps/%s/machines", app), nil, req, &m)
}

// UpdateMachine gives the machine a new version of its configuration.
func (c *Client) UpdateMachine(ctx context.Context, app, id string, req CreateMachineRequest) (m Machine, err error) {
	return m, c.call(ctx, http.MethodPost, machinePath(app, id, ""), nil, req, &m)
}

// DestroyMachine removes the machine; one that runs only with force.
func (c *Client) DestroyMachine(ctx context.Context, app, id string, force bool) error {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	return c.ok(ctx, http.MethodDelete, machinePath(app, id, ""), q, nil)
}

func (c *Client) verb(ctx context.Context, app, id, verb string, in any) error {
	return c.ok(ctx, http.MethodPost, machinePath(app, id, "/"+verb), nil, in)
}

// StartMachine starts a machine, or wakes one that sleeps.
func (c *Client) StartMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "start", nil)
}

// WakeMachine is StartMachine for who wants to know what the machine was before.
func (c *Client) WakeMachine(ctx context.Context, app, id string) (r StartResponse, err error) {
	return r, c.call(ctx, http.MethodPost, machinePath(app, id, "/start"), nil, nil, &r)
}

// StopMachine stops a machine.
func (c *Client) StopMachine(ctx context.Context, app, id string, req StopRequest) error {
	return c.verb(ctx, app, id, "stop", req)
}

// SuspendMachine saves a machine to disk and ends its processes.
func (c *Client) SuspendMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "suspend", nil)
}

// PauseMachine freezes a machine with its memory kept.
func (c *Client) PauseMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "pause", nil)
}

// RestartMachine stops and starts a machine.
func (c *Client) RestartMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "restart", nil)
}

// RestartOptions say how the old process ends.
type RestartOptions struct {
	Force   bool      // by SIGKILL, at once
	Timeout *Duration // until SIGKILL
	Signal  string    // instead of the machine's stop signal
}

// RestartMachineWith stops and starts a machine in a way of the caller's.
func (c *Client) RestartMachineWith(ctx context.Context, app, id string, o RestartOptions) error {
	q := url.Values{}
	if o.Force {
		q.Set("force_stop", "true")
	}
	if o.Timeout != nil {
		q.Set("timeout", time.Duration(*o.Timeout).String())
	}
	if o.Signal != "" {
		q.Set("signal", o.Signal)
	}
	return c.ok(ctx, http.MethodPost, machinePath(app, id, "/restart"), q, nil)
}

// SignalMachine sends a signal, such as SIGHUP, to the first process.
func (c *Client) SignalMachine(ctx context.Context, app, id, signal string) error {
	return c.verb(ctx, app, id, "signal", SignalRequest{Signal: SignalName(signal)})
}

// CordonMachine keeps requests away from a machine.
func (c *Client) CordonMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "cordon", nil)
}

// UncordonMachine lets requests reach a machine again.
func (c *Client) UncordonMachine(ctx context.Context, app, id string) error {
	return c.verb(ctx, app, id, "uncordon", nil)
}

// WaitMachine returns when the machine is in one of the states; CodeTimeout if
// that does not happen in time.
func (c *Client) WaitMachine(ctx context.Context, app, id string, o WaitOptions) (r WaitResponse, err error) {
	q := url.Values{}
	for _, s := range o.States {
		q.Add("state", s)
	}
	if o.Version != "" {
		q.Set("version", o.Version)
	}
	if o.FromEvent != "" {
		q.Set("from_event_id", o.FromEvent)
	}
	if o.Timeout > 0 {
		q.Set("timeout", o.Timeout.String())
	}
	return r, c.call(ctx, http.MethodGet, machinePath(app, id, "/wait"), q, nil, &r)
}

// Events returns what happened to the machine, newest first.
func (c *Client) Events(ctx context.Context, app, id string) (e []Event, err error) {
	return e, c.call(ctx, http.MethodGet, machinePath(app, id, "/events"), nil, nil, &e)
}

// Versions returns the machine's configurations, newest first.
func (c *Client) Versions(ctx context.Context, app, id string) (v []MachineVersion, err error) {
	return v, c.call(ctx, http.MethodGet, machinePath(app, id, "/versions"), nil, nil, &v)
}

// Processes returns what runs in the machine.
func (c *Client) Processes(ctx context.Context, app, id string) (p []ProcessStat, err error) {
	return p, c.call(ctx, http.MethodGet, machinePath(app, id, "/ps"), nil, nil, &p)
}

// Exec runs a command and returns what it said; for a terminal or live output
// see ExecStream.
func (c *Client) Exec(ctx context.Context, app, id string, req ExecRequest) (r ExecResponse, err error) {
	return r, c.call(ctx, http.MethodPost, machinePath(app, id, "/exec"), nil, req, &r)
}

// GetLease returns the machine's lease; CodeNotFound if there is none.
func (c *Client) GetLease(ctx context.Context, app, id string) (Lease, error) {
	var r LeaseResponse
	err := c.call(ctx, http.MethodGet, machinePath(app, id, "/lease"), nil, nil, &r)
	return r.Data, err
}

// AcquireLease gets the exclusive right to change the machine, or with
// [Client.WithLease] prolongs it; CodeConflict if somebody else has it.
func (c *Client) AcquireLease(ctx context.Context, app, id string, req LeaseRequest) (Lease, error) {
	var r LeaseResponse
	err := c.call(ctx, http.MethodPost, machinePath(app, id, "/lease"), nil, req, &r)
	return r.Data, err
}

// ReleaseLease ends the lease whose nonce [Client.WithLease] was given.
func (c *Client) ReleaseLease(ctx context.Context, app, id string) error {
	return c.ok(ctx, http.MethodDelete, machinePath(app, id, "/lease"), nil, nil)
}

// Metadata returns the machine's metadata.
func (c *Client) Metadata(ctx context.Context, app, id string) (m map[string]string, err error) {
	return m, c.call(ctx, http.MethodGet, machinePath(app, id, "/metadata"), nil, nil, &m)
}

// ReplaceMetadata replaces all of the metadata; the machine is not restarted.
func (c *Client) ReplaceMetadata(ctx context.Context, app, id string, all map[string]string) error {
	in := MetadataRequest{Metadata: map[string]*string{}}
	for k, v := range all {
		in.Metadata[k] = &v
	}
	return c.ok(ctx, http.MethodPut, machinePath(app, id, "/metadata"), nil, in)
}

// PatchMetadata sets the keys that have a value and removes those that are nil;
// the machine is not restarted.
func (c *Client) PatchMetadata(ctx context.Context, app, id string, patch map[string]*string) error {
	return c.ok(ctx, http.MethodPatch, machinePath(app, id, "/metadata"), nil, MetadataRequest{Metadata: patch})
}

// SetMetadata sets one key; the machine is not restarted.
func (c *Client) SetMetadata(ctx context.Context, app, id, key, value string) error {
	return c.ok(ctx, http.MethodPost, machinePath(app, id, "/metadata/"+url.PathEscape(key)), nil, MetadataValue{Value: value})
}

// DeleteMetadata removes one key; the machine is not restarted.
func (c *Client) DeleteMetadata(ctx context.Context, app, id, key string) error {
	return c.ok(ctx, http.MethodDelete, machinePath(app, id, "/metadata/"+url.PathEscape(key)), nil, nil)
}
