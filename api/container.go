package api

// The types of this file are read whole, so that a client's request is understood
// in every field, and refused in words: a machine of Perigee holds one image. One
// container alone, without what only several can have, is taken as the machine's own
// process.

// Container is one of several containers of a machine.
type Container struct {
	Name         string                 `json:"name,omitempty"`
	Image        string                 `json:"image,omitempty"`
	Exec         []string               `json:"exec,omitempty"`
	Entrypoint   []string               `json:"entrypoint,omitempty"`
	Cmd          []string               `json:"cmd,omitempty"`
	User         string                 `json:"user,omitempty"`
	Env          map[string]string      `json:"env,omitempty"`
	Secrets      []ProcessSecret        `json:"secrets,omitempty"`
	EnvFrom      []EnvFrom              `json:"env_from,omitempty"`
	Files        []File                 `json:"files,omitempty"`
	Restart      *Restart               `json:"restart,omitempty"`
	Stop         *StopConfig            `json:"stop,omitempty"`
	DependsOn    []ContainerDependency  `json:"depends_on,omitempty"`
	Healthchecks []ContainerHealthcheck `json:"healthchecks,omitempty"`
	Mounts       []ContainerMount       `json:"mounts,omitempty"`
}

// ContainerDependency says after which container another one starts.
type ContainerDependency struct {
	Name      string `json:"name"`
	Condition string `json:"condition,omitempty" enum:",exited_successfully,healthy,started"`
}

// ContainerMount puts a volume of the machine into a container.
type ContainerMount struct {
	Name string `json:"name"`
	Path string `json:"path"`
}

// ContainerHealthcheck is a check of one container.
type ContainerHealthcheck struct {
	Name             string         `json:"name,omitempty"`
	Interval         int64          `json:"interval,omitempty" doc:"Seconds"`
	GracePeriod      int64          `json:"grace_period,omitempty" doc:"Seconds"`
	SuccessThreshold int            `json:"success_threshold,omitempty"`
	FailureThreshold int            `json:"failure_threshold,omitempty"`
	Timeout          int64          `json:"timeout,omitempty" doc:"Seconds"`
	Kind             string         `json:"kind,omitempty" enum:",readiness,liveness"`
	Unhealthy        string         `json:"unhealthy,omitempty" enum:",stop"`
	HTTP             *ContainerHTTP `json:"http,omitempty"`
	TCP              *ContainerTCP  `json:"tcp,omitempty"`
	Exec             *ContainerExec `json:"exec,omitempty"`
}

// ContainerHTTP checks a container by a request.
type ContainerHTTP struct {
	Port          int           `json:"port"`
	Method        string        `json:"method,omitempty"`
	Path          string        `json:"path,omitempty"`
	Headers       []CheckHeader `json:"headers,omitempty"`
	Scheme        string        `json:"scheme,omitempty" enum:",http,https"`
	TLSSkipVerify *bool         `json:"tls_skip_verify,omitempty"`
	TLSServerName string        `json:"tls_server_name,omitempty"`
}

// ContainerTCP checks a container by a connection.
type ContainerTCP struct {
	Port int `json:"port"`
}

// ContainerExec checks a container by a command.
type ContainerExec struct {
	Command []string `json:"command"`
}

// ContainerVolume is storage that the containers of a machine share.
type ContainerVolume struct {
	Name    string         `json:"name,omitempty"`
	TempDir *ContainerTemp `json:"temp_dir,omitempty"`
	Image   string         `json:"image,omitempty"`
}

// ContainerTemp is storage that goes with the machine.
type ContainerTemp struct {
	StorageType string `json:"storage_type,omitempty" enum:",disk,memory"`
	SizeMB      int    `json:"size_mb,omitempty"`
}
