package deploy

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine"
)

// Config joins a Deployer with its neighbours. Apps, Machines and Images are
// required.
type Config struct {
	Apps     *app.Store
	Machines Machines
	Images   Images
	// Volumes gives machines volumes. Default: each mount must name one that is free.
	Volumes Volumes
	// Logs has the machines' last lines. Default: none are shown.
	Logs Logs
	// Router tells when a machine is drained. Default: it is taken for drained.
	Router Router
	// Forget is called when an app has been destroyed, for what others keep of
	// it, such as its logs. Default: nothing.
	Forget func(ctx context.Context, app string) error

	// CatchUp returns when Apps shows all that other nodes have written. Default:
	// nobody else writes.
	CatchUp func(ctx context.Context) error
	// CheckPorts says that the node can offer the public ports that the groups
	// ask for: an error of the API's if another app or program has one. Default:
	// all are taken for free.
	CheckPorts func(app string, groups map[string]api.MachineConfig) error

	// Node is this node's name: it owns the releases it carries out. Default "local".
	Node string
	// Region is where apps go that name no region. Default "": regions are not
	// told apart.
	Region string
	// Regions are those that have nodes. Default: Region is the only one.
	Regions func() []string
	// StandIn is the region where the machines of another are made while that one
	// has no node that takes any: the nearest, of those allowed if there are such.
	// Default: each region itself.
	StandIn func(region string, allowed []string) string
	// Fits fails where a region has no room for so many more machines of a group.
	// Default: there is always room.
	Fits func(app, group, region string, c *api.MachineConfig, more int) error
	// Gone says that a node has been away for so long that others take over its
	// releases. Default: no node ever is.
	Gone func(node string) bool
	// Fence writes down that these machines, whose nodes are out of reach, are
	// superseded: they are to be destroyed when their nodes come back. Default:
	// they are left as they are, with a warning.
	Fence func(ctx context.Context, app string, machines []api.Machine) error
	// ClaimEvery is how often to look for releases whose nodes are gone. Default 5 s.
	ClaimEvery time.Duration
	// RouteTimeout is how long to wait for edges to route to new machines. Default 10 s.
	RouteTimeout time.Duration

	// WaitTimeout is how long a machine may take to become healthy where the
	// request does not say. Default 5 minutes.
	WaitTimeout time.Duration
	// PortTimeout is how long a machine without checks may take to listen on its
	// services' ports where the request has no wait_timeout. Default 1 minute.
	PortTimeout time.Duration
	// DrainTimeout is how long requests in flight may go on. Default 30 s.
	DrainTimeout time.Duration
	// Settle is how long a machine with neither checks nor services must stay up
	// to count as healthy. Default 1.5 s.
	Settle time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	wrongFor, lag time.Duration // see their defaults; tests shorten them
}

// Machines is the machines of all nodes; *machine.Host is those of one. List
// tells by a machine's host_status "unreachable" that its node is out of reach.
type Machines interface {
	Reader
	Changer
	// Ready is closed when what an earlier run left has been found.
	Ready() <-chan struct{}
}

// Reader looks at machines.
type Reader interface {
	List(app string) []api.Machine
	Get(ctx context.Context, id string) (api.Machine, error)
	Versions(ctx context.Context, id string) ([]machine.Version, error)
	// Changes sends the id of each machine that changes.
	Changes(ctx context.Context) <-chan string
	Wait(ctx context.Context, id string, q machine.WaitQuery) (api.WaitResponse, error)
	// WaitHealthy fails as soon as health cannot come about by itself.
	WaitHealthy(ctx context.Context, id string) error
	// WaitPorts returns when the machine accepts connections on its services'
	// ports. The node that owns the machine does the dialling.
	WaitPorts(ctx context.Context, id string) error
}

// Changer acts on machines. Each method may be repeated.
type Changer interface {
	Create(ctx context.Context, app string, req api.CreateMachineRequest) (api.Machine, error)
	Update(ctx context.Context, id string, req api.CreateMachineRequest, nonce string) (api.Machine, error)
	Start(ctx context.Context, id, nonce string) (api.StartResponse, error)
	Stop(ctx context.Context, id string, req api.StopRequest, nonce string) error
	Destroy(ctx context.Context, id string, force bool, nonce string) error
	Cordon(ctx context.Context, id, nonce string) error
	Uncordon(ctx context.Context, id, nonce string) error
}

// Validator is a Machines that can say beforehand that a configuration will be
// refused. It is used where Machines offers it.
type Validator interface {
	Validate(c *api.MachineConfig) error
}

// Images is the node's image store; *image.Store is one.
type Images interface {
	Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error)
}

// Logs reads what machines said.
type Logs interface {
	Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error]
}

// Router knows what is under way to a machine.
type Router interface {
	// Drained returns when the router sends the cordoned machine nothing more
	// and nothing is in flight to it.
	Drained(ctx context.Context, machine string) error
}

// Witness is a Router that can say that all edges know of machines. It is used
// where Router offers it.
type Witness interface {
	// Routed returns when every edge that can be reached routes to the machines;
	// an error names the edges that do not.
	Routed(ctx context.Context, machines []string) error
}

func (c Config) check() (Config, error) {
	if c.Apps == nil || c.Machines == nil || c.Images == nil {
		return c, errors.New("cannot make deployer: apps, machines and images are all needed")
	}
	if c.Logs == nil {
		c.Logs = noLogs{}
	}
	if c.Router == nil {
		c.Router = noRouter{}
	}
	if c.CatchUp == nil {
		c.CatchUp = func(context.Context) error { return nil }
	}
	if c.Forget == nil {
		c.Forget = func(context.Context, string) error { return nil }
	}
	if c.CheckPorts == nil {
		c.CheckPorts = func(string, map[string]api.MachineConfig) error { return nil }
	}
	if c.StandIn == nil {
		c.StandIn = func(region string, _ []string) string { return region }
	}
	if c.Fits == nil {
		c.Fits = func(string, string, string, *api.MachineConfig, int) error { return nil }
	}
	if c.Gone == nil {
		c.Gone = func(string) bool { return false }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	orElse(&c.Node, "local")
	orElse(&c.ClaimEvery, 5*time.Second)
	orElse(&c.RouteTimeout, 10*time.Second)
	orElse(&c.WaitTimeout, 5*time.Minute)
	orElse(&c.PortTimeout, time.Minute)
	orElse(&c.DrainTimeout, 30*time.Second)
	orElse(&c.Settle, 1500*time.Millisecond)
	orElse(&c.wrongFor, defaultWrongFor)
	orElse(&c.lag, defaultLag)
	return c, nil
}

// orElse gives p the default if it has the zero value.
func orElse[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

type noLogs struct{}

func (noLogs) Logs(context.Context, string, api.LogQuery) iter.Seq2[api.LogLine, error] {
	return func(func(api.LogLine, error) bool) {}
}

type noRouter struct{}

func (noRouter) Drained(context.Context, string) error { return nil }
