package httpapi

import (
	"context"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
)

const (
	maxWait = 60 * time.Second
	maxKey  = 64 // bytes of an idempotency key, which is kept with the machine
)

// id returns the machine of the path, which must be the app's.
func (s *Server) id(c *call) (string, error) {
	name, err := s.app(c)
	if err != nil {
		return "", err
	}
	if _, ok := s.cfg.Machines.(finder); ok && s.has(c.r.Context(), name, c.path("machine_id")) {
		return c.path("machine_id"), nil
	}
	m, err := s.machine(c)
	return m.ID, err
}

// has reports whether the machine is the app's.
func (s *Server) has(ctx context.Context, app, id string) bool {
	if f, ok := s.cfg.Machines.(finder); ok {
		owner, there := f.AppOf(ctx, id)
		return there && owner == app
	}
	m, err := s.cfg.Machines.Get(ctx, id)
	return err == nil && m.App == app
}

func (s *Server) machine(c *call) (api.Machine, error) {
	name, err := s.app(c)
	if err != nil {
		return api.Machine{}, err
	}
	m, err := s.cfg.Machines.Get(c.r.Context(), c.path("machine_id"))
	if api.IsCode(err, api.CodeNotFound) || err == nil && m.App != name {
		return api.Machine{}, api.Errorf(api.CodeNotFound, "app %q has no machine %q", name, api.Clip(c.path("machine_id"))).
			WithHint("GET /v1/apps/" + name + "/machines lists them")
	}
	return m, err
}

// on does something to the machine of the path.
func (s *Server) on(c *call, do func(id string) error) error {
	id, err := s.id(c)
	if err != nil {
		return err
	}
	return do(id)
}

// shown turns states that Fly's clients do not know into those that they do.
func shown(c *call, m api.Machine) api.Machine {
	if agent := strings.ToLower(c.r.UserAgent()); m.State == api.StatePaused && (strings.Contains(agent, "flyctl") || strings.Contains(agent, "fly-go")) {
		m.State = api.StateSuspended
	}
	return m
}

func (s *Server) createMachine(c *call, in api.CreateMachineRequest) (api.Machine, error) {
	name, err := s.app(c)
	if err != nil {
		return api.Machine{}, err
	}
	if in.Config == nil {
		return api.Machine{}, invalid("config", "the machine has no config")
	}
	if err := c.mayConfigs(in.Config); err != nil {
		return api.Machine{}, err
	}
	if in.IdempotencyKey, err = c.idempotencyKey(); err != nil {
		return api.Machine{}, err
	}
	m, err := s.cfg.Machines.Create(c.r.Context(), name, in)
	return shown(c, m), err
}

// idempotencyKey is the name that the caller gave a creation, "" if it gave none.
func (c *call) idempotencyKey() (string, error) {
	key := c.r.Header.Get(api.IdempotencyHeader)
	if len(key) > maxKey {
		return "", invalid(api.IdempotencyHeader, "the idempotency key has more than %d bytes", maxKey)
	}
	return key, nil
}

func (s *Server) showMachine(c *call) (api.Machine, error) {
	m, err := s.machine(c)
	if err != nil {
		return m, err
	}
	if v := c.text("version"); v != "" && v != m.InstanceID {
		return s.former(c, m, v)
	}
	return shown(c, m), nil
}

// former is the machine with the configuration of an earlier version.
func (s *Server) former(c *call, m api.Machine, version string) (api.Machine, error) {
	versions, err := s.cfg.Machines.Versions(c.r.Context(), m.ID)
	if err != nil {
		return m, err
	}
	for _, v := range versions {
		if v.ID == version {
			m.InstanceID, m.Version, m.Config, m.Release = v.ID, v.ID, &v.Config, v.Release
			return shown(c, m), nil
		}
	}
	return m, api.Errorf(api.CodeNotFound, "machine %q has no version %q", m.ID, api.Clip(version)).WithField("version")
}

func (s *Server) updateMachine(c *call, in api.CreateMachineRequest) (api.Machine, error) {
	id, err := s.id(c)
	if err != nil {
		return api.Machine{}, err
	}
	if in.Config == nil {
		return api.Machine{}, invalid("config", "the machine has no config")
	}
	if err := c.mayConfigs(in.Config); err != nil {
		return api.Machine{}, err
	}
	m, err := s.cfg.Machines.Update(c.r.Context(), id, in, c.nonce())
	return shown(c, m), err
}

