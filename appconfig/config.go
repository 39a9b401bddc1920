package appconfig

import "github.com/perigee-run/perigee/api"

// Config is an app's configuration. Zero values mean the default that the field
// names. The JSON names are the TOML names.
type Config struct {
	App            string        `toml:"app" json:"app,omitempty"`                         // empty: named on the command line
	PrimaryRegion  string        `toml:"primary_region" json:"primary_region,omitempty"`   // default: the node's
	Regions        Regions       `toml:"regions" json:"regions,omitzero"`                  // Perigee's own; default: primary_region
	KillSignal     string        `toml:"kill_signal" json:"kill_signal,omitempty"`         // default: the image's, else SIGINT
	KillTimeout    *api.Duration `toml:"kill_timeout,s" json:"kill_timeout,omitempty"`     // default 5s
	ConsoleCommand string        `toml:"console_command" json:"console_command,omitempty"` // of perigee console; default: a shell
	SwapSizeMB     int           `toml:"swap_size_mb" json:"swap_size_mb,omitempty" later:"the sandbox has no swap; give the machine more memory in [[vm]]"`
	DedicationID   string        `toml:"host_dedication_id" json:"host_dedication_id,omitempty" later:"machines are not tied to hosts"`

	Experimental  Experimental   `toml:"experimental" json:"experimental,omitzero"`
	Build         Build          `toml:"build" json:"build,omitzero"`
	Deploy        Deploy         `toml:"deploy" json:"deploy,omitzero"`
	Env           Env            `toml:"env" json:"env,omitempty"`
	Processes     Processes      `toml:"processes" json:"processes,omitempty"`
	Mounts        []Mount        `toml:"mounts" alias:"mount" json:"mounts,omitempty"`
	HTTPService   *HTTPService   `toml:"http_service" json:"http_service,omitempty"`
	ServiceList   []Service      `toml:"services" json:"services,omitempty"`
	Checks        Checks         `toml:"checks" json:"checks,omitempty"`
	MachineChecks []MachineCheck `toml:"machine_checks" json:"machine_checks,omitempty" later:"machine checks are not run; use [checks]"`
	Files         []File         `toml:"files" json:"files,omitempty"`
	Restart       []Restart      `toml:"restart" json:"restart,omitempty"`
	VM            []VM           `toml:"vm" alias:"compute,computes" json:"vm,omitempty"`
	Statics       []Static       `toml:"statics" json:"statics,omitempty" later:"the router does not serve files by itself; the app has to"`
	Metrics       []Metrics      `toml:"metrics" alias:"metric" json:"metrics,omitempty" later:"metrics of the app are not collected"`
}

// Experimental is [experimental]; of it, we act on cmd, entrypoint and exec.
type Experimental struct {
	Cmd          []string       `toml:"cmd,one" json:"cmd,omitempty"`
	Entrypoint   []string       `toml:"entrypoint,one" json:"entrypoint,omitempty"`
	Exec         []string       `toml:"exec,one" json:"exec,omitempty"`
	KillTimeout  *api.Duration  `toml:"kill_timeout,s" json:"kill_timeout,omitempty"` // older place of the key
	AutoRollback bool           `toml:"auto_rollback" json:"auto_rollback,omitempty" later:"a deploy that fails leaves the old release serving, always"`
	EnableConsul bool           `toml:"enable_consul" json:"enable_consul,omitempty" later:"there is no Consul"`
	EnableEtcd   bool           `toml:"enable_etcd" json:"enable_etcd,omitempty" later:"there is no etcd"`
	LazyLoad     bool           `toml:"lazy_load_images" json:"lazy_load_images,omitempty" later:"images are pulled whole"`
	UseZstd      bool           `toml:"use_zstd" json:"use_zstd,omitempty" later:"layers of any compression are taken"`
	PublicPorts  []int          `toml:"allowed_public_ports" json:"allowed_public_ports,omitempty" later:"ports are what [[services]] says"`
	PrivateNet   bool           `toml:"private_network" json:"private_network,omitempty" later:"every machine has a private address"`
	MetricsPort  int            `toml:"metrics_port" json:"metrics_port,omitempty" later:"metrics of the app are not collected"`
	MetricsPath  string         `toml:"metrics_path" json:"metrics_path,omitempty" later:"metrics of the app are not collected"`
	Attached     map[string]any `toml:"attached" json:"attached,omitempty" later:"there are no attached extensions"`
	Machine      string         `toml:"machine_config" json:"machine_config,omitempty" later:"machines are what this file says"`
}

