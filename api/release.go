package api

import "time"

// What a release has become.
const (
	ReleasePending    = "pending"
	ReleaseRunning    = "running"
	ReleaseComplete   = "complete"
	ReleaseFailed     = "failed"
	ReleaseRolledBack = "rolled_back"
)

// Release is one immutable version of an app: an image by digest and a
// configuration. A rollback makes a new release with the content of an older
// one. All of this file is Perigee's own addition to the Machines API.
type Release struct {
	App         string                   `json:"app"`
	Version     int                      `json:"version" doc:"1, 2, 3 …"`
	Status      string                   `json:"status" enum:"pending,running,complete,failed,rolled_back"`
	Reason      string                   `json:"reason,omitempty" doc:"Why it failed, in words"`
	Description string                   `json:"description,omitempty"`
	Image       string                   `json:"image" doc:"Reference with digest"`
	Groups      map[string]MachineConfig `json:"groups" doc:"Machine configuration by process group"`
	Counts      map[string]int           `json:"counts,omitempty" doc:"Machines wanted by process group, in all regions together"`
	Regions     []string                 `json:"regions,omitempty" doc:"Regions that the app may be in, the primary one first"`
	Spread      Spread                   `json:"spread,omitempty" doc:"Machines wanted by process group and region"`
	Strategy    string                   `json:"strategy" enum:"rolling,immediate,canary,bluegreen"`
	Definition  map[string]any           `json:"definition,omitempty" doc:"The app's configuration as it was posted"`
	User        string                   `json:"user,omitempty"`
	Recorded    bool                     `json:"recorded,omitempty" doc:"A client carries it out, machine by machine"`
	CreatedAt   time.Time                `json:"created_at"`
	FinishedAt  *time.Time               `json:"finished_at,omitempty"`
}

// Spread is how many machines there are to be, by process group and region.
type Spread map[string]map[string]int

// Total returns the machines of each process group in all regions together.
func (s Spread) Total() map[string]int {
	out := make(map[string]int, len(s))
	for group, regions := range s {
		out[group] = 0
		for _, n := range regions {
			out[group] += n
		}
	}
	return out
}

// DeployRequest asks for a new release (POST /v1/apps/{app}/releases). The
// answer is a stream of [Progress] lines that ends with Done or Error; closing
// the stream does not stop the deploy.
type DeployRequest struct {
	Image             string                   `json:"image" doc:"Reference of the image; empty keeps the newest release's"`
	Groups            map[string]MachineConfig `json:"groups" doc:"Machine configuration by process group; empty keeps the newest release's"`
	Counts            map[string]int           `json:"counts,omitempty" doc:"Machines by process group, in all regions together; default the number there is, else 1"`
	Regions           []string                 `json:"regions,omitempty" doc:"Regions that the app is to be in: machines elsewhere go, and a region that has none gets one. Default: where it is"`
	Spread            Spread                   `json:"spread,omitempty" doc:"Machines by process group and region; for the groups named it counts more than counts and regions"`
	PrimaryRegion     string                   `json:"primary_region,omitempty" doc:"Where a first release without regions goes, and which region goes first; default the node's"`
	Strategy          string                   `json:"strategy,omitempty" enum:",rolling,immediate,canary,bluegreen"`
	MaxUnavailable    float64                  `json:"max_unavailable,omitempty" doc:"Machines (1 or more) or a share (under 1) taken at a time; default 0.33"`
	WaitTimeout       *Duration                `json:"wait_timeout,omitempty" doc:"Per machine until its checks pass; default 5m"`
	ReleaseCommand    []string                 `json:"release_command,omitempty" doc:"Run once in a machine of its own before the release goes out"`
	ReleaseCmdTimeout *Duration                `json:"release_command_timeout,omitempty"`
	Description       string                   `json:"description,omitempty"`
	Definition        map[string]any           `json:"definition,omitempty"`
	FromVersion       int                      `json:"from_version,omitempty" doc:"Take image and configuration of this release (rollback)"`
	Hosts             []string                 `json:"hosts,omitempty" doc:"Custom names to answer to"`
}

