package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	clusterName = "perigee"
	systemUser  = "system"
	routePing   = 2 * time.Second // a dead route is found after two
	// nowhere is what each member tells the others of where it is. They know that
	// from the list of members, and who of two calls the other; what they hear
	// by the way must lead to no more calls.
	nowhere = "127.0.0.1:1"
)

// stateServer is this node's part of the replicated state: a NATS server that
// is one of a cluster, and the door for nodes that are not.
type stateServer struct {
	*embedded
	node  string
	peers peers
	door  *door
	// entrance knows the routes that other members made to this one.
	entrance entrance
	secret   string // of the system account, which only this process knows
	listen   struct {
		client, route string
		port          int // of route
		host          string
	}
	members func() []Member
	former  func() []Member
	buckets []jetstream.KeyValueConfig // of a cloud that begins
	cancel  context.CancelFunc         // of what runs beside it
	ended   chan struct{}
	opts    atomic.Pointer[server.Options]
}

// startState starts the server. A first member is ready for writes when it
// returns; another one when the others have taken it in.
func startState(ctx context.Context, cfg Config, members, former func() []Member) (*stateServer, error) {
	s := &stateServer{node: cfg.Node, peers: peers{cfg.TLS, cfg.Allow}, secret: rand.Text(), members: members, former: former, ended: make(chan struct{}),
		buckets: []jetstream.KeyValueConfig{bucketConfig(cfg, bucketName, 1), bucketConfig(cfg, publishedName, 1)}}
	s.embedded = &embedded{dir: filepath.Join(cfg.Dir, "state"), log: cfg.Logger, disk: newDisk(cfg.Dir, cfg.measure)}
	s.embedded.options, s.embedded.prepare = s.options, s.preparePeers
	s.listen.client, s.listen.route = cfg.ClientListen, cfg.RouteListen
	var err error
	if s.listen.host, s.listen.port, err = splitListen(cfg.RouteListen); err != nil {
		return nil, err
	}
	if err := s.launch(ctx); err != nil {
		return nil, err
	}
	if s.door, err = openDoor(cfg.ClientListen, s.peers, s.InProcessConn, cfg.Logger); err != nil {
		s.close()
		return nil, err
	}
	var run context.Context
	run, s.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(s.ended)
		s.keepStore(run, func() {})
	}()
	return s, nil
}

func splitListen(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("cannot listen for members on %q: %w; use host:port", addr, err)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 {
		return "", 0, fmt.Errorf("cannot listen for members on %q: port must be a number from 1 to 65535", addr)
	}
	return host, n, nil
}

// launch starts the server. The first one of a cloud makes the buckets, and is
// then started once more: see beginRaft.
func (s *stateServer) launch(ctx context.Context) error {
	ids, err := readPeers(s.dir)
	if err != nil {
		return err
	}
	hurried := beginRaft(ids == nil && s.isFirst())
	err = s.open(ctx)
	if err == nil {
		err = s.lead(ctx)
	}
	if err == nil && hurried {
		s.end()
		endRaft()
		beginRaft(false)
		if err = s.restart(ctx); err == nil {
			err = s.lead(ctx)
		}
	}
	if err != nil {
		return errors.Join(err, s.close())
	}
	return nil
}

// lead is for a server that is alone: it returns when it leads itself and the
// buckets are there.
func (s *stateServer) lead(ctx context.Context) error {
	alone, err := isAlone(s.dir, s.node)
	if err != nil || !alone {
		return err
	}
	if err := s.awaitLeader(ctx); err != nil {
		return err
	}
	return s.found(ctx)
}

// found makes the buckets of a cloud, once. One that was made before and is gone
// is reported, never silently made anew over lost records.
func (s *stateServer) found(ctx context.Context) error {
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return fmt.Errorf("cannot begin the state: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("cannot begin the state: %w", err)
	}
	for _, kc := range s.buckets {
		if err := s.foundBucket(ctx, js, kc); err != nil {
			return err
		}
	}
	if s.mark.Bucket {
		return nil
	}
	return s.markBucket()
}

