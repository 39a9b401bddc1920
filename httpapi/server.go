package httpapi

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
	"github.com/perigee-run/perigee/token"
)

// Config joins the face with the rooms. Apps, Deploys, Machines, Images and
// Node are required.
type Config struct {
	Apps     *app.Store
	Deploys  Deploys
	Machines Machines
	Images   Images
	Node     Node
	// Regions knows the regions of the cloud. Default: the node's own is all.
	Regions Regions
	// Placer knows where machines would go. Default: questions are refused in words.
	Placer Placer
	// Certificates knows those that the cloud gets by itself. Default: it gets none.
	Certificates Certificates
	// Resolver asks the DNS about custom names. Default: net.DefaultResolver.
	Resolver Resolver
	// Cluster is the nodes of the cloud. Default: calls about them are refused in
	// words.
	Cluster Cluster
	// Builder builds Dockerfiles. Default: builds are refused in words.
	Builder Builder
	// Logs reads what machines said. Default: nothing.
	Logs Logs
	// Peers are the laptops in the private networks. Default: none can enter.
	Peers Peers
	// Audit keeps who did what. Default: nobody does.
	Audit Audit
	// Tokens are those that reach less than everything. Default: there are none.
	Tokens *token.Store
	// Issuer signs words about machines. Default: none are signed.
	Issuer *token.Issuer
	// SSH leads to the machines' SSH servers, SSHAuthority signs for those who may
	// come in. Default: SSH is refused in words.
	SSH          SSH
	SSHAuthority SSHAuthority
	// Volumes is the volumes of all nodes. Default: calls about them are refused.
	Volumes Volumes
	// Address gives the name under which an app answers and the address to open
	// in a browser, "" where it has none. Default: none.
	Address func(app string) (hostname, url string)
	// ImagesInUse names the digests that must stay. Default: none.
	ImagesInUse func() map[string]bool
	// AskAgain is how often a call that lasts is asked whether its token still lets it
	// in. Default 15 s.
	AskAgain time.Duration
	// MaxBody limits the bytes of a JSON body. Default 2 MiB.
	MaxBody int64
	// Logger defaults to slog.Default(). Requests are logged at debug level.
	Logger *slog.Logger
}

// Deploys carries out releases; *deploy.Deployer is one.
type Deploys interface {
	Deploy(ctx context.Context, app string, req api.DeployRequest, progress func(api.Progress)) (api.Release, error)
	Rollback(ctx context.Context, app string, to int, progress func(api.Progress)) (api.Release, error)
	Scale(ctx context.Context, app string, req api.ScaleRequest, progress func(api.Progress)) (api.Release, error)
	RecordRelease(ctx context.Context, app, user string, req api.RecordReleaseRequest) (api.Release, error)
	UpdateRelease(ctx context.Context, app string, version int, req api.UpdateReleaseRequest) (api.Release, error)
	DestroyApp(ctx context.Context, app string) error
}

// Machines is the machines that the API is for: *fleet.Fleet is those of all
// nodes, *machine.Host those of one.
type Machines interface {
	Reader
	Changer
	Leaser
	Tagger
}

// Reader looks at machines and into them.
type Reader interface {
	List(app string) []api.Machine
	Get(ctx context.Context, id string) (api.Machine, error)
	Events(ctx context.Context, id string) ([]api.Event, error)
	Versions(ctx context.Context, id string) ([]machine.Version, error)
	Processes(ctx context.Context, id string) ([]api.ProcessStat, error)
	Memory(ctx context.Context, id string) (api.MachineMemory, error)
	Wait(ctx context.Context, id string, q machine.WaitQuery) (api.WaitResponse, error)
	Exec(ctx context.Context, id string, req api.ExecRequest) (api.ExecResponse, error)
	ExecStream(ctx context.Context, id string, spec machine.ExecSpec, streams sandbox.Streams) (int, error)
}

// finder is a Machines that knows whose a machine is without asking another node
// for all of it.
type finder interface {
	AppOf(ctx context.Context, id string) (string, bool)
}

// Changer acts on machines.
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
}

// Leaser gives short exclusive rights to machines.
type Leaser interface {
	GetLease(ctx context.Context, id string) (api.Lease, error)
	AcquireLease(ctx context.Context, id, owner string, req api.LeaseRequest, nonce string) (api.Lease, error)
	ReleaseLease(ctx context.Context, id, nonce string) error
}

