package machine

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/mesh"
)

// Create makes a machine of the app and starts it unless req.SkipLaunch. When
// it returns without error the machine is on disk and, if launched, runs. When
// it returns an error there is nothing. The region is not looked at: who calls
// has chosen this node.
func (h *Host) Create(ctx context.Context, app string, req api.CreateMachineRequest) (api.Machine, error) {
	if err := h.awaitReady(ctx); err != nil {
		return api.Machine{}, err
	}
	for {
		made, err := h.create(ctx, app, req)
		if !lostVolume(req, err) || ctx.Err() != nil {
			return made, err
		}
	}
}

// lostVolume reports whether another machine was faster to take a volume that the
// request means by its name. There may be more of that name, or none by now: the next
// attempt finds out.
func lostVolume(req api.CreateMachineRequest, err error) bool {
	return api.IsCode(err, api.CodeConflict) && api.AsError(err).Field == "config.mounts" && req.Config != nil &&
		slices.ContainsFunc(req.Config.Mounts, func(m api.Mount) bool { return m.Volume == "" })
}

func (h *Host) create(ctx context.Context, app string, req api.CreateMachineRequest) (api.Machine, error) {
	o, err := h.intake(ctx, app, "", req)
	if err != nil {
		return api.Machine{}, err
	}
	org, err := h.cfg.Apps.Org(ctx, app)
	if err != nil {
		return api.Machine{}, err
	}
	m, mine, err := h.reserve(h.newRecord(app, org, o), req.Name)
	if err != nil {
		return api.Machine{}, err
	}
	if !mine {
		return h.made(ctx, m, app, req)
	}
	m.plan = o.plan
	if err := h.detached(ctx, m, func(run context.Context) error { return h.found(run, ctx, m, o.skips()) }); err != nil {
		return api.Machine{}, err
	}
	return m.now().created(), nil
}

// created is a new machine in the API's words, with the lease's nonce for the
// one who made it.
func (v *view) created() api.Machine {
	out := v.shown()
	if l := v.rec.Lease; l != nil {
		out.Nonce = l.Nonce
	}
	return out
}

// made answers a request whose machine an earlier one, of the same key, is
// making or has made: the answer to that one was lost. Should it come to
// nothing, this one makes the machine.
func (h *Host) made(ctx context.Context, m *machine, app string, req api.CreateMachineRequest) (api.Machine, error) {
	if err := m.awaitCreated(ctx); err != nil {
		return api.Machine{}, err
	}
	if h.lookup(m.id) == nil {
		return h.Create(ctx, app, req)
	}
	return m.now().created(), nil
}

