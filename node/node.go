package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/anycast"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/audit"
	"github.com/perigee-run/perigee/build"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/dns"
	"github.com/perigee-run/perigee/dns/zone"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/handover"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/perigee-run/perigee/logs"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/perigee-run/perigee/peers"
	"github.com/perigee-run/perigee/placement"
	"github.com/perigee-run/perigee/router"
	"github.com/perigee-run/perigee/router/distance"
	"github.com/perigee-run/perigee/sandbox"
	"github.com/perigee-run/perigee/ssh"
	"github.com/perigee-run/perigee/token"
	"github.com/perigee-run/perigee/volume"
	"golang.org/x/sync/errgroup"
)

// Node is one server's rooms, joined.
type Node struct {
	cfg    Config
	log    *slog.Logger
	began  time.Time
	since  time.Time          // when this process became the node
	stop   context.CancelFunc // ends Run
	last   atomic.Bool        // machines end with the node
	yields sync.Map           // ids of machines that others stand for, as the edges know
	lock   *os.File
	signed atomic.Bool // the lock names this process
	next   *handover.Succession

	// Works that end at a time of their own when the node changes hands.
	idle, mesh, bgp, door *stage

	tables sync.Mutex    // held while the router gets a table
	poke   chan struct{} // holds one token when a table is wanted

	token     string
	cluster   *cluster.Cluster
	catalog   *catalog.Catalog
	statuses  *catalog.Published[report]
	summaries *catalog.Published[machine.Summary]
	index     *fleet.Index
	indexed   chan struct{} // closed when index has what was known at the start
	seen      sync.Map      // node name → time.Time of its latest word, by our clock
	wire      *wire.Device
	peers     *peers.Store
	prober    *distance.Prober
	few       atomic.Bool // so few other nodes that each is probed oftener
	store     *logs.Store
	collector *logs.Collector
	images    *image.Store
	heirs     *heirs
	network   *mesh.Network
	sandbox   *sandbox.Client
	apps      *app.Store
	machines  *machine.Host
	shells    *ssh.Server

	volumes     *volume.Store
	saidVolumes *catalog.Published[volume.Summary]
	allVolumes  *fleet.Volumes

	fleet     *fleet.Fleet
	lines     *fleet.Lines
	moves     *placement.MoveTable
	healer    *placement.Healer
	healing   *placement.Lease       // which node decides
	asked     sync.Once              // the state, before machines are started again
	sayNow    chan struct{}          // holds one token when the status is to be said
	left      atomic.Bool            // draining, and no clients come in any more
	ill       atomic.Pointer[string] // why no clients are led to this edge; nil: they are
	faults    sync.Map               // what leads clients here and has failed, by name → its error
	lives     liveness
	wiring    sync.Mutex                          // held while the mesh gets its peers, so that no older list follows
	meshNodes atomic.Pointer[map[netip.Addr]bool] // the other nodes' addresses in the mesh
	router    *router.Router
	certs     *certificates
	zone      *zone.Server
	anycast   *anycast.Announcer
	resolver  *dns.Server
	builds    *build.Engine
	deploys   *deploy.Deployer
	api       *faces
	tokens    *token.Store
	passes    passes // of work for callers, in the registry
	issuer    *token.Issuer
	audit     *audit.Log
}

// New opens everything that the node keeps and joins the rooms. It fails
// before it changes anything that it could not put back.
func New(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, began: time.Now(), poke: make(chan struct{}, 1), indexed: make(chan struct{}), sayNow: make(chan struct{}, 1)}
	if n.since = cfg.since; n.since.IsZero() {
		n.since = n.began
	}
	n.next = n.newSuccession()
	if err := cfg.heritage.Begin(ctx, version.Version); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{
		n.openState, n.openImages, n.openHeirs, n.openNetwork, n.openSandbox, n.openVolumes, n.openMachines, n.openShells, n.openFleet, n.openHealer, n.openEdge, n.openClients, n.openDeploys, n.openAPI,
	} {
		if err := step(ctx); err != nil {
			if errors.Is(err, ErrRemoved) {
				n.endLeft(ctx)
				err = n.removed(err)
			} else if cfg.heritage == nil {
				n.withdraw(ctx)
			}
			n.close()
			return nil, err
		}
	}
	return n, nil
}

// withdraw removes what a start that failed has set up, unless machines of an
// earlier run still need it.
func (n *Node) withdraw(ctx context.Context) {
	if n.network == nil || len(machineNetworks{n.network}.Slots()) > 0 {
		return
	}
	n.leave(ctx)
}

// path is a path in the data directory.
func (n *Node) path(elem ...string) string {
	return filepath.Join(append([]string{n.cfg.Data}, elem...)...)
}

