package machine

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Summary is what a node tells all others of one of its machines: enough to
// list it, to send requests its way, and to make it anew elsewhere should its
// node be lost. Events, former versions, the lease and where the node itself
// reaches the machine stay at home.
type Summary struct {
	ID        string `json:"id"`
	App       string `json:"app"`
	Org       string `json:"org"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	Region    string `json:"region"`
	Group     string `json:"group"`
	PrivateIP string `json:"private_ip"`

	State    string    `json:"state"`
	Since    time.Time `json:"since"` // when the state began, or when the daemon did
	Healthy  bool      `json:"healthy,omitempty"`
	Cordoned bool      `json:"cordoned,omitempty"`
	Standing string    `json:"standing,omitempty"`
	// Checks are the checks without their words.
	Checks []CheckSummary `json:"checks,omitempty"`

	Version string `json:"version"`
	Release int    `json:"release,omitempty"`
	// Config is whole, for the machine can be made anew from it. Machines with
	// the same one share it: it must not be changed.
	Config *api.MachineConfig `json:"config"`
	Image  api.ImageRef       `json:"image"`
	// MemoryMB is the bound of the present life's memory, 0 if it is the configuration's.
	MemoryMB int `json:"memory_mb,omitempty"`
	// NoSecrets and SecretsVersion are as in [Record].
	NoSecrets      bool    `json:"no_secrets,omitempty"`
	SecretsVersion *uint64 `json:"secrets_version,omitempty"`
	// CreateKey is the idempotency key of the creation, "" if it had none.
	CreateKey string `json:"create_key,omitempty"`
	// Home and Replaces are as in [Record].
	Home     string `json:"home,omitempty"`
	Replaces string `json:"replaces,omitempty"`

	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	image *api.ImageRef // keeps the shared parts of Image in the interner
}

// CheckSummary is the latest result of one check.
type CheckSummary struct {
	Name   string `json:"name"`
	Status string `json:"status"`
}

// Summary returns what others are told of a machine; false if it is not on the
// node.
func (h *Host) Summary(id string) (Summary, bool) {
	m := h.lookup(id)
	if m == nil {
		return Summary{}, false
	}
	v := m.now()
	return v.summary(), v.public()
}

// Summaries returns what others are told of the node's machines, by id. One
// that is still being made, and may yet come to nothing, is among them only
// once it runs.
func (h *Host) Summaries() map[string]Summary {
	all := h.all()
	out := make(map[string]Summary, len(all))
	for _, m := range all {
		if v := m.now(); v.public() {
			out[m.id] = v.summary()
		}
	}
	return out
}

// SummariesOf is Summaries of one app's machines, in no order.
func (h *Host) SummariesOf(app string) (out []Summary) {
	for _, m := range h.all() {
		if v := m.now(); v.rec.App == app && v.public() {
			out = append(out, v.summary())
		}
	}
	return out
}

// secretsShown is the version of the secrets in a machine, nil if it has none.
func secretsShown(version *uint64, none bool) *uint64 {
	if none {
		return nil
	}
	return version
}

func (v *view) public() bool { return !v.gone && v.rec.State != api.StateCreating }

func (v *view) summary() Summary {
	r := &v.rec
	s := Summary{
		ID: r.ID, App: r.App, Org: r.Org, Name: r.Name, Node: r.Node, Region: r.Region, Group: Group(&r.Config), PrivateIP: r.PrivateIP,
		State: r.State, Since: v.since.UTC().Round(0), Healthy: v.healthy, Cordoned: r.Cordoned, Standing: r.Standing,
		Version: r.Version, Release: r.Release, Config: &r.Config, Image: r.Image,
		MemoryMB: r.MemoryMB, NoSecrets: r.NoSecrets, SecretsVersion: r.SecretsVersion, CreateKey: r.CreateKey, Home: r.Home, Replaces: r.Replaces, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	for _, c := range v.checks {
		s.Checks = append(s.Checks, CheckSummary{Name: c.Name, Status: c.Status})
	}
	return s
}

// Equal reports whether two summaries tell the same, so that what has not
// changed need not be sent again.
func (s Summary) Equal(o Summary) bool {
	if !slices.Equal(s.Checks, o.Checks) || !reflect.DeepEqual(s.Image, o.Image) || !sameVersion(s.SecretsVersion, o.SecretsVersion) {
		return false
	}
	if s.Config != o.Config && !reflect.DeepEqual(s.Config, o.Config) {
		return false
	}
	a, b := s.plain(), o.plain()
	return a.Since.Equal(b.Since) && a.CreatedAt.Equal(b.CreatedAt) && a.UpdatedAt.Equal(b.UpdatedAt) && reflect.DeepEqual(a.timeless(), b.timeless())
}

// plain is s without what Equal compares in its own way.
func (s Summary) plain() Summary {
	s.Checks, s.Image, s.Config, s.SecretsVersion, s.image = nil, api.ImageRef{}, nil, nil, nil
	return s
}

func (s Summary) timeless() Summary {
	s.Since, s.CreatedAt, s.UpdatedAt = time.Time{}, time.Time{}, time.Time{}
	return s
}

func sameVersion(a, b *uint64) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// Machine is the summary in the API's words, as far as it goes: without events
// and without the checks' outputs.
func (s Summary) Machine() api.Machine {
	m := api.Machine{
		ID: s.ID, Name: s.Name, State: s.State, Region: s.Region, ImageRef: s.Image, InstanceID: s.Version, Version: s.Version,
		PrivateIP: s.PrivateIP, SecretsVersion: secretsShown(s.SecretsVersion, s.NoSecrets), CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt, Config: s.Config, HostStatus: "ok",
		Cordoned: s.Cordoned, App: s.App, Node: s.Node, Release: s.Release, Standing: s.Standing, HomeRegion: s.Home,
	}
	for _, c := range s.Checks {
		m.Checks = append(m.Checks, api.CheckStatus{Name: c.Name, Status: c.Status, UpdatedAt: s.UpdatedAt})
	}
	return m
}

// Status is the summary in the router's words. Addr is not valid, for only the
// owner reaches the machine there.
func (s Summary) Status() Status {
	return Status{
		ID: s.ID, App: s.App, Name: s.Name, Node: s.Node, Region: s.Region, Group: s.Group, State: s.State, Version: s.Version,
		Release: s.Release, Addr: netip.Addr{}, Healthy: s.Healthy, Cordoned: s.Cordoned, Since: s.Since, Config: s.Config,
	}
}

// UnmarshalJSON reads a summary and shares with others what it has in common
// with them, so that many machines of one app cost little memory.
func (s *Summary) UnmarshalJSON(b []byte) error {
	type plain Summary
	in := struct {
		*plain
		Config json.RawMessage `json:"config"`
		Image  json.RawMessage `json:"image"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	var err error
	if s.Config, err = configs.Decode(in.Config); err != nil {
		return err
	}
	if s.image, err = images.Decode(in.Image); err != nil {
		return err
	}
	if s.Image = (api.ImageRef{}); s.image != nil {
		s.Image = *s.image
	}
	for _, word := range []*string{&s.App, &s.Org, &s.Node, &s.Region, &s.Group, &s.State, &s.Standing, &s.Home} {
		*word = shared(*word)
	}
	for i := range s.Checks {
		s.Checks[i].Name, s.Checks[i].Status = shared(s.Checks[i].Name), shared(s.Checks[i].Status)
	}
	return nil
}
