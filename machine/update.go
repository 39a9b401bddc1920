package machine

import (
	"context"
	"errors"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Update gives the machine a new version with another configuration, and runs
// it unless req.SkipLaunch. Everything that can be refused is refused before
// the old version is touched. With req.CurrentVersion it answers
// api.CodeConflict if that is not the machine's version.
func (h *Host) Update(ctx context.Context, id string, req api.CreateMachineRequest, nonce string) (api.Machine, error) {
	m, err := h.find(ctx, id)
	if err != nil {
		return api.Machine{}, err
	}
	if err := m.admits(nonce); err != nil {
		return api.Machine{}, err
	}
	o, err := h.intake(ctx, m.now().rec.App, id, req)
	if err != nil {
		return api.Machine{}, err
	}
	err = h.act(ctx, id, nonce, func(ctx context.Context, m *machine) error { return h.replace(ctx, m, o) })
	if err != nil {
		return api.Machine{}, err
	}
	return m.now().shown(), nil
}

func (h *Host) replace(ctx context.Context, m *machine, o order) error {
	r := &m.now().rec
	if err := m.need("updated", lasting...); err != nil {
		if err := m.need("updated", api.StateRestarting); err != nil {
			return err
		}
	}
	if o.CurrentVersion != "" && o.CurrentVersion != r.Version {
		return api.Errorf(api.CodeConflict, "machine %q has version %s by now, not %s", m.id, r.Version, o.CurrentVersion).
			WithField("current_version").WithHint("read the machine again")
	}
	orElse(&o.Name, r.Name)
	if err := h.cfg.Volumes.Attach(ctx, r.App, m.id, o.config.Mounts); err != nil {
		return err
	}
	if err := h.rename(m, r.Name, o.Name); err != nil {
		return h.giveBack(m, err)
	}
	hg := m.stopping(api.StopRequest{}, byUser)
	hg.event, hg.during, hg.after, hg.desired = "", api.StateReplacing, api.StateReplacing, r.Desired
	if err := h.halt(ctx, m, hg); err != nil {
		return h.giveBack(m, errors.Join(err, h.rename(m, o.Name, r.Name)))
	}
	m.plan = o.plan
	m.record(func(v *view) { v.renew(o) })
	err := m.sync(ctx)
	if err == nil {
		h.cfg.Volumes.Detach(ctx, m.id, o.config.Mounts)
	}
	if err == nil && !o.skips() {
		err = h.launch(ctx, m, byUser)
	}
	h.tidy(&m.now().rec)
	if err != nil {
		return err
	}
	return m.sync(ctx)
}

// renew is the view with a new version.
func (v *view) renew(o order) {
	r, now := &v.rec, time.Now().UTC()
	r.Version, r.Config, r.Image = newVersion(), *o.config, imageRef(o.image, o.config.Image)
	r.NoSecrets, r.SecretsVersion = o.SkipSecrets, &o.secrets
	if o.Release != 0 {
		r.Release = o.Release
	}
	r.Name = o.Name
	r.addVersion(now)
	r.State, r.Desired, r.Standing = api.StateStopped, api.StateStopped, "updated, not started"
	if !o.skips() {
		r.Desired = api.StateStarted
	}
	r.note("update", byUser, map[string]any{"version": r.Version})
}

// rename takes the name to for the machine and frees the name from.
func (h *Host) rename(m *machine, from, to string) error {
	if from == to {
		return nil
	}
	app := m.now().rec.App
	h.mu.Lock()
	defer h.mu.Unlock()
	if id, taken := h.names[app+"/"+to]; taken {
		return api.Errorf(api.CodeNameTaken, "app %q has a machine named %q already: %s", app, to, id).WithField("name")
	}
	delete(h.names, app+"/"+from)
	h.names[app+"/"+to] = m.id
	return nil
}