// openState takes the data directory, the token, the catalog, the log and the
// apps.
func (n *Node) openState(ctx context.Context) (err error) {
	if n.lock, err = n.takeLock(); err != nil {
		return err
	}
	if err := n.openCluster(); err != nil {
		return err
	}
	token, err := secretFile(n.path("token"), 24, true)
	if err != nil {
		return err
	}
	n.token = strings.TrimSpace(string(token))
	if n.catalog, err = catalog.Open(ctx, n.catalogConfig()); err != nil {
		return err
	}
	if err := n.openShared(ctx); err != nil {
		return err
	}
	n.store = logs.New(ctx, logs.Config{JetStream: n.catalog.JetStream(), Room: n.roomForLogs, Logger: n.log})
	if n.collector, err = logs.NewCollector(logs.CollectorConfig{Store: n.store, Logger: n.log}); err != nil {
		return err
	}
	pools, err := n.cfg.pools()
	if err != nil {
		return err
	}
	n.apps, err = app.New(app.Config{Catalog: n.catalog, KeyFile: n.path("secrets.key"), Identity: n.cfg.SecretsIdentity, Domain: n.cfg.Domain, Pools: pools, PrivateIP: n.privateIP})
	if err != nil {
		return err
	}
	if err := n.openAudit(ctx); err != nil {
		return err
	}
	return n.openTokens()
}

// privateIP is the address at which an org's machines reach an app.
func (n *Node) privateIP(org uint32, name string) netip.Addr {
	return mesh.ServiceAddr(n.cfg.IPv6, org, name)
}

// openShared takes this node's place among the others.
func (n *Node) openShared(ctx context.Context) (err error) {
	if err := n.cluster.Attach(ctx, n.catalog); err != nil {
		return err
	}
	if n.statuses, err = catalog.NewPublished[report](n.catalog, "status"); err != nil {
		return err
	}
	n.index = fleet.NewIndex()
	n.summaries, err = catalog.NewPublished[machine.Summary](n.catalog, "machines")
	return err
}

// roomForLogs says why nothing more may be logged, if the disk is almost full.
func (n *Node) roomForLogs() error { return n.catalog.Room(logs.Reserve) }

func (n *Node) openImages(context.Context) (err error) {
	n.images, err = image.New(image.Config{
		Dir: n.path("images"), Hosts: n.cfg.registryHosts(), IsHost: n.cfg.isRegistry, PlainHTTP: n.cfg.PlainHTTP, Private: n.privateNetworks, InUse: n.imagesInUse, Peers: imagePeers{n}, Logger: n.log,
		Overrides: map[string][]byte{"/etc/hosts": []byte("127.0.0.1 localhost\n::1 localhost\n"), "/etc/resolv.conf": nil},
	})
	return err
}

// privateNetworks are those of machines, laptops and the nodes' mesh.
func (n *Node) privateNetworks() []netip.Prefix {
	if n.network == nil {
		return []netip.Prefix{n.cfg.IPv6}
	}
	return []netip.Prefix{n.cfg.IPv6, n.network.Pool()}
}

// imagesInUse are the images that machines run and that a rollback may need.
func (n *Node) imagesInUse() map[string]bool {
	used := n.apps.Images(10)
	if n.machines != nil {
		for _, m := range n.machines.List("") {
			used[m.ImageRef.Digest] = true
		}
	}
	n.imagesOf(used)
	return used
}

