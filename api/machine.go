package api

import "time"

// Machine states as the API reports them. The first group lasts, the second
// is passed through, the third is final. StatePaused is Perigee's own: a
// started machine whose processes are frozen with their memory kept; clients
// that know only Fly's states see it as "suspended" (see [Machine.State]).
const (
	StateCreated   = "created"
	StateStarted   = "started"
	StateStopped   = "stopped"
	StateSuspended = "suspended"
	StatePaused    = "paused"
	StateFailed    = "failed"

	StateCreating   = "creating"
	StateStarting   = "starting"
	StateStopping   = "stopping"
	StateRestarting = "restarting"
	StateSuspending = "suspending"
	StateDestroying = "destroying"
	StateUpdating   = "updating"
	StateReplacing  = "replacing"

	StateDestroyed = "destroyed"
	StateReplaced  = "replaced"
)

// Machine is one isolated instance of an image, as the API shows it.
type Machine struct {
	ID         string   `json:"id" doc:"Identifier, 14 hexadecimal digits"`
	Name       string   `json:"name"`
	State      string   `json:"state" doc:"created, started, paused, suspended, stopped, failed, a transient state, or destroyed"`
	Region     string   `json:"region"`
	ImageRef   ImageRef `json:"image_ref"`
	InstanceID string   `json:"instance_id" doc:"Version of the machine, a ULID; every update makes a new one"`
	Version    string   `json:"version,omitempty"`
	// SecretsVersion is that of the app's secrets which the machine has.
	SecretsVersion *uint64        `json:"secrets_version,omitempty" doc:"Version of the app's secrets that the machine has; missing: it has none"`
	PrivateIP      string         `json:"private_ip" doc:"Private IPv6 address, the same for the machine's whole life"`
	CreatedAt      time.Time      `json:"created_at"`
	UpdatedAt      time.Time      `json:"updated_at"`
	Config         *MachineConfig `json:"config"`
	Events         []Event        `json:"events,omitempty" doc:"Newest first"`
	Checks         []CheckStatus  `json:"checks,omitempty"`
	HostStatus     string         `json:"host_status,omitempty" enum:"ok,unknown,unreachable"`
	Cordoned       bool           `json:"cordoned,omitempty"`
	Nonce          string         `json:"nonce,omitempty" doc:"Nonce of the lease that was asked for at creation"`
	Lease          *Lease         `json:"lease,omitempty" doc:"With include_leases: who has it and until when, without its nonce (Perigee)"`
	App            string         `json:"app,omitempty" doc:"Name of the app (Perigee)"`
	Node           string         `json:"node,omitempty" doc:"Name of the node that owns the machine (Perigee)"`
	Release        int            `json:"release,omitempty" doc:"Version of the release that the machine runs (Perigee)"`
	Standing       string         `json:"standing,omitempty" doc:"Why the machine is in its state, in words (Perigee)"`
	HomeRegion     string         `json:"home_region,omitempty" doc:"Region that the machine stands in for, where it could not be placed (Perigee)"`
}

// Home is the region that the machine counts for.
func (m *Machine) Home() string {
	if m.HomeRegion != "" {
		return m.HomeRegion
	}
	return m.Region
}

