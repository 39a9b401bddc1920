package fleet

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
)

// Config joins a Fleet with its neighbours. Self, Local, Peers, Summaries and
// Nodes are required.
type Config struct {
	// Self is this node's name.
	Self string
	// Local is this node's own machines.
	Local     Local
	Peers     Peers
	Summaries Summaries
	Nodes     Nodes
	// Place chooses the node of a new machine. Its error is the answer. Default:
	// this node.
	Place func(ctx context.Context, app string, req api.CreateMachineRequest) (node string, err error)
	// Router is this node's. Default: it sends nothing to any machine.
	Router Router
	// Forget drops what this node keeps of an app that was destroyed, such as
	// its logs. Default: nothing.
	Forget func(ctx context.Context, app string) error
	// SSH asks for a place at the SSH server of one of this node's machines.
	// Default: there is none.
	SSH func(ctx context.Context, id string) (Visit, error)
	// Patience is how long a node that says nothing is waited for. Default 2.5 s.
	Patience time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Local is one node's machines; *machine.Host is one.
type Local interface {
	Looker
	Changer
	Ready() <-chan struct{}
	Validate(c *api.MachineConfig) error
}

// Looker looks at one node's machines and into them.
type Looker interface {
	List(app string) []api.Machine
	Get(ctx context.Context, id string) (api.Machine, error)
	MadeBy(app, key string) (id string)
	Status(id string) (machine.Status, bool)
	Statuses() []machine.Status
	Changes(ctx context.Context) <-chan string
	Events(ctx context.Context, id string) ([]api.Event, error)
	Versions(ctx context.Context, id string) ([]machine.Version, error)
	Processes(ctx context.Context, id string) ([]api.ProcessStat, error)
	Wait(ctx context.Context, id string, q machine.WaitQuery) (api.WaitResponse, error)
	WaitHealthy(ctx context.Context, id string) error
	WaitPorts(ctx context.Context, id string) error
	Metadata(ctx context.Context, id string) (map[string]string, error)
	GetLease(ctx context.Context, id string) (api.Lease, error)
	Deleted(ctx context.Context, app string) []api.Machine
	Memory(ctx context.Context, id string) (api.MachineMemory, error)
}

// Changer acts on one node's machines.
type Changer interface {
	Create(ctx context.Context, app string, req api.CreateMachineRequest) (api.Machine, error)
	Update(ctx context.Context, id string, req api.CreateMachineRequest, nonce string) (api.Machine, error)
	Start(ctx context.Context, id, nonce string) (api.StartResponse, error)
	Stop(ctx context.Context, id string, req api.StopRequest, nonce string) error
	Restart(ctx context.Context, id string, o machine.RestartOptions, nonce string) error
	Pause(ctx context.Context, id, nonce string) error
	Suspend(ctx context.Context, id, nonce string) error
	Signal(ctx context.Context, id string, req api.SignalRequest, nonce string) error
	Cordon(ctx context.Context, id, nonce string) error
	Uncordon(ctx context.Context, id, nonce string) error
	Destroy(ctx context.Context, id string, force bool, nonce string) error
	SetMemory(ctx context.Context, id string, mb int, nonce string) error
	ReclaimMemory(ctx context.Context, id string, mb int, nonce string) (freed int, err error)
	SetMetadata(ctx context.Context, id string, all map[string]string, nonce string) error
	PatchMetadata(ctx context.Context, id string, patch map[string]*string, nonce string) error
	AcquireLease(ctx context.Context, id, owner string, req api.LeaseRequest, nonce string) (api.Lease, error)
	ReleaseLease(ctx context.Context, id, nonce string) error
	Exec(ctx context.Context, id string, req api.ExecRequest) (api.ExecResponse, error)
	ExecStream(ctx context.Context, id string, spec machine.ExecSpec, streams sandbox.Streams) (int, error)
}

// Peers reaches other nodes. Client does not connect yet; what it returns is
// kept by Peers and used again.
type Peers interface {
	Client(node string) (*api.Client, error)
}

// Summaries is what all nodes published of their machines; *Index is one. This
// node's own may be among them, and are not looked at.
type Summaries interface {
	Find(id string) (machine.Summary, bool)
	// List returns the machines of an app, or all with "", in no order.
	List(app string) []machine.Summary
	// Changes sends the id of every machine, and then of each that changes.
	Changes(ctx context.Context) <-chan string
	// Next is closed with the next change of anything.
	Next() <-chan struct{}
}

// Node is what a Fleet needs to know of a node.
type Node struct {
	Name, Region string
	// Up says that it was heard of lately.
	Up bool
	// Cordoned says that it gets no new machines.
	Cordoned bool
	// Edge says that visitors enter there: its router sends requests to machines
	// of all nodes.
	Edge bool
}

// Nodes knows the nodes, this one among them.
type Nodes interface {
	Nodes() []Node
	// Up is what Nodes says of one node, without the work for all others.
	Up(node string) bool
}

// Router is one node's router.
type Router interface {
	// Drained returns when the router sends the cordoned machine nothing more
	// and nothing is in flight to it.
	Drained(ctx context.Context, machine string) error
	// Routed returns when the router can send the machine requests.
	Routed(ctx context.Context, machine string) error
}

func (c Config) check() (Config, error) {
	if c.Self == "" || c.Local == nil || c.Peers == nil || c.Summaries == nil || c.Nodes == nil {
		return c, errors.New("cannot make fleet: self, local, peers, summaries and nodes are all needed")
	}
	if c.Place == nil {
		c.Place = func(context.Context, string, api.CreateMachineRequest) (string, error) { return c.Self, nil }
	}
	if c.Router == nil {
		c.Router = noRouter{}
	}
	if c.Forget == nil {
		c.Forget = func(context.Context, string) error { return nil }
	}
	if c.SSH == nil {
		c.SSH = func(_ context.Context, id string) (Visit, error) {
			return nil, api.Errorf(api.CodeUnsupported, "machine %q is on a node without an SSH server", id)
		}
	}
	if c.Patience <= 0 {
		c.Patience = 2500 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

type noRouter struct{}

func (noRouter) Drained(context.Context, string) error { return nil }
func (noRouter) Routed(context.Context, string) error  { return nil }