// Build is [build].
type Build struct {
	Image            string            `toml:"image" json:"image,omitempty"`           // run this instead of building
	Dockerfile       string            `toml:"dockerfile" json:"dockerfile,omitempty"` // default Dockerfile
	Target           string            `toml:"build-target" alias:"build_target" json:"build-target,omitempty"`
	Args             map[string]string `toml:"args,text" json:"args,omitempty"`
	Ignorefile       string            `toml:"ignorefile" json:"ignorefile,omitempty" later:"the builder reads .dockerignore and <dockerfile>.dockerignore"`
	Compression      string            `toml:"compression" json:"compression,omitempty" later:"layers are not compressed on their way to the node"`
	CompressionLevel int               `toml:"compression_level" json:"compression_level,omitempty" later:"layers are not compressed on their way to the node"`
	Builder          string            `toml:"builder" json:"builder,omitempty" later:"there are no buildpacks; write a Dockerfile"`
	Buildpacks       []string          `toml:"buildpacks" json:"buildpacks,omitempty" later:"there are no buildpacks; write a Dockerfile"`
	Builtin          string            `toml:"builtin" json:"builtin,omitempty" later:"there are no built-in Dockerfiles; write one"`
	Settings         map[string]any    `toml:"settings" json:"settings,omitempty" later:"there are no built-in Dockerfiles; write one"`
}

// Deploy is [deploy].
type Deploy struct {
	Strategy              string        `toml:"strategy" json:"strategy,omitempty"`               // rolling (default), immediate, canary, bluegreen
	MaxUnavailable        float64       `toml:"max_unavailable" json:"max_unavailable,omitempty"` // machines (1 or more) or a share (under 1)
	WaitTimeout           *api.Duration `toml:"wait_timeout,s" json:"wait_timeout,omitempty"`     // default 5m
	ReleaseCommand        string        `toml:"release_command" json:"release_command,omitempty"` // run once before the release goes out
	ReleaseCommandTimeout *api.Duration `toml:"release_command_timeout,s" json:"release_command_timeout,omitempty"`
	ReleaseCommandVM      *VM           `toml:"release_command_vm" json:"release_command_vm,omitempty" later:"the release command has the size of the app's machines"`
	SeedCommand           string        `toml:"seed_command" json:"seed_command,omitempty" later:"it is not run; use release_command"`
}

// Mount is one of [[mounts]].
type Mount struct {
	Source                  string   `toml:"source" json:"source,omitempty"`           // name of the volume
	Destination             string   `toml:"destination" json:"destination,omitempty"` // path in the machine
	InitialSize             string   `toml:"initial_size,text" json:"initial_size,omitempty"`
	SnapshotRetention       *int     `toml:"snapshot_retention" json:"snapshot_retention,omitempty"`                 // days; default 5
	ScheduledSnapshots      *bool    `toml:"scheduled_snapshots" json:"scheduled_snapshots,omitempty"`               // default true
	AutoExtendSizeThreshold int      `toml:"auto_extend_size_threshold" json:"auto_extend_size_threshold,omitempty"` // percent
	AutoExtendSizeIncrement string   `toml:"auto_extend_size_increment,text" json:"auto_extend_size_increment,omitempty"`
	AutoExtendSizeLimit     string   `toml:"auto_extend_size_limit,text" json:"auto_extend_size_limit,omitempty"`
	Processes               []string `toml:"processes" json:"processes,omitempty"`
}

// HTTPService is [http_service]: HTTP on port 80 and HTTPS on 443.
type HTTPService struct {
	InternalPort       int                `toml:"internal_port,text" json:"internal_port,omitempty"` // default 8080
	ForceHTTPS         bool               `toml:"force_https" json:"force_https,omitempty"`
	AutoStopMachines   *api.Autostop      `toml:"auto_stop_machines" json:"auto_stop_machines,omitempty"`
	AutoStartMachines  *bool              `toml:"auto_start_machines" json:"auto_start_machines,omitempty"`
	MinMachinesRunning *int               `toml:"min_machines_running" json:"min_machines_running,omitempty"`
	Processes          []string           `toml:"processes" json:"processes,omitempty"`
	Concurrency        *Concurrency       `toml:"concurrency" json:"concurrency,omitempty"`
	TLSOptions         *TLSOptions        `toml:"tls_options" json:"tls_options,omitempty" later:"the router chooses versions and protocols of TLS itself"`
	HTTPOptions        *HTTPOptions       `toml:"http_options" json:"http_options,omitempty"`
	ProxyProtoOptions  *ProxyProtoOptions `toml:"proxy_proto_options" json:"proxy_proto_options,omitempty" later:"the ports of [http_service] speak HTTP; write a [[services]] with the handler proxy_proto"`
	Checks             []HTTPCheck        `toml:"checks" alias:"http_checks" json:"checks,omitempty"`
	MachineChecks      []MachineCheck     `toml:"machine_checks" json:"machine_checks,omitempty" later:"machine checks are not run; use checks"`
}

