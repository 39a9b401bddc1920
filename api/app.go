package api

import "time"

// App is an app as the API shows it.
type App struct {
	ID                string       `json:"id"`
	Name              string       `json:"name"`
	Status            string       `json:"status" enum:"pending,deployed,suspended"`
	MachineCount      int          `json:"machine_count"`
	VolumeCount       int          `json:"volume_count"`
	Network           string       `json:"network"`
	Organization      Organization `json:"organization"`
	InternalNumericID int64        `json:"internal_numeric_id" doc:"A number that stands for the app"`
	CnameTarget       string       `json:"cname_target,omitempty" doc:"Name that a custom name may be an alias (CNAME) of"`
	AppRole           string       `json:"app_role" doc:"Always empty: apps have no roles here"`
	Hostname          string       `json:"hostname,omitempty" doc:"Name under which the app answers (Perigee)"`
	Hosts             []string     `json:"hosts,omitempty" doc:"Custom names (Perigee)"`
	URL               string       `json:"url,omitempty" doc:"Address to open in a browser from this node's point of view (Perigee)"`
	Release           int          `json:"release,omitempty" doc:"Version of the newest complete release (Perigee)"`
	CreatedAt         time.Time    `json:"created_at,omitempty"`
}

// Organization is the owner of apps.
type Organization struct {
	Name              string `json:"name"`
	Slug              string `json:"slug"`
	InternalNumericID int64  `json:"internal_numeric_id" doc:"A number that stands for the org"`
}

// CreateAppRequest asks for a new app (POST /v1/apps).
type CreateAppRequest struct {
	AppName          string `json:"app_name" doc:"1 to 63 lower-case letters, digits and hyphens"`
	Name             string `json:"name,omitempty" doc:"The same as app_name, as newer clients send it"`
	OrgSlug          string `json:"org_slug,omitempty"`
	Network          string `json:"network,omitempty"`
	AppRoleID        string `json:"app_role_id,omitempty" doc:"Taken for Fly's clients and not looked at"`
	EnableSubdomains bool   `json:"enable_subdomains,omitempty" doc:"Taken for Fly's clients and not looked at"`
	IdempotencyKey   string `json:"idempotency_key,omitempty" doc:"A creation that is sent again under the same key makes nothing new"`
}

// CreateAppResponse names the new app.
type CreateAppResponse struct {
	ID                string       `json:"id"`
	CreatedAt         int64        `json:"created_at" doc:"Milliseconds since 1970"`
	Name              string       `json:"name"`
	Network           string       `json:"network"`
	Status            string       `json:"status" enum:"pending,deployed,suspended"`
	InternalNumericID int64        `json:"internal_numeric_id"`
	Organization      Organization `json:"organization"`
}

// ListAppsResponse is the answer of GET /v1/apps.
type ListAppsResponse struct {
	TotalApps int   `json:"total_apps"`
	Apps      []App `json:"apps"`
}

// CreateMachineRequest makes a machine (POST /v1/apps/{app}/machines), or, as
// the body of POST …/machines/{id}, makes a new version of one.
type CreateMachineRequest struct {
	Config                  *MachineConfig `json:"config"`
	Name                    string         `json:"name,omitempty"`
	Region                  string         `json:"region,omitempty"`
	SkipLaunch              bool           `json:"skip_launch,omitempty" doc:"Create only; do not start"`
	SkipServiceRegistration bool           `json:"skip_service_registration,omitempty" doc:"Start cordoned: the router sends it nothing"`
	SkipSecrets             bool           `json:"skip_secrets,omitempty"`
	LeaseTTL                int            `json:"lease_ttl,omitempty" doc:"Seconds"`
	MinSecretsVersion       *uint64        `json:"min_secrets_version,omitempty"`
	CurrentVersion          string         `json:"current_version,omitempty" doc:"For updates: refuse with 409 unless this is the version"`
	Release                 int            `json:"release,omitempty" doc:"Version of the release (Perigee)"`
	// HomeRegion is where the machine belongs, if not in Region: it goes home when that
	// takes machines again. Updates leave it as it is.
	HomeRegion string `json:"home_region,omitempty" doc:"Region that the machine stands in for (Perigee)"`

	// IdempotencyKey travels in [IdempotencyHeader]: a create that is sent again
	// under the same key gives the machine that the first one made. Updates
	// ignore it.
	IdempotencyKey string `json:"-"`
	// Replaces is the machine of another node that this one is made to stand for.
	// It decides which of them is destroyed, so it has no form in the API.
	Replaces string `json:"-"`
}

// Lease is a short exclusive right to change a machine.
type Lease struct {
	Nonce       string `json:"nonce,omitempty" doc:"Only for who has it"`
	ExpiresAt   int64  `json:"expires_at" doc:"Seconds since 1970"`
	Owner       string `json:"owner"`
	Description string `json:"description,omitempty"`
	Version     string `json:"version,omitempty"`
}

// LeaseResponse wraps a lease as Fly's clients expect it.
type LeaseResponse struct {
	Status string `json:"status"`
	Data   Lease  `json:"data"`
}

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	TTL         int    `json:"ttl,omitempty" doc:"Seconds"`
	Description string `json:"description,omitempty"`
}

// StopRequest asks a machine to stop.
type StopRequest struct {
	ID      string     `json:"id,omitempty" doc:"Taken for Fly's clients and not looked at"`
	Signal  SignalName `json:"signal,omitempty"`
	Timeout *Duration  `json:"timeout,omitempty"`
}