func (s *Server) deleteMachine(c *call) error {
	force, err := c.bool("force")
	if err != nil {
		return err
	}
	kill, err := c.bool("kill")
	if err != nil {
		return err
	}
	return s.on(c, func(id string) error {
		return s.cfg.Machines.Destroy(c.r.Context(), id, force || kill, c.nonce())
	})
}

func (s *Server) startMachine(c *call) (api.StartResponse, error) {
	id, err := s.id(c)
	if err != nil {
		return api.StartResponse{}, err
	}
	return s.cfg.Machines.Start(c.r.Context(), id, c.nonce())
}

func (s *Server) stopMachine(c *call, in api.StopRequest) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.Stop(c.r.Context(), id, in, c.nonce()) })
}

func (s *Server) restartMachine(c *call) error {
	timeout, err := c.duration("timeout")
	if err != nil {
		return err
	}
	force, err := c.bool("force_stop")
	if err != nil {
		return err
	}
	o := machine.RestartOptions{Force: force, Timeout: timeout, Signal: c.text("signal")}
	return s.on(c, func(id string) error { return s.cfg.Machines.Restart(c.r.Context(), id, o, c.nonce()) })
}

func (s *Server) suspendMachine(c *call) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.Suspend(c.r.Context(), id, c.nonce()) })
}

func (s *Server) pauseMachine(c *call) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.Pause(c.r.Context(), id, c.nonce()) })
}

func (s *Server) signalMachine(c *call, in api.SignalRequest) error {
	if in.Signal == "" {
		return invalid("signal", "no signal is named").WithHint("such as SIGHUP")
	}
	return s.on(c, func(id string) error { return s.cfg.Machines.Signal(c.r.Context(), id, in, c.nonce()) })
}

func (s *Server) cordonMachine(c *call) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.Cordon(c.r.Context(), id, c.nonce()) })
}

func (s *Server) uncordonMachine(c *call) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.Uncordon(c.r.Context(), id, c.nonce()) })
}

func (s *Server) waitMachine(c *call) (api.WaitResponse, error) {
	timeout, err := c.duration("timeout")
	if err != nil {
		return api.WaitResponse{}, err
	}
	if timeout.Or(0) > maxWait {
		return api.WaitResponse{}, invalid("timeout", "timeout is %s; the most is %s", timeout, maxWait).WithHint("wait again when it is over")
	}
	id, err := s.id(c)
	if err != nil {
		return api.WaitResponse{}, err
	}
	q := machine.WaitQuery{Version: c.text("version"), FromEvent: c.text("from_event_id"), Timeout: timeout.Or(maxWait)}
	if q.Version == "" {
		q.Version = c.text("instance_id")
	}
	for _, v := range c.query("state") {
		q.States = append(q.States, strings.Split(v, ",")...)
	}
	return s.cfg.Machines.Wait(c.r.Context(), id, q)
}

func (s *Server) machineEvents(c *call) ([]api.Event, error) {
	limit, err := c.int("limit")
	if err != nil {
		return nil, err
	}
	if limit < 0 || limit == 0 && c.text("limit") != "" {
		return nil, invalid("limit", "limit is %d; the least is 1", limit)
	}
	id, err := s.id(c)
	if err != nil {
		return nil, err
	}
	events, err := s.cfg.Machines.Events(c.r.Context(), id)
	if limit > 0 && len(events) > limit {
		events = events[:limit]
	}
	return orEmpty(events), err
}

func (s *Server) machineVersions(c *call) ([]api.MachineVersion, error) {
	id, err := s.id(c)
	if err != nil {
		return nil, err
	}
	versions, err := s.cfg.Machines.Versions(c.r.Context(), id)
	out := make([]api.MachineVersion, len(versions))
	for i := range versions {
		v := &versions[i]
		out[i] = api.MachineVersion{Version: v.ID, UserConfig: &v.Config, Release: v.Release, CreatedAt: v.CreatedAt}
	}
	return out, err
}

func (s *Server) machineProcesses(c *call) ([]api.ProcessStat, error) {
	id, err := s.id(c)
	if err != nil {
		return nil, err
	}
	p, err := s.cfg.Machines.Processes(c.r.Context(), id)
	return orEmpty(p), err
}