// Service is one of [[services]].
type Service struct {
	Protocol           string           `toml:"protocol" json:"protocol,omitempty"` // tcp
	InternalPort       int              `toml:"internal_port,text" json:"internal_port,omitempty"`
	AutoStopMachines   *api.Autostop    `toml:"auto_stop_machines" json:"auto_stop_machines,omitempty"`
	AutoStartMachines  *bool            `toml:"auto_start_machines" json:"auto_start_machines,omitempty"`
	MinMachinesRunning *int             `toml:"min_machines_running" json:"min_machines_running,omitempty"`
	Processes          []string         `toml:"processes" json:"processes,omitempty"`
	Concurrency        *Concurrency     `toml:"concurrency" json:"concurrency,omitempty"`
	Ports              []Port           `toml:"ports" json:"ports,omitempty"`
	TCPChecks          []TCPCheck       `toml:"tcp_checks" json:"tcp_checks,omitempty"`
	HTTPChecks         []HTTPCheck      `toml:"http_checks" json:"http_checks,omitempty"`
	MachineChecks      []MachineCheck   `toml:"machine_checks" json:"machine_checks,omitempty" later:"machine checks are not run; use http_checks or tcp_checks"`
	ScriptChecks       []map[string]any `toml:"script_checks" json:"script_checks,omitempty" later:"script checks are not run; use http_checks or tcp_checks"`
}

// Port is one public port of a service, or a range.
type Port struct {
	Port              int                `toml:"port,text" json:"port,omitempty"`
	StartPort         int                `toml:"start_port,text" json:"start_port,omitempty"`
	EndPort           int                `toml:"end_port,text" json:"end_port,omitempty"`
	Handlers          []string           `toml:"handlers" json:"handlers,omitempty"` // http, tls, pg_tls, proxy_proto; none: raw TCP
	ForceHTTPS        bool               `toml:"force_https" json:"force_https,omitempty"`
	TLSOptions        *TLSOptions        `toml:"tls_options" json:"tls_options,omitempty" later:"the router chooses versions and protocols of TLS itself"`
	HTTPOptions       *HTTPOptions       `toml:"http_options" json:"http_options,omitempty"`
	ProxyProtoOptions *ProxyProtoOptions `toml:"proxy_proto_options" json:"proxy_proto_options,omitempty"`
}

// Concurrency is a service's load limits per machine.
type Concurrency struct {
	Type      string `toml:"type" json:"type,omitempty"` // connections (default) or requests
	SoftLimit int    `toml:"soft_limit" json:"soft_limit,omitempty"`
	HardLimit int    `toml:"hard_limit" json:"hard_limit,omitempty"`
}

// TLSOptions narrows the TLS of a port.
type TLSOptions struct {
	ALPN              []string `toml:"alpn" json:"alpn,omitempty"`
	Versions          []string `toml:"versions" json:"versions,omitempty"`
	DefaultSelfSigned *bool    `toml:"default_self_signed" json:"default_self_signed,omitempty"`
}

// HTTPOptions shapes the HTTP of a port.
type HTTPOptions struct {
	H2Backend          *bool            `toml:"h2_backend" json:"h2_backend,omitempty"`
	IdleTimeout        *int             `toml:"idle_timeout" json:"idle_timeout,omitempty"` // seconds
	Sticky             *bool            `toml:"sticky" json:"sticky,omitempty"`
	Compress           *bool            `toml:"compress" json:"compress,omitempty" later:"the router does not compress; the app may"`
	HeadersReadTimeout *int             `toml:"headers_read_timeout" json:"headers_read_timeout,omitempty" later:"the router has one limit for all"`
	Response           *HTTPResponse    `toml:"response" json:"response,omitempty" later:"the router does not change the headers of answers"`
	ReplayCache        []map[string]any `toml:"replay_cache" json:"replay_cache,omitempty" later:"replays are not remembered"`
}

// HTTPResponse changes the headers of answers.
type HTTPResponse struct {
	Headers  map[string]any `toml:"headers" json:"headers,omitempty"` // string, list of strings, or false
	Pristine *bool          `toml:"pristine" json:"pristine,omitempty"`
}

// ProxyProtoOptions chooses the version of the PROXY protocol.
type ProxyProtoOptions struct {
	Version string `toml:"version" json:"version,omitempty"` // v1 (default) or v2
}

// TCPCheck is one of [[services.tcp_checks]]: the times of any check.
type TCPCheck struct {
	Interval     *api.Duration `toml:"interval,ms" json:"interval,omitempty"`         // default 15s
	Timeout      *api.Duration `toml:"timeout,ms" json:"timeout,omitempty"`           // default 2s
	GracePeriod  *api.Duration `toml:"grace_period,ms" json:"grace_period,omitempty"` // default 1s
	RestartLimit int           `toml:"restart_limit" json:"restart_limit,omitempty" later:"a failing check does not restart a machine"`
}