func (s *stateServer) foundBucket(ctx context.Context, js jetstream.JetStream, kc jetstream.KeyValueConfig) error {
	for end := time.Now().Add(firstLimit); ; {
		_, err := js.KeyValue(ctx, kc.Bucket)
		none := errors.Is(err, jetstream.ErrBucketNotFound)
		if none && !s.mark.Bucket {
			_, err = js.CreateKeyValue(ctx, kc)
		}
		switch {
		case err == nil, none && s.mark.Bucket && kc.Bucket != bucketName:
			return nil
		case none && s.mark.Bucket:
			return fmt.Errorf("cannot open the state in %q: %w: the bucket that was there cannot be read; "+
				"restore the directory from a backup, or move it away to start empty", s.dir, ErrDamaged)
		// A server that leads since a moment may not know itself as a place yet.
		case time.Now().After(end) || !pause(ctx, writeRetry):
			return fmt.Errorf("cannot begin the state: %w", err)
		}
	}
}

// awaitLeader is for a server that is alone: it leads as soon as it thinks that
// it has a route, which a helper gives it for a moment.
func (s *stateServer) awaitLeader(ctx context.Context) error {
	helper, err := s.helper()
	if err != nil {
		return err
	}
	defer func() {
		helper.Shutdown()
		helper.WaitForShutdown()
	}()
	for end := time.Now().Add(startLimit); !s.ns.Load().JetStreamIsLeader(); {
		if time.Now().After(end) || !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("cannot start the state in %q: it does not lead itself: %w", s.dir, errors.Join(ctx.Err(), ErrNoQuorum))
		}
	}
	return nil
}

// giveRoute is for a server that is alone now and was not before: what it began
// without a route waits for one.
func (s *stateServer) giveRoute(ctx context.Context) error {
	helper, err := s.helper()
	if err != nil {
		return err
	}
	pause(ctx, time.Second)
	helper.Shutdown()
	helper.WaitForShutdown()
	return nil
}

// helper is a server that keeps nothing and serves nobody: a route to ours.
func (s *stateServer) helper() (*server.Server, error) {
	at := s.ns.Load().ClusterAddr()
	if at == nil {
		return nil, fmt.Errorf("cannot start the state: it does not listen on %q", s.listen.route)
	}
	host := at.IP.String()
	if at.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	opts := &server.Options{ServerName: s.node + ".helper", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		CustomClientAuthentication: nobody{}, Routes: []*url.URL{routeURL(net.JoinHostPort(host, strconv.Itoa(at.Port)))}}
	opts.Cluster = server.ClusterOpts{Name: clusterName, Host: "127.0.0.1", Port: server.RANDOM_PORT, PoolSize: -1, NoAdvertise: true,
		TLSConfig: s.peers.config(""), TLSTimeout: handshakeLimit.Seconds()}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("cannot start the state: %w", err)
	}
	go ns.Start()
	return ns, nil
}

func routeURL(addr string) *url.URL { return &url.URL{Scheme: "nats-route", Host: addr} }

// isFirst reports whether this node is the only member there is.
func (s *stateServer) isFirst() bool {
	m := s.members()
	return len(m) == 1 && m[0].Name == s.node
}

// preparePeers says who the peers are before the first start.
func (s *stateServer) preparePeers() error {
	ids, err := readPeers(s.dir)
	if err != nil || ids != nil {
		return err
	}
	if s.mark.Bucket && s.isFirst() {
		return fmt.Errorf("cannot open the state in %q: %w: what was there cannot be read; restore the directory from a backup, "+
			"or move it away to start empty", s.dir, ErrDamaged)
	}
	if s.isFirst() {
		return writePeers(s.dir, 1, []string{s.node})
	}
	var names []string
	for _, m := range s.members() {
		names = append(names, m.Name)
	}
	return writePeers(s.dir, newcomer, names)
}

