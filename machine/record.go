package machine

import (
	"maps"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
)

// Record is what the catalog keeps of one machine, under <app>.<id>. Only the
// node that owns the machine writes it.
type Record struct {
	ID        string    `json:"id"`
	App       string    `json:"app"`
	Org       string    `json:"org"`
	Name      string    `json:"name"`
	Node      string    `json:"node"`
	Region    string    `json:"region"`
	PrivateIP string    `json:"private_ip"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`

	// Version is the ULID of the present configuration; Versions are the
	// present and the former ones, newest first.
	Version  string            `json:"version"`
	Versions []Version         `json:"versions"`
	Config   api.MachineConfig `json:"config"`
	Image    api.ImageRef      `json:"image"`
	Release  int               `json:"release,omitempty"`

	// Desired is what the machine should come to: started, paused, suspended,
	// stopped, created or destroyed.
	Desired  string `json:"desired"`
	State    string `json:"state"`
	Standing string `json:"standing,omitempty"`
	Cordoned bool   `json:"cordoned,omitempty"`
	// NoSecrets leaves the app's secrets out of the environment.
	NoSecrets bool `json:"no_secrets,omitempty"`
	// SecretsVersion is the version of the app's secrets that the machine was
	// made or last updated with, and gets at every start. Nil, in records of
	// earlier builds, is the newest.
	SecretsVersion *uint64 `json:"secrets_version,omitempty"`

	// Scheduled is when the machine's schedule had its turn last.
	Scheduled time.Time `json:"scheduled,omitzero"`
	// StandsFor are the machines whose loss this one has had its turn for. Raised says
	// that it was started for it and has run since: what somebody else started runs on
	// when they are back.
	StandsFor []string `json:"stands_for,omitempty"`
	Raised    bool     `json:"raised,omitempty"`
	// MemoryMB is the bound of the present life's memory, 0 if it is the
	// configuration's.
	MemoryMB int `json:"memory_mb,omitempty"`

	// CreateKey is the idempotency key of the request that made the machine, ""
	// if it had none.
	CreateKey string `json:"create_key,omitempty"`

	// Home is the region that the machine stands in for, Replaces the machine of
	// another node that it was made to stand for; "" if there is none. Neither is
	// in the configuration, which people copy from machine to machine.
	Home     string `json:"home,omitempty"`
	Replaces string `json:"replaces,omitempty"`

	// Sandbox is the id of the latest life.
	Sandbox string `json:"sandbox,omitempty"`
	// Snapshot names the folder that holds a suspended machine, "" if none.
	Snapshot string      `json:"snapshot,omitempty"`
	Restarts int         `json:"restarts,omitempty"` // since the machine last ran well
	Lease    *api.Lease  `json:"lease,omitempty"`
	Events   []api.Event `json:"events,omitempty"` // newest first
}

// Version is one configuration that a machine has or had.
type Version struct {
	ID        string            `json:"id"`
	Config    api.MachineConfig `json:"config"`
	Release   int               `json:"release,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
}

const (
	maxEvents      = 50
	maxVersions    = 10
	maxVersionSize = 256 << 10 // bytes of configurations kept in Versions
)

func (r *Record) key() string { return r.App + "." + r.ID }

// addVersion makes the configuration in r the newest version. Older ones go
// when there are too many or they are too large for one catalog record.
func (r *Record) addVersion(now time.Time) {
	v := Version{ID: r.Version, Config: r.Config, Release: r.Release, CreatedAt: now}
	r.Versions = slices.Insert(slices.Clone(r.Versions), 0, v)
	size := 0
	for i := range r.Versions {
		size += rules.Size(&r.Versions[i].Config)
		if i == maxVersions || i > 0 && size > maxVersionSize {
			r.Versions = slices.Clip(r.Versions[:i])
			return
		}
	}
}

// knows reports whether version is or was one of the machine's.
func (r *Record) knows(version string) bool {
	return version == r.Version || slices.ContainsFunc(r.Versions, func(v Version) bool { return v.ID == version })
}

// persist returns how long the writable layer stays: never, restart or always.
func persist(c *api.MachineConfig) string {
	switch {
	case c.Rootfs != nil && c.Rootfs.Persist != "":
		return c.Rootfs.Persist
	case c.Guest != nil && c.Guest.PersistRootfs != "":
		return c.Guest.PersistRootfs
	}
	return "never"
}

// Group returns the machine's process group, "app" where none is said.
func Group(c *api.MachineConfig) string {
	for _, s := range []string{c.Metadata["fly_process_group"], c.Metadata["perigee_process_group"], c.Env["FLY_PROCESS_GROUP"]} {
		if s != "" {
			return s
		}
	}
	return "app"
}

// withMetadata returns c with other metadata; c itself is not touched.
func withMetadata(c api.MachineConfig, edit func(map[string]string)) api.MachineConfig {
	m := maps.Clone(c.Metadata)
	if m == nil {
		m = map[string]string{}
	}
	edit(m)
	c.Metadata = m
	return c
}