// ImageRef says which image a machine runs.
type ImageRef struct {
	Registry   string            `json:"registry"`
	Repository string            `json:"repository"`
	Tag        string            `json:"tag,omitempty"`
	Digest     string            `json:"digest"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// MachineConfig says what a machine is to be. Zero values mean the image's
// own setting or the default named in the field's text.
type MachineConfig struct {
	Image       string            `json:"image" doc:"Reference of the image, by tag or by digest"`
	Env         map[string]string `json:"env,omitempty"`
	Init        *Init             `json:"init,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Schedule    string            `json:"schedule,omitempty" enum:",hourly,daily,weekly,monthly"`
	AutoDestroy bool              `json:"auto_destroy,omitempty" doc:"Destroy the machine when it exits"`
	Standbys    []string          `json:"standbys,omitempty"`
	Containers  []Container       `json:"containers,omitempty"`
	Metrics     *Metrics          `json:"metrics,omitempty"`
	Guest       *Guest            `json:"guest,omitempty"`
	Services    []Service         `json:"services,omitempty"`
	Checks      map[string]Check  `json:"checks,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Restart     *Restart          `json:"restart,omitempty"`
	StopConfig  *StopConfig       `json:"stop_config,omitempty"`
	Rootfs      *Rootfs           `json:"rootfs,omitempty"`
	Files       []File            `json:"files,omitempty"`
	Processes   []Process         `json:"processes,omitempty"`
	Statics     []Static          `json:"statics,omitempty"`
	DNS         *DNS              `json:"dns,omitempty"`

	Volumes                 []ContainerVolume `json:"volumes,omitempty" doc:"Refused, as containers are"`
	CacheDrive              *CacheDrive       `json:"cache_drive,omitempty" doc:"Taken for Fly's clients and not looked at"`
	Spot                    *Spot             `json:"spot,omitempty" doc:"Taken for Fly's clients and not looked at: the servers are the owner's"`
	Size                    string            `json:"size,omitempty" doc:"The older form of guest: such as shared-cpu-1x or performance-2x"`
	DisableMachineAutostart *bool             `json:"disable_machine_autostart,omitempty" doc:"The older form of a service's autostart"`
}

// Init overrides what the image starts.
type Init struct {
	Exec       []string `json:"exec,omitempty" doc:"Replaces entrypoint and cmd together"`
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	TTY        bool     `json:"tty,omitempty"`
	SwapSizeMB int      `json:"swap_size_mb,omitempty" doc:"Refused above 0: the sandbox has no swap"`
	KernelArgs []string `json:"kernel_args,omitempty" doc:"Refused: the sandbox's kernel takes none"`
	User       string   `json:"user,omitempty" doc:"User, uid, user:group or uid:gid (Perigee)"`
	WorkingDir string   `json:"working_dir,omitempty" doc:"Working directory (Perigee)"`
}

// CacheDrive is scratch space of Fly's.
type CacheDrive struct {
	SizeMB int `json:"size_mb,omitempty"`
}

// Spot is Fly's pricing of machines that may be taken away.
type Spot struct {
	MaxPriceFraction float64 `json:"max_price_fraction,omitempty"`
}

// Metrics says where the machine offers its own metrics.
type Metrics struct {
	Port  int    `json:"port,omitempty"`
	Path  string `json:"path,omitempty"`
	HTTPS bool   `json:"https,omitempty"`
}

// Guest is the machine's size.
type Guest struct {
	CPUKind       string   `json:"cpu_kind,omitempty" doc:"shared or performance; default shared"`
	CPUs          int      `json:"cpus,omitempty" doc:"Default 1"`
	MemoryMB      int      `json:"memory_mb,omitempty" doc:"MiB; default 256"`
	MaxMemoryMB   int      `json:"max_memory_mb,omitempty" doc:"Up to which PUT …/memory may raise it; default memory_mb"`
	GPUs          int      `json:"gpus,omitempty" doc:"Refused: the sandbox has no GPU"`
	GPUKind       string   `json:"gpu_kind,omitempty" doc:"Refused: the sandbox has no GPU"`
	PersistRootfs string   `json:"persist_rootfs,omitempty" enum:",never,restart,always"`
	HostID        string   `json:"host_dedication_id,omitempty" doc:"Taken for Fly's clients and not looked at"`
	KernelArgs    []string `json:"kernel_args,omitempty" doc:"Refused: the sandbox's kernel takes none"`
	PIDs          int      `json:"pids,omitempty" doc:"Most processes and threads; default 4096 (Perigee)"`
}

// Service is a port set that the machine's app offers to visitors.
type Service struct {
	Protocol                 string       `json:"protocol" doc:"tcp or udp; udp is refused"`
	InternalPort             int          `json:"internal_port"`
	Autostop                 *Autostop    `json:"autostop,omitempty" doc:"off, stop or suspend; true means stop"`
	Autostart                *bool        `json:"autostart,omitempty"`
	MinMachinesRunning       *int         `json:"min_machines_running,omitempty"`
	Ports                    []Port       `json:"ports,omitempty"`
	Checks                   []Check      `json:"checks,omitempty"`
	Concurrency              *Concurrency `json:"concurrency,omitempty"`
	ForceInstanceKey         *string      `json:"force_instance_key,omitempty" doc:"Taken for Fly's clients and not looked at"`
	ForceInstanceDescription *string      `json:"force_instance_description,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// Port is one public port, or a range, and what the router does on it.
type Port struct {
	Port              int                `json:"port,omitempty"`
	StartPort         int                `json:"start_port,omitempty"`
	EndPort           int                `json:"end_port,omitempty"`
	Handlers          []string           `json:"handlers,omitempty" doc:"http, tls, pg_tls, proxy_proto; none means raw TCP"`
	ForceHTTPS        bool               `json:"force_https,omitempty"`
	TLSOptions        *TLSOptions        `json:"tls_options,omitempty"`
	HTTPOptions       *HTTPOptions       `json:"http_options,omitempty"`
	ProxyProtoOptions *ProxyProtoOptions `json:"proxy_proto_options,omitempty"`
}

// TLSOptions narrows the TLS that a port speaks.
type TLSOptions struct {
	ALPN              []string `json:"alpn,omitempty"`
	Versions          []string `json:"versions,omitempty"`
	DefaultSelfSigned *bool    `json:"default_self_signed,omitempty"`
}

// HTTPOptions shapes HTTP on a port.
type HTTPOptions struct {
	Compress           *bool         `json:"compress,omitempty"`
	H2Backend          *bool         `json:"h2_backend,omitempty" doc:"Speak HTTP/2 without TLS to the machine (gRPC)"`
	IdleTimeout        *int          `json:"idle_timeout,omitempty" doc:"Seconds"`
	Sticky             *bool         `json:"sticky,omitempty" doc:"Send a visitor to the machine that answered first, by a cookie"`
	HeadersReadTimeout *int          `json:"headers_read_timeout,omitempty" doc:"Seconds"`
	Response           *HTTPResponse `json:"response,omitempty"`
	ReplayCache        []ReplayCache `json:"replay_cache,omitempty" doc:"Taken and not acted on: a replay is asked for anew"`
}

// ReplayCache says which replays may be remembered for a while.
type ReplayCache struct {
	PathPrefix  string `json:"path_prefix"`
	TTLSeconds  int    `json:"ttl_seconds"`
	Type        string `json:"type" enum:"cookie,header"`
	Name        string `json:"name"`
	AllowBypass bool   `json:"allow_bypass,omitempty"`
}

// HTTPResponse changes the headers of answers.
type HTTPResponse struct {
	Headers  map[string]any `json:"headers,omitempty"`
	Pristine *bool          `json:"pristine,omitempty"`
}

// ProxyProtoOptions chooses the version of the PROXY protocol.
type ProxyProtoOptions struct {
	Version string `json:"version,omitempty" enum:",v1,v2"`
}

// Concurrency is a service's load limits per machine.
type Concurrency struct {
	Type      string `json:"type,omitempty" enum:",connections,requests"`
	SoftLimit int    `json:"soft_limit,omitempty"`
	HardLimit int    `json:"hard_limit,omitempty"`
}

// Check is a health test, of a service or (under a name) of the machine.
type Check struct {
	Type          string        `json:"type,omitempty" enum:",tcp,http"`
	Kind          string        `json:"kind,omitempty" enum:",informational,readiness"`
	Port          int           `json:"port,omitempty"`
	Interval      *Duration     `json:"interval,omitempty" doc:"Default 15s"`
	Timeout       *Duration     `json:"timeout,omitempty" doc:"Default 2s"`
	GracePeriod   *Duration     `json:"grace_period,omitempty" doc:"Default 1s"`
	Method        string        `json:"method,omitempty"`
	Path          string        `json:"path,omitempty"`
	Protocol      string        `json:"protocol,omitempty" enum:",http,https"`
	TLSSkipVerify bool          `json:"tls_skip_verify,omitempty"`
	TLSServerName string        `json:"tls_server_name,omitempty"`
	Headers       []CheckHeader `json:"headers,omitempty"`
}

// CheckHeader is one header of an HTTP check.
type CheckHeader struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Mount attaches a volume.
type Mount struct {
	Volume                 string `json:"volume,omitempty"`
	Name                   string `json:"name,omitempty"`
	Path                   string `json:"path"`
	SizeGB                 int    `json:"size_gb,omitempty"`
	Encrypted              bool   `json:"encrypted,omitempty"`
	ExtendThresholdPercent int    `json:"extend_threshold_percent,omitempty"`
	AddSizeGB              int    `json:"add_size_gb,omitempty"`
	SizeGBLimit            int    `json:"size_gb_limit,omitempty"`

	SnapshotRetention  *int  `json:"snapshot_retention,omitempty" doc:"Of a volume that a deploy makes: days (Perigee)"`
	ScheduledSnapshots *bool `json:"scheduled_snapshots,omitempty" doc:"Of a volume that a deploy makes: one each day; default true (Perigee)"`
}

// Restart says what happens when the machine's process ends by itself.
type Restart struct {
	Policy     string  `json:"policy,omitempty" enum:",no,on-failure,always" doc:"Default on-failure"`
	MaxRetries int     `json:"max_retries,omitempty" doc:"For on-failure; default 10"`
	GPUBid     float64 `json:"gpu_bid_price,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// StopConfig says how a machine is asked to stop.
type StopConfig struct {
	Signal  string    `json:"signal,omitempty" doc:"Default the image's stop signal, else SIGINT"`
	Timeout *Duration `json:"timeout,omitempty" doc:"Until SIGKILL; default 5s"`
}

// Rootfs says how long what the machine writes to its root file system stays.
type Rootfs struct {
	Persist string `json:"persist,omitempty" enum:",never,restart,always" doc:"Default never: each start begins with the image"`
	SizeGB  int    `json:"size_gb,omitempty" doc:"GiB that it can keep; default 8. With never it is in memory, and not looked at"`
}

// File is put into the machine before it starts.
type File struct {
	GuestPath   string  `json:"guest_path"`
	RawValue    *string `json:"raw_value,omitempty" doc:"Content in base64"`
	SecretName  *string `json:"secret_name,omitempty" doc:"Secret whose value, in base64, is the content"`
	ImageConfig *string `json:"image_config,omitempty" doc:"Refused: only containers have several images"`
	Mode        uint32  `json:"mode,omitempty" doc:"Default 0644"`
}

// Process is one process of a machine in Fly's older form; Perigee takes a
// single one.
type Process struct {
	Exec       []string          `json:"exec,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	User       string            `json:"user,omitempty"`
	Env        map[string]string `json:"env,omitempty"`

	Secrets          []ProcessSecret `json:"secrets,omitempty" doc:"Refused: a machine has all secrets of its app, or none with skip_secrets"`
	IgnoreAppSecrets bool            `json:"ignore_app_secrets,omitempty" doc:"Refused; see skip_secrets"`
	EnvFrom          []EnvFrom       `json:"env_from,omitempty" doc:"Variables made from the machine's own fields"`
}

// ProcessSecret names a secret for one process.
type ProcessSecret struct {
	EnvVar string `json:"env_var"`
	Name   string `json:"name,omitempty"`
}

// EnvFrom is a variable made from one of the machine's own fields.
type EnvFrom struct {
	EnvVar   string `json:"env_var"`
	FieldRef string `json:"field_ref" enum:"id,version,app_name,private_ip,region,image"`
}

// Static is a folder of the image that the router may serve by itself.
type Static struct {
	GuestPath     string `json:"guest_path"`
	URLPrefix     string `json:"url_prefix"`
	IndexDocument string `json:"index_document,omitempty"`
	TigrisBucket  string `json:"tigris_bucket,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// DNS changes how the machine finds names.
type DNS struct {
	SkipRegistration bool             `json:"skip_registration,omitempty"`
	Nameservers      []string         `json:"nameservers,omitempty"`
	Searches         []string         `json:"searches,omitempty"`
	Hostname         string           `json:"hostname,omitempty"`
	HostnameFQDN     string           `json:"hostname_fqdn,omitempty" doc:"Name in full, put into /etc/hosts before the short one"`
	Options          []DNSOption      `json:"options,omitempty" doc:"Options of /etc/resolv.conf, such as ndots"`
	ForwardRules     []DNSForwardRule `json:"dns_forward_rules,omitempty" doc:"Refused: the resolver is the node's, one for all machines"`
}

// DNSOption is one option of /etc/resolv.conf.
type DNSOption struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// DNSForwardRule would send questions about a domain to a server of its own.
type DNSForwardRule struct {
	Basename string `json:"basename"`
	Addr     string `json:"addr"`
}

// Event is one thing that happened to a machine.
type Event struct {
	ID        string         `json:"id,omitempty"`
	Type      string         `json:"type" doc:"launch, start, restart, exit, stop, suspend, resume, update, destroy, ..."`
	Status    string         `json:"status" doc:"State of the machine after the event"`
	Source    string         `json:"source" doc:"flyd (the node), user or router"`
	Timestamp int64          `json:"timestamp" doc:"Milliseconds since 1970"`
	Request   *EventRequest  `json:"request,omitempty"`
	Detail    map[string]any `json:"detail,omitempty" doc:"Facts about the event (Perigee)"`
}

// EventRequest carries what an event was about.
type EventRequest struct {
	ExitEvent    *ExitEvent `json:"exit_event,omitempty"`
	RestartCount int        `json:"restart_count,omitempty"`
}

// ExitEvent says how a machine's process ended.
type ExitEvent struct {
	ExitCode      int       `json:"exit_code"`
	GuestExitCode int       `json:"guest_exit_code"`
	GuestSignal   int       `json:"guest_signal"`
	Signal        int       `json:"signal"`
	ExitedAt      time.Time `json:"exited_at"`
	OOMKilled     bool      `json:"oom_killed"`
	RequestedStop bool      `json:"requested_stop"`
	Restarting    bool      `json:"restarting"`
}

// CheckStatus is the latest result of one check.
type CheckStatus struct {
	Name      string    `json:"name"`
	Status    string    `json:"status" enum:"passing,warning,critical"`
	Output    string    `json:"output,omitempty"`
	UpdatedAt time.Time `json:"updated_at"`
}