// SignalRequest sends a signal to the machine's first process.
type SignalRequest struct {
	Signal SignalName `json:"signal" doc:"A name such as SIGHUP, or a number"`
}

// StartResponse is the answer of POST …/start.
type StartResponse struct {
	PreviousState string `json:"previous_state"`
	Migrated      bool   `json:"migrated"`
	NewHost       string `json:"new_host"`
}

// OKResponse is the answer of verbs that have nothing to tell.
type OKResponse struct {
	OK bool `json:"ok"`
}

// WaitResponse is the answer of GET …/wait.
type WaitResponse struct {
	OK      bool   `json:"ok"`
	State   string `json:"state"`
	Version string `json:"version"`
	EventID string `json:"event_id,omitempty"`
}

// ExecRequest runs a command in a machine (POST …/exec).
type ExecRequest struct {
	Command   []string `json:"command,omitempty"`
	Cmd       string   `json:"cmd,omitempty" doc:"The older form: one line, split at spaces as a shell would"`
	Stdin     string   `json:"stdin,omitempty"`
	Timeout   int      `json:"timeout,omitempty" doc:"Seconds; default 60"`
	Container string   `json:"container,omitempty" doc:"Refused unless it is the machine's only one"`
	Machine   bool     `json:"machine,omitempty" doc:"Taken for Fly's clients: a command always runs beside the machine's own process"`
}

// ExecResponse says how the command went.
type ExecResponse struct {
	ExitCode   int    `json:"exit_code"`
	ExitSignal int    `json:"exit_signal,omitempty"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
}

// ProcessStat is one process of a machine (GET …/ps).
type ProcessStat struct {
	PID       int            `json:"pid"`
	Command   string         `json:"command"`
	Directory string         `json:"directory" doc:"Always empty: the sandbox does not tell"`
	User      string         `json:"user,omitempty" doc:"Number of the user (Perigee)"`
	CPU       uint64         `json:"cpu" doc:"Processor time used, in milliseconds"`
	RSS       uint64         `json:"rss" doc:"Always 0: the sandbox counts memory for the whole machine, see …/memory"`
	STime     uint64         `json:"stime" doc:"Always 0"`
	RTime     uint64         `json:"rtime" doc:"Milliseconds since it began, as far as the sandbox tells"`
	Sockets   []ListenSocket `json:"listen_sockets" doc:"With the first process: the internal ports of the machine's services that take connections; others are inside the sandbox"`
}

// ListenSocket is where a process takes connections.
type ListenSocket struct {
	Proto   string `json:"proto"`
	Address string `json:"address"`
}

// Secret is one secret as the API shows it: never its value.
type Secret struct {
	Name      string    `json:"name"`
	Type      string    `json:"type,omitempty"`
	Digest    string    `json:"digest"`
	Version   uint64    `json:"version,omitempty"`
	CreatedAt time.Time `json:"created_at,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitempty"`
	Status    string    `json:"status,omitempty" enum:"staged,partial,deployed,removed" doc:"Whether no machine, some or all have this value; removed: it is not set any more, and some have it until they are deployed"`
}

// What has become of a secret.
const (
	SecretStaged   = "staged"
	SecretPartial  = "partial"
	SecretDeployed = "deployed"
	SecretRemoved  = "removed"
)

// ListSecretsResponse is the answer of GET /v1/apps/{app}/secrets.
type ListSecretsResponse struct {
	Secrets []Secret `json:"secrets"`
	Removed []Secret `json:"removed,omitempty" doc:"Those that are not set any more, and that some machines have until the next deploy"`
	Version uint64   `json:"version,omitempty" doc:"Of the whole set: that of the latest change"`
}

// SetSecretsRequest sets (text) and removes (null) secrets.
type SetSecretsRequest struct {
	Values map[string]*string `json:"values"`
}

// SetSecretsResponse gives the new version of the app's secrets.
type SetSecretsResponse struct {
	Secrets []Secret `json:"secrets"`
	Version uint64   `json:"version"`
}

// HostsResponse lists an app's custom names (GET /v1/apps/{app}/hosts).
type HostsResponse struct {
	Hosts []string `json:"hosts"`
}

// AddHostRequest gives an app a custom name (POST /v1/apps/{app}/hosts).
type AddHostRequest struct {
	Host string `json:"host" doc:"Name in full, such as shop.example.com; *.example.com is any one label"`
}

// MetadataValue is the body of POST …/metadata/{key}.
type MetadataValue struct {
	Value string `json:"value"`
}

// MachineVersion is one configuration that a machine has or had (GET
// …/versions).
type MachineVersion struct {
	Version    string         `json:"version"`
	UserConfig *MachineConfig `json:"user_config"`
	Release    int            `json:"release,omitempty"`
	CreatedAt  time.Time      `json:"created_at,omitempty"`
}

// MetadataRequest is the body of PUT and PATCH …/metadata.
type MetadataRequest struct {
	Metadata       map[string]*string `json:"metadata" doc:"With PATCH null removes a key"`
	MachineVersion string             `json:"machine_version,omitempty" doc:"Refuse with 409 unless this is the version"`
	UpdatedAt      string             `json:"updated_at,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// SetSecretRequest sets one secret (POST /v1/apps/{app}/secrets/{name}).
type SetSecretRequest struct {
	Value *string `json:"value"`
	Type  string  `json:"type,omitempty" doc:"Taken for Fly's clients and not looked at"`
}