func (n *Node) openNetwork(ctx context.Context) (err error) {
	pools, err := n.cfg.pools()
	if err != nil {
		return err
	}
	n.network, err = mesh.New(mesh.Config{
		Prefix: n.cfg.NetworkPrefix, Node: n.cfg.Name, NodeNumber: n.self().Number, OrgNumber: n.apps.OrgNumber, Wire: n.wireDevice(),
		IPv6: n.cfg.IPv6, HostPorts: n.cfg.hostPorts(), AppPools: pools, Dir: n.path("netns"), Logger: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.network.Setup(ctx); err != nil {
		n.network.Close()
		n.network = nil // it is not ours to take down
		return err
	}
	if err := n.openWire(ctx); err != nil {
		return err
	}
	var listen []netip.AddrPort
	for _, a := range n.network.ResolverAddrs() {
		listen = append(listen, netip.AddrPortFrom(a, 53))
	}
	n.resolver, err = dns.New(dns.Config{Listen: listen, Open: n.openDoor, Source: names{n}, Peers: n.peerNames, OrgOf: n.network.OrgOf, Private: []netip.Prefix{n.cfg.IPv6, n.network.Pool()}, Region: n.cfg.Region, Logger: n.log})
	return err
}

func (n *Node) openSandbox(ctx context.Context) (err error) {
	if err := mountMemory(n.path("sandbox")); err != nil {
		return err
	}
	n.sandbox, err = sandbox.New(sandbox.Config{Socket: n.path("sandbox.sock"), StateDir: n.path("sandbox"), Program: n.cfg.Sandbox, Cgroup: n.cfg.NetworkPrefix, Logger: n.log})
	if err != nil {
		return err
	}
	return n.sandbox.Ensure(ctx)
}

func (n *Node) openMachines(context.Context) error {
	records, err := catalog.NewLocal[machine.Record](n.catalog, "machines")
	if err != nil {
		return err
	}
	n.machines, err = machine.New(machine.Config{
		Dir: n.path("machines"), Node: n.cfg.Name, Region: n.cfg.Region,
		Sandbox: n.sandbox, Images: n.images, Networks: machineNetworks{n.network}, Records: records, Apps: settled{n}, Secrets: n.apps,
		Volumes:     n.volumes,
		Layers:      n.layers(),
		Console:     console{n.collector, n.store, n.cfg.Region, n.log},
		MayRun:      n.mayRun,
		Fallen:      n.fallen,
		Room:        n.roomForMemory,
		MaySleep:    n.maySleep,
		Named:       n.named,
		Nameservers: n.resolvers(), PublicIP: n.publicIP(), Door: n.path("door.sock"), Pool: n.cfg.Pool, SinkAfter: n.cfg.SinkAfter, Logger: n.log,
	})
	return err
}

// maySleep reports whether no request to the machine is in progress.
func (n *Node) maySleep(id string) bool {
	if n.router == nil {
		return true
	}
	busy, _ := n.activity(id)
	return busy == 0
}

// activity is what is in flight to a machine, with what an upgrade has left to
// the former process, and when the last of it ended.
func (n *Node) activity(id string) (int, time.Time) {
	busy, last := n.router.Activity(id)
	return busy + n.cfg.heritage.InFlight(id), last
}

func (n *Node) openEdge(ctx context.Context) (err error) {
	if n.certs, err = n.openCertificates(); err != nil {
		return err
	}
	sticky, err := secretFile(n.path("sticky.key"), 32, false)
	if err != nil {
		return err
	}
	inherited, own, err := n.routerSockets(ctx)
	if err != nil {
		return err
	}
	n.router = router.New(router.Config{
		Inherited: inherited,
		Waker:     waker{n}, Certificates: n.certs, Logger: n.log, Domain: n.cfg.Domain, Region: n.cfg.Region, Listen: n.cfg.listenMap(),
		HostListen: n.hostListen(), PeerAllowed: n.isNode, StickyKey: sticky, Own: own, OrgOf: n.orgOf, OnProblems: n.reportProblems,
	})
	return nil
}

// orgOf is the org of a machine or laptop that calls from the private network.
func (n *Node) orgOf(a netip.Addr) string {
	org, _ := n.network.OrgOf(a)
	return org
}

// waker wakes machines for the router while the node is to stay.
type waker struct{ n *Node }

// Wake implements router.Waker.
func (w waker) Wake(ctx context.Context, id string) (netip.Addr, error) {
	if w.n.last.Load() {
		return netip.Addr{}, errors.New("the node is being shut down")
	}
	if !w.n.next.Leaving() {
		if addr, err := w.n.machines.Wake(ctx, id); err == nil || !w.n.next.Leaving() {
			return addr, err
		}
	}
	return w.n.next.Ask(ctx, id)
}

func (n *Node) reportProblems(problems []router.Problem) {
	for _, p := range problems {
		n.log.Warn("the router cannot serve all that is configured", "app", p.App, "err", p.Err)
	}
}

func (n *Node) openDeploys(context.Context) (err error) {
	if err := os.RemoveAll(n.path("contexts")); err != nil { // of builds that a crash cut off
		return err
	}
	runtime := n.path("perigee-oci")
	if err := replaceLink(n.cfg.Sandbox, runtime); err != nil {
		return err
	}
	if len(n.cfg.Builder) > 0 {
		n.builds, err = build.New(build.Config{Dir: n.path("build"), Command: n.cfg.Builder, Runtime: runtime, PlainHTTP: append(n.cfg.PlainHTTP, n.cfg.registryHosts()...), Networks: n.stepNetworks, Nameservers: n.resolvers(), Log: n.log})
		if err != nil {
			return err
		}
	}
	n.deploys, err = n.newDeployer()
	return err
}

// replaceLink makes link point to target, at once.
func replaceLink(target, link string) error {
	tmp := link + ".new"
	os.Remove(tmp)
	if err := os.Symlink(target, tmp); err != nil {
		return fmt.Errorf("cannot link the build runtime: %w", err)
	}
	return os.Rename(tmp, link)
}

// Run works until ctx ends or something that the node cannot be without fails.
// Machines keep running when it returns. When another process takes the node
// over it returns once all that was under way here has ended.
func (n *Node) Run(ctx context.Context) error {
	ctx, n.stop = context.WithCancel(ctx)
	defer n.stop()
	sleep := placement.New(placement.Config{Host: sleeper{n}, PauseAfter: n.cfg.PauseAfter, StopAfter: n.cfg.StopAfter, Logger: n.log})
	n.idle, n.mesh, n.bgp, n.door = n.start(ctx, sleep.Run), n.start(ctx, n.keepMesh), n.start(ctx, n.keepBGP), n.start(ctx, n.serve)
	err := n.work(ctx)
	if errors.Is(err, errReplaced) {
		return n.handOver(ctx)
	}
	return n.finish(err)
}

// work is all that ends at once.
func (n *Node) work(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range append([]func(context.Context) error{
		n.machines.Run, n.keepTable, n.deploys.Run, n.resolver.Run, n.keepSandbox, n.api.Run, n.announce, n.awaitHeir, n.keepDrain, n.keepHealth,
		n.tokens.Run, n.keepMembership, n.keepCluster, n.keepStatus, n.keepSeen, n.keepSummaries, n.keepIndex, n.runHealer, n.keepVolumes, n.keepHeirs,
	}, slices.Concat(n.meshWorks(), n.clientWorks())...) {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// serve opens the ports once the machines are known.
func (n *Node) serve(ctx context.Context) error {
	for _, known := range []<-chan struct{}{n.machines.Ready(), n.indexed} {
		select {
		case <-known:
		case <-ctx.Done():
			return nil
		}
	}
	if err := n.refresh(); err != nil {
		return err
	}
	return n.router.Run(ctx)
}

// announce tells those who wait for it that the node serves: a predecessor, and
// systemd.
func (n *Node) announce(ctx context.Context) error {
	n.cfg.heritage.Answer(waker{n}.Wake)
	select {
	case <-n.router.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := errors.Join(signLock(n.lock), n.next.Own(socketName)); err != nil {
		return err
	}
	n.signed.Store(true)
	if err := n.cfg.heritage.Ready(); err != nil && canNotify() {
		return fmt.Errorf("cannot take over: %w", err) // systemd starts a new one
	}
	notify("READY=1")
	n.log.Info("node is up", "name", n.cfg.Name, "region", n.cfg.Region, "api", n.cfg.Listen, "after", time.Since(n.began).Round(time.Millisecond))
	return nil
}

// finish ends what has not ended, and lets go of everything.
func (n *Node) finish(err error) error {
	n.stop()
	for _, s := range []*stage{n.idle, n.bgp, n.door, n.mesh} {
		s.end()
		err = errors.Join(err, s.err)
	}
	if n.last.Load() {
		after, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		n.leave(after)
	}
	n.log.Info("node stops")
	n.close()
	return err
}

// stage is a work that ends when it is told to. If it fails the node ends.
type stage struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

func (n *Node) start(ctx context.Context, run func(context.Context) error) *stage {
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if s.err = run(ctx); s.err != nil {
			n.stop()
		}
	}()
	return s
}

// end ends it and waits for that. It reports whether it was at work still.
func (s *stage) end() bool {
	select {
	case <-s.done:
		return false
	default:
	}
	s.cancel()
	<-s.done
	return true
}

// keepSandbox brings the supervisor back should it end.
func (n *Node) keepSandbox(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := n.sandbox.Ensure(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("cannot bring the sandbox supervisor back", "err", err)
			}
		}
	}
}

// close lets go of everything that New opened, in the opposite order.
func (n *Node) close() {
	var errs []error
	if n.api != nil {
		n.api.close()
	}
	if n.builds != nil {
		errs = append(errs, n.builds.Close())
	}
	if n.certs != nil {
		n.certs.close()
	}
	if n.collector != nil {
		errs = append(errs, n.collector.Close())
	}
	if n.sandbox != nil {
		n.sandbox.Close()
	}
	if n.wire != nil {
		errs = append(errs, n.wire.Close())
	}
	if n.network != nil {
		n.network.Close()
	}
	if n.catalog != nil {
		errs = append(errs, n.catalog.Close())
	}
	if n.lock != nil {
		if n.cfg.heritage == nil || n.signed.Load() {
			os.Remove(n.lock.Name())
		}
		errs = append(errs, n.lock.Close())
	}
	if err := errors.Join(errs...); err != nil {
		n.log.Warn("cannot close everything", "err", err)
	}
}

// owners says whose an app is.
type owners struct{ apps *app.Store }

// Org implements machine.Apps.
func (o owners) Org(_ context.Context, name string) (string, error) {
	a, err := o.apps.Get(name)
	return a.Org, err
}