// Tagger keeps machines' metadata.
type Tagger interface {
	Metadata(ctx context.Context, id string) (map[string]string, error)
	SetMetadata(ctx context.Context, id string, all map[string]string, nonce string) error
	PatchMetadata(ctx context.Context, id string, patch map[string]*string, nonce string) error
}

// Images is the node's image store; *image.Store is one.
type Images interface {
	Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error)
	// BuiltIn tells in which repository of the built-in registry a reference is.
	BuiltIn(ref string) (repository string, ok bool)
	// Loopback reports whether a reference is of another registry, on this server's loopback.
	Loopback(ref string) bool
	Import(ctx context.Context, r io.Reader, name string, progress func(image.Progress)) (image.Image, error)
	List() []image.Image
	Remove(ctx context.Context, digest string) error
}

// Builder builds the folder that context, a tar, holds, and returns the image's
// reference by digest. In the built-in registry it reads what scope may read.
type Builder interface {
	Build(ctx context.Context, app string, scope token.Scope, o api.BuildOptions, context io.Reader, progress func(api.Progress)) (string, error)
}

// Logs reads what machines said.
type Logs interface {
	Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error]
}

// Node is the daemon itself.
type Node interface {
	Info(ctx context.Context) (api.NodeInfo, error)
	// Stop begins to end the daemon, and returns before it has ended, so that
	// the caller gets an answer. With machines they are stopped first.
	Stop(ctx context.Context, machines bool) error
	// Upgrade begins to put the program on the disk of a node, by its name, in the
	// place of the one that runs, and returns its version.
	Upgrade(ctx context.Context, node string) (string, error)
}

// Server is the API. Make its handlers with [Server.Handler], and call [Server.Run] while
// they serve.
type Server struct {
	cfg    Config
	orders *orders
	rates  *rates   // nil: no bound
	naps   sync.Map // the ids of machines that are being put to sleep at their own word
	doc    *huma.OpenAPI
	json   []byte // the document
	yaml   []byte
	page   []byte // the document for people
}

// The rooms fit as they are.
var (
	_ Machines = (*machine.Host)(nil)
	_ Machines = (*fleet.Fleet)(nil)
	_ finder   = (*fleet.Fleet)(nil)
	_ Images   = (*image.Store)(nil)
)

// New checks the configuration and makes the OpenAPI document.
func New(cfg Config) (*Server, error) {
	if cfg.Apps == nil || cfg.Deploys == nil || cfg.Machines == nil || cfg.Images == nil || cfg.Node == nil {
		return nil, errors.New("cannot make API: apps, deploys, machines, images and node are all needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.AskAgain == 0 {
		cfg.AskAgain = 15 * time.Second
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 2 << 20
	}
	if cfg.Address == nil {
		cfg.Address = func(string) (string, string) { return "", "" }
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.ImagesInUse == nil {
		cfg.ImagesInUse = func() map[string]bool { return nil }
	}
	s := &Server{cfg: cfg, orders: newOrders()}
	return s, s.document()
}

// Handler serves the API to those whom auth lets in. A node has one for its TCP
// port and one for its unix socket.
func (s *Server) Handler(auth Authenticator) http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+r.path, s.serve(r, auth))
	}
	return s.guard(mux)
}

// serve authenticates and calls the route's endpoint.
func (s *Server) serve(r route, auth Authenticator) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := &call{server: s, route: &r, w: w, r: req, warned: map[string]bool{}}
		c.about = c.want()
		defer c.audit(time.Now())
		if r.access != open {
			var err error
			if c.who, err = auth.Authenticate(req); err != nil {
				w.Header().Set("WWW-Authenticate", `Bearer realm="perigee", Basic realm="perigee"`)
				c.fail(err)
				return
			}
			if err = c.may(c.about); err == nil {
				err = s.slow(c, auth)
			}
			if err == nil {
				err = c.orgThere()
			}
			if err != nil {
				c.fail(err)
				return
			}
			ctx, end := c.whileLetIn(auth)
			defer end()
			c.r = req.WithContext(fleet.WithCaller(ctx, fleet.Caller{Name: c.who.Name, Node: c.who.Node}))
			c.auditBegin()
		}
		if err := r.endpoint.serve(c); err != nil {
			c.fail(err)
		}
	})
}