// ScaleRequest changes the number and the size of an app's machines (POST
// /v1/apps/{app}/scale); the answer is a stream of [Progress]. Zero values
// change nothing.
type ScaleRequest struct {
	Counts   map[string]int `json:"counts,omitempty" doc:"Machines by process group"`
	Regions  []string       `json:"regions,omitempty" doc:"Regions that the counts are spread over; the other regions keep what they have. Default: all that the app is in"`
	Group    string         `json:"group,omitempty" doc:"Group whose size changes; default all"`
	CPUs     int            `json:"cpus,omitempty"`
	MemoryMB int            `json:"memory_mb,omitempty"`
	CPUKind  string         `json:"cpu_kind,omitempty" enum:",shared,performance"`
}

// RollbackRequest asks for a new release from an older one (POST
// /v1/apps/{app}/rollback); the answer is a stream of [Progress].
type RollbackRequest struct {
	Version int `json:"version,omitempty" doc:"Release to go back to; default the newest complete one before the present"`
}

// Progress is one line of a long work's stream (application/x-ndjson).
type Progress struct {
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind" enum:"step,layer,build,log,machine,warning,done,error"`
	ID      string    `json:"id,omitempty" doc:"What the line is about: a layer's digest, a build step, a machine"`
	Message string    `json:"message,omitempty"`
	Current int64     `json:"current,omitempty" doc:"Bytes or steps done"`
	Total   int64     `json:"total,omitempty"`
	Image   string    `json:"image,omitempty" doc:"With kind done of an image work: its reference with digest"`
	Release *Release  `json:"release,omitempty" doc:"With kind done of a deploy"`
	Error   *Error    `json:"error,omitempty"`
}

// ImageInfo is one image that a node keeps (GET /v1/images).
type ImageInfo struct {
	Ref      string    `json:"ref"`
	Digest   string    `json:"digest"`
	Size     int64     `json:"size" doc:"Bytes of the root file system"`
	Created  time.Time `json:"created,omitempty"`
	LastUsed time.Time `json:"last_used,omitempty"`
	InUse    bool      `json:"in_use"`
}

// PullRequest asks the node to get an image from a registry (POST
// /v1/images/pull); the answer is a stream of [Progress].
type PullRequest struct {
	Image string `json:"image"`
}

// LogLine is one line that a machine, or the platform about it, said.
type LogLine struct {
	Time    time.Time `json:"time"`
	App     string    `json:"app"`
	Region  string    `json:"region"`
	Machine string    `json:"machine"`
	Source  string    `json:"source,omitempty" doc:"app or platform"`
	Text    string    `json:"text"`
}

// NodeInfo says what a node is and has (GET /v1/node).
type NodeInfo struct {
	Name      string    `json:"name"`
	Region    string    `json:"region"`
	Version   string    `json:"version"`
	Domain    string    `json:"domain"`
	Registry  string    `json:"registry" doc:"Host and port of the built-in registry"`
	HTTP      string    `json:"http,omitempty" doc:"Address that answers public port 80"`
	HTTPS     string    `json:"https,omitempty" doc:"Address that answers public port 443"`
	CACert    string    `json:"ca_cert,omitempty" doc:"PEM of the local CA, where one is used"`
	CPUs      int       `json:"cpus"`
	MemoryMB  int       `json:"memory_mb"`
	Machines  int       `json:"machines"`
	StartedAt time.Time `json:"started_at"`
	Problems  []Problem `json:"problems,omitempty"`
}

// Region is a place where there are nodes (GET /v1/platform/regions).
type Region struct {
	Code      string  `json:"code"`
	Name      string  `json:"name" doc:"The city, for people"`
	Latitude  float64 `json:"latitude"`
	Longitude float64 `json:"longitude"`
	Gateway   bool    `json:"gateway_available" doc:"An edge is up here"`
	Capacity  int     `json:"capacity" doc:"Machines of 256 MiB that there is room for"`
	Nodes     int     `json:"nodes" doc:"Nodes here (Perigee)"`
	NodesUp   int     `json:"nodes_up" doc:"Of them, those that are up (Perigee)"`
	Machines  int     `json:"machines" doc:"Machines here; with app_name, of that app (Perigee)"`
}

// RegionList is the answer of GET /v1/platform/regions.
type RegionList struct {
	Regions []Region `json:"regions"`
	Nearest string   `json:"nearest" doc:"The region that answers"`
}

// Problem is something that a node lacks, and the cure.
type Problem struct {
	Name  string `json:"name"`
	Fault string `json:"fault"`
	Cure  string `json:"cure"`
	Fatal bool   `json:"fatal"`
}