// HTTPCheck is one of the HTTP checks of a service.
type HTTPCheck struct {
	TCPCheck
	Method        string  `toml:"method" json:"method,omitempty"` // default GET
	Path          string  `toml:"path" json:"path,omitempty"`     // default /
	Protocol      string  `toml:"protocol" json:"protocol,omitempty"`
	TLSSkipVerify bool    `toml:"tls_skip_verify" json:"tls_skip_verify,omitempty"`
	TLSServerName string  `toml:"tls_server_name" json:"tls_server_name,omitempty"`
	Headers       Headers `toml:"headers" json:"headers,omitempty"`
}

// NamedCheck is one of [checks.NAME].
type NamedCheck struct {
	Type string `toml:"type" json:"type,omitempty"`      // tcp or http
	Kind string `toml:"kind" json:"kind,omitempty"`      // informational or readiness
	Port int    `toml:"port,text" json:"port,omitempty"` // default: the first service's
	HTTPCheck
	Processes []string `toml:"processes" json:"processes,omitempty"`
}

// MachineCheck is a machine that tests another.
type MachineCheck struct {
	Command     []string      `toml:"command,one" json:"command,omitempty"`
	Image       string        `toml:"image" json:"image,omitempty"`
	Entrypoint  []string      `toml:"entrypoint,one" json:"entrypoint,omitempty"`
	KillSignal  string        `toml:"kill_signal" json:"kill_signal,omitempty"`
	KillTimeout *api.Duration `toml:"kill_timeout,s" json:"kill_timeout,omitempty"`
}

// File is one of [[files]]: guest_path, and one of the three sources.
type File struct {
	GuestPath  string   `toml:"guest_path" json:"guest_path,omitempty"`
	LocalPath  string   `toml:"local_path" json:"local_path,omitempty"`   // from the configuration's folder
	RawValue   string   `toml:"raw_value" json:"raw_value,omitempty"`     // the content as it is
	SecretName string   `toml:"secret_name" json:"secret_name,omitempty"` // a secret that holds the content in base64
	Processes  []string `toml:"processes" json:"processes,omitempty"`
}

// Restart is one of [[restart]].
type Restart struct {
	Policy    string   `toml:"policy" json:"policy,omitempty"` // always, on-failure or never
	Retries   int      `toml:"retries" alias:"max_retries" json:"retries,omitempty"`
	Processes []string `toml:"processes" json:"processes,omitempty"`
}

// VM is one of [[vm]]: a size, and what differs from it.
type VM struct {
	Size          string   `toml:"size" json:"size,omitempty"`           // shared-cpu-1x (default) … performance-16x
	Memory        Memory   `toml:"memory" json:"memory,omitempty"`       // "512mb", "1gb", or a number of MiB
	MemoryMB      int      `toml:"memory_mb" json:"memory_mb,omitempty"` // MiB; memory is the newer form
	CPUKind       string   `toml:"cpu_kind" json:"cpu_kind,omitempty"`   // shared or performance
	CPUs          int      `toml:"cpus" json:"cpus,omitempty"`
	PersistRootfs string   `toml:"persist_rootfs" json:"persist_rootfs,omitempty"` // never (default), restart, always
	GPUs          int      `toml:"gpus" json:"gpus,omitempty"`
	GPUKind       string   `toml:"gpu_kind" alias:"gpu-kind" json:"gpu_kind,omitempty"`
	KernelArgs    []string `toml:"kernel_args,one" json:"kernel_args,omitempty" later:"the sandbox's kernel takes no arguments"`
	DedicationID  string   `toml:"host_dedication_id" json:"host_dedication_id,omitempty" later:"machines are not tied to hosts"`
	Processes     []string `toml:"processes" json:"processes,omitempty"`
}

// Static is one of [[statics]].
type Static struct {
	GuestPath     string `toml:"guest_path" json:"guest_path,omitempty"`
	URLPrefix     string `toml:"url_prefix" json:"url_prefix,omitempty"`
	TigrisBucket  string `toml:"tigris_bucket" json:"tigris_bucket,omitempty"`
	IndexDocument string `toml:"index_document" json:"index_document,omitempty"`
}

// Metrics is one of [[metrics]].
type Metrics struct {
	Port      int      `toml:"port,text" json:"port,omitempty"`
	Path      string   `toml:"path" json:"path,omitempty"`
	HTTPS     bool     `toml:"https" json:"https,omitempty"`
	Processes []string `toml:"processes" json:"processes,omitempty"`
}