func (s *stateServer) options() (*server.Options, error) {
	opts := &server.Options{
		ServerName: s.node, Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true,
		JetStream: true, StoreDir: s.dir, JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 1 << 50,
		ReconnectErrorReports: 3600, // attempts, one a second
		SyncAlways:            true, SyncInterval: SyncInterval, PingInterval: 10 * time.Second, MaxPingsOut: 2,
		CustomClientAuthentication: &insiders{s}, Routes: s.routes(),
	}
	opts.Cluster = server.ClusterOpts{
		Name: clusterName, Host: s.listen.host, Port: s.listen.port, Advertise: nowhere, NoAdvertise: true, PoolSize: -1,
		TLSConfig: s.entrance.config(s.peers), TLSTimeout: handshakeLimit.Seconds(), PingInterval: routePing, MaxPingsOut: 2,
	}
	s.opts.Store(opts.Clone())
	return opts, nil
}

// routes are those that this member makes: to itself, since the server wants at
// least one and knows itself when it meets itself, and to the other members whose
// names come before its own. Of two that call each other at the same time each
// keeps the call of the other and drops its own, again and again where the way is
// long; so one of them calls. Who is a member no more and was not let go yet calls
// all of them, and they call it, for either may be the only one that knows.
func (s *stateServer) routes() []*url.URL {
	out := []*url.URL{}
	members := s.members()
	out = appendRoutes(out, members, func(m Member) bool { return m.Name <= s.node || !isMember(members, s.node) })
	out = appendRoutes(out, s.former(), func(m Member) bool { return m.Name != s.node })
	slices.SortFunc(out, func(a, b *url.URL) int { return strings.Compare(a.Host, b.Host) })
	return out
}

func appendRoutes(out []*url.URL, to []Member, calls func(Member) bool) []*url.URL {
	for _, m := range to {
		if calls(m) {
			out = append(out, routeURL(m.RouteAddr))
		}
	}
	return out
}

// reroute makes the routes those to the members of today.
func (s *stateServer) reroute() error {
	opts := s.opts.Load().Clone()
	opts.Routes = s.routes()
	if sameRoutes(opts.Routes, s.opts.Load().Routes) {
		return nil
	}
	if err := s.ns.Load().ReloadOptions(opts); err != nil {
		return fmt.Errorf("cannot change the routes between members: %w", err)
	}
	s.opts.Store(opts.Clone())
	return nil
}

func sameRoutes(a, b []*url.URL) bool {
	return slices.EqualFunc(a, b, func(x, y *url.URL) bool { return x.Host == y.Host })
}

// recheck closes what those have that are not welcome any more.
func (s *stateServer) recheck() {
	s.door.recheck()
	s.entrance.recheck(s.peers)
}

// system connects to the account in which members are removed.
func (s *stateServer) system() (*nats.Conn, error) {
	return nats.Connect("", nats.InProcessServer(s), nats.UserInfo(systemUser, s.secret), nats.NoReconnect())
}

// close ends the server. It may be called once.
func (s *stateServer) close() error {
	if s.cancel != nil {
		s.cancel()
		<-s.ended
	}
	if s.door != nil {
		s.door.close()
	}
	defer endRaft()
	return s.stop()
}

// insiders lets in what comes from this process: this node's own connections,
// and those of nodes that the door let in.
type insiders struct{ s *stateServer }

// Check implements server.Authentication.
func (i *insiders) Check(c server.ClientAuthentication) bool {
	at, ns := c.RemoteAddress(), i.s.ns.Load()
	if at == nil || at.Network() != "pipe" || ns == nil {
		return false
	}
	account, _ := ns.LookupAccount("$G")
	if o := c.GetOpts(); o.Username == systemUser {
		if o.Password != i.s.secret {
			return false
		}
		account = ns.SystemAccount()
	}
	c.RegisterUser(&server.User{Username: c.GetOpts().Username, Account: account})
	return account != nil
}

type nobody struct{}

// Check implements server.Authentication.
func (nobody) Check(server.ClientAuthentication) bool { return false }