func (s *Server) execMachine(c *call, in api.ExecRequest) (api.ExecResponse, error) {
	id, err := s.id(c)
	if err != nil {
		return api.ExecResponse{}, err
	}
	command, err := machine.ExecCommand(in)
	if err != nil {
		return api.ExecResponse{}, err
	}
	if err := c.mayRun(command, false); err != nil {
		return api.ExecResponse{}, err
	}
	return s.cfg.Machines.Exec(c.r.Context(), id, in)
}

// showLease gives the nonce to who sends it: to others it would be the right to
// change the machine. A node that passes the call on compares for itself.
func (s *Server) showLease(c *call) (api.LeaseResponse, error) {
	id, err := s.id(c)
	if err != nil {
		return api.LeaseResponse{}, err
	}
	l, err := s.cfg.Machines.GetLease(c.r.Context(), id)
	if c.who.Node == "" && !equal(c.nonce(), l.Nonce) {
		l.Nonce = ""
	}
	return api.LeaseResponse{Status: "success", Data: l}, err
}

func (s *Server) acquireLease(c *call, in api.LeaseRequest) (api.LeaseResponse, error) {
	ttl, err := c.int("ttl")
	if err != nil {
		return api.LeaseResponse{}, err
	}
	if ttl != 0 {
		in.TTL = ttl
	}
	id, err := s.id(c)
	if err != nil {
		return api.LeaseResponse{}, err
	}
	l, err := s.cfg.Machines.AcquireLease(c.r.Context(), id, c.who.Name, in, c.nonce())
	return api.LeaseResponse{Status: "success", Data: l}, err
}

func (s *Server) releaseLease(c *call) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.ReleaseLease(c.r.Context(), id, c.nonce()) })
}

func (s *Server) showMetadata(c *call) (map[string]string, error) {
	id, err := s.id(c)
	if err != nil {
		return nil, err
	}
	return s.cfg.Machines.Metadata(c.r.Context(), id)
}

func (s *Server) replaceMetadata(c *call, in api.MetadataRequest) (map[string]string, error) {
	id, err := s.id(c)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for k, v := range in.Metadata {
		if v != nil {
			all[k] = *v
		}
	}
	if err := s.current(c, in.MachineVersion); err != nil {
		return nil, err
	}
	if err := s.cfg.Machines.SetMetadata(c.r.Context(), id, all, c.nonce()); err != nil {
		return nil, err
	}
	return s.showMetadata(c)
}

func (s *Server) patchMetadata(c *call, in api.MetadataRequest) (map[string]string, error) {
	if err := s.current(c, in.MachineVersion); err != nil {
		return nil, err
	}
	if err := s.tag(c, in.Metadata); err != nil {
		return nil, err
	}
	return s.showMetadata(c)
}

// current refuses a change that was made for another version.
func (s *Server) current(c *call, version string) error {
	if version == "" {
		return nil
	}
	m, err := s.machine(c)
	if err == nil && m.InstanceID != version {
		return api.Errorf(api.CodeConflict, "machine %q has version %s by now, not %s", m.ID, m.InstanceID, api.Clip(version)).WithField("machine_version")
	}
	return err
}

func (s *Server) tag(c *call, patch map[string]*string) error {
	return s.on(c, func(id string) error { return s.cfg.Machines.PatchMetadata(c.r.Context(), id, patch, c.nonce()) })
}

func (s *Server) getMetadataKey(c *call) (api.MetadataValue, error) {
	all, err := s.showMetadata(c)
	if err != nil {
		return api.MetadataValue{}, err
	}
	v, ok := all[c.path("key")]
	if !ok {
		return api.MetadataValue{}, api.Errorf(api.CodeNotFound, "machine %q has no metadata %q", c.path("machine_id"), api.Clip(c.path("key")))
	}
	return api.MetadataValue{Value: v}, nil
}

func (s *Server) setMetadataKey(c *call, in api.MetadataValue) (none, error) {
	return none{}, s.tag(c, map[string]*string{c.path("key"): &in.Value})
}

func (s *Server) deleteMetadataKey(c *call) (none, error) {
	return none{}, s.tag(c, map[string]*string{c.path("key"): nil})
}

// orEmpty makes an empty list travel as one.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