// awaitCreated returns when the machine's creation has come to its end, either
// way.
func (m *machine) awaitCreated(ctx context.Context) error {
	for v, changed := m.next(); v.rec.State == api.StateCreating && !v.gone; v, changed = m.next() {
		select {
		case <-changed:
		case <-m.host.ctx.Done():
			return errClosing()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := m.take(ctx); err != nil { // the creation has it until it ends
		return err
	}
	m.give()
	return nil
}

// Validate reports what Create would refuse in the configuration by itself,
// without a look at the image.
func (h *Host) Validate(c *api.MachineConfig) error {
	return rules.Check(c, rules.Node{CPUs: h.cfg.CPUs, MemoryMB: h.cfg.MemoryMB})
}

func (h *Host) awaitReady(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-h.ctx.Done():
		return errClosing()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// order is a request that was found good, with all that a version of a machine
// is made of.
type order struct {
	api.CreateMachineRequest
	config  *api.MachineConfig // a copy that the caller of the API cannot reach
	image   image.Image
	plan    *plan
	secrets uint64 // version of the app's secrets
}

// skips reports whether the machine is not to be started now.
func (o *order) skips() bool { return o.SkipLaunch || len(o.config.Standbys) > 0 }

// intake validates a request, of the machine id or of a new one, and gets its image.
func (h *Host) intake(ctx context.Context, app, id string, req api.CreateMachineRequest) (o order, err error) {
	o.CreateMachineRequest = req
	if o.config, err = clone(req.Config); err != nil {
		return o, err
	}
	if err := rules.Fold(o.config); err != nil {
		return o, err
	}
	if err := h.Validate(o.config); err != nil {
		return o, err
	}
	if err := h.checkRequest(ctx, app, req); err != nil {
		return o, err
	}
	if o.secrets, err = h.secretsVersion(ctx, app, req.MinSecretsVersion); err != nil {
		return o, err
	}
	if o.config.Mounts, err = h.cfg.Volumes.Resolve(app, id, o.config.Mounts); err != nil {
		return o, err
	}
	ok := false
	if o.image, ok = h.cfg.Images.Get(o.config.Image); !ok || !pinned(o.config.Image) { // a tag may have moved
		if o.image, err = h.cfg.Images.Pull(ctx, o.config.Image, nil); err != nil {
			return o, imageFault(o.config.Image, err)
		}
	}
	o.plan, err = h.newPlan(o.config, o.image)
	return o, err
}

func (h *Host) checkRequest(ctx context.Context, app string, req api.CreateMachineRequest) error {
	if req.Region != "" && req.Region != h.cfg.Region {
		return invalid("region", "there is no node in region %q", req.Region).WithHint("this cloud has " + h.cfg.Region)
	}
	if req.Name != "" {
		if err := rules.Name(req.Name); err != nil {
			return err
		}
	}
	if req.LeaseTTL != 0 {
		if _, err := leaseTTL("lease_ttl", req.LeaseTTL); err != nil {
			return err
		}
	}
	if len(req.HomeRegion) > 63 {
		return invalid("home_region", "has %d characters, the most is 63", len(req.HomeRegion))
	}
	if req.Release < 0 {
		return invalid("release", "is %d; it cannot be negative", req.Release)
	}
	_, err := h.cfg.Apps.Org(ctx, app)
	return err
}

// secretsVersion is the version that a machine made now gets. It must not be
// older than what the caller has just set, least.
func (h *Host) secretsVersion(ctx context.Context, app string, least *uint64) (uint64, error) {
	_, version, err := h.cfg.Secrets.Secrets(ctx, app)
	if err != nil {
		return 0, internal(err, "cannot read the secrets of app %q", app)
	}
	if least != nil && version < *least {
		return 0, api.Errorf(api.CodeConflict, "app %q has secrets of version %d here, not yet %d", app, version, *least).
			WithField("min_secrets_version").WithHint("try again in a moment")
	}
	return version, nil
}

func clone(c *api.MachineConfig) (*api.MachineConfig, error) {
	if c == nil {
		return nil, invalid("config", "is missing")
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, invalid("config", "%v", err)
	}
	out := new(api.MachineConfig)
	if err := json.Unmarshal(b, out); err != nil {
		return nil, invalid("config", "%v", err)
	}
	return out, nil
}

func (h *Host) newRecord(app, org string, o order) Record {
	now := time.Now().UTC()
	r := Record{
		App: app, Org: org, Name: o.Name, Node: h.cfg.Node, Region: h.cfg.Region, CreatedAt: now, UpdatedAt: now,
		Version: newVersion(), Config: *o.config, Image: imageRef(o.image, o.config.Image), Release: o.Release,
		Desired: api.StateCreated, State: api.StateCreated, Cordoned: o.SkipServiceRegistration,
		NoSecrets: o.SkipSecrets, SecretsVersion: &o.secrets, CreateKey: o.IdempotencyKey, Home: o.HomeRegion, Replaces: o.Replaces,
	}
	if len(o.config.Standbys) > 0 {
		r.Desired, r.State, r.Standing = api.StateStopped, api.StateStopped, "stands by for other machines"
	}
	r.addVersion(now)
	r.note("launch", byUser, nil)
	if o.LeaseTTL > 0 {
		r.Lease = &api.Lease{Nonce: ulid.Make().String(), Owner: org, Version: r.Version,
			ExpiresAt: now.Add(time.Duration(o.LeaseTTL) * time.Second).Unix()}
	}
	return r
}

// reserve gives the record an id, an address and a name that no other has, and
// makes the machine known. If one was made, or is being made, under the same
// idempotency key, it returns that one, which is not the caller's to make.
func (h *Host) reserve(r Record, name string) (m *machine, mine bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m := h.madeBy(r.App, r.CreateKey); m != nil {
		return m, false, nil
	}
	if id := h.named(r.App, name); id != "" && name != "" {
		return nil, false, api.Errorf(api.CodeNameTaken, "app %q has a machine named %q already: %s", r.App, name, id).WithField("name")
	}
	for name == "" {
		if name = newName(); h.named(r.App, name) != "" {
			name = ""
		}
	}
	r.Name = name
	for r.ID == "" {
		r.ID = newID()
		r.PrivateIP = h.cfg.Networks.PrivateIPv6(mesh.Identity{Org: r.Org, App: r.App, Machine: r.ID}).String()
		if h.machines[r.ID] != nil || h.addressTaken(r.PrivateIP) {
			r.ID = ""
		}
	}
	m = newMachine(h, r)
	m.view.Load().rec.State = api.StateCreating
	h.machines[m.id], h.names[r.App+"/"+r.Name] = m, m.id
	return m, true, nil
}

// MadeBy returns the id of the app's machine that was made, or is being made, under
// the idempotency key; "" if there is none.
func (h *Host) MadeBy(app, key string) string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if m := h.madeBy(app, key); m != nil {
		return m.id
	}
	return ""
}

// madeBy finds the app's machine that was made under the key; mu is held.
func (h *Host) madeBy(app, key string) *machine {
	if key == "" {
		return nil
	}
	for _, m := range h.machines {
		if r := &m.now().rec; r.CreateKey == key && r.App == app {
			return m
		}
	}
	return nil
}

// named returns the id of the app's machine of that name, here or on another
// node, "" if there is none; mu is held.
func (h *Host) named(app, name string) string {
	if id := h.names[app+"/"+name]; id != "" {
		return id
	}
	return h.cfg.Named(app, name)
}

// addressTaken tells whether the address, a hash, fell on another machine's; mu is held.
func (h *Host) addressTaken(ip string) bool {
	for _, m := range h.machines {
		if m.now().rec.PrivateIP == ip {
			return true
		}
	}
	return false
}

// found makes a new machine lasting. It runs before it is written down, and it
// is written down before anyone is told; if either fails, or nobody waits for it
// any more, nothing stays.
func (h *Host) found(ctx, caller context.Context, m *machine, skipLaunch bool) error {
	err := h.makeDirs(&m.now().rec)
	if err == nil {
		err = h.cfg.Volumes.Attach(ctx, m.now().rec.App, m.id, m.now().rec.Config.Mounts)
	}
	if err == nil && !skipLaunch {
		err = h.launch(ctx, m, byUser)
	} else if err == nil {
		m.record(func(v *view) { v.rec.State = v.rec.Desired })
	}
	if err == nil {
		err = m.sync(ctx)
	}
	if err == nil {
		err = caller.Err()
	}
	if err != nil {
		h.unmake(m)
	}
	return err
}

// unmake removes a machine whose creation failed.
func (h *Host) unmake(m *machine) {
	if m.life != nil {
		h.bury(m, m.life)
	}
	ctx, cancel := h.cleanup()
	defer cancel()
	if err := m.forget(ctx); err != nil {
		h.log.Error("cannot forget a machine that was not made", "machine", m.id, "error", err)
	}
	h.cfg.Volumes.Detach(ctx, m.id, nil)
	m.awaitRead()
	h.keepLayer(m.id, "")
	h.remove(h.dir(m.id))
	m.show(func(v *view) { v.rec.State, v.gone = api.StateDestroyed, true })
	h.leave(m, false)
}

// pinned reports whether the reference names its image by digest.
func pinned(ref string) bool { return strings.Contains(ref, "@sha256:") }
