package catalog

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	bucketName = "catalog"
	// MaxRecord is the largest record in bytes of JSON. NATS takes 1 MiB a
	// message; the rest is for headers.
	MaxRecord = 1<<20 - 4<<10
	// markerTTL is how long the marker of a deleted key is kept for watchers
	// that were cut off. One that was away for longer compares itself with the
	// whole table when it comes back, so nothing depends on this being long.
	markerTTL = time.Hour
	// firstLimit is how long a node that never knew the state waits for it.
	firstLimit = 15 * time.Second
	// SyncInterval is how often the embedded server fsyncs those streams that
	// opted out of syncing every message. A room that frees its own copy of what
	// it has written to such a stream waits at least this long.
	SyncInterval = 10 * time.Second
)

var (
	// ErrExists is returned by Create when the key is taken.
	ErrExists = errors.New("record exists already")
	// ErrConflict is returned by Update when the record has another revision.
	ErrConflict = errors.New("record was changed by someone else")
	// ErrInUse is returned by Open when another process has the directory.
	ErrInUse = errors.New("directory is in use by another process")
	// ErrForeign is returned by Open for a directory that is not a catalog, or is
	// one that this version cannot read.
	ErrForeign = errors.New("not a catalog that this version can read")
	// ErrDamaged is returned by Open when records that were there are not found.
	ErrDamaged = errors.New("catalog is damaged")
	// ErrClosed is returned by writes after Close.
	ErrClosed = errors.New("catalog is closed")
)

// Config says where the state lives. Dir or Servers must be set.
type Config struct {
	// Dir is the daemon's data directory; the store is Dir/nats. Unused when
	// Servers is set.
	Dir string
	// Node is this node's name, shown to NATS. Default "perigee".
	Node string
	// Servers are the addresses of an outside NATS cluster with JetStream
	// ("nats://10.0.0.1:4222"). Empty: the server is embedded.
	Servers []string
	// Credentials is the path of a NATS credentials file for Servers.
	Credentials string
	// Replicas is how many servers of an outside cluster keep a record. Default: as
	// many as Servers names, three at most; ignored when embedded.
	Replicas int
	// Members are the nodes that keep the replicated state, for the first start
	// of a node that joins a cloud; afterwards the node remembers them. The first
	// node of a cloud has none to name: it is the only member. See [Catalog.SetMembers].
	Members []Member
	// ClientListen and RouteListen are host:port at which a member serves nodes
	// and other members. Both empty: the node is a cloud of its own, and its
	// state is in Dir/nats. Set, the state of a member is in Dir/state.
	ClientListen, RouteListen string
	// TLS proves this node to others and others to it, with the certificate (or
	// the functions that return one) and RootCAs. The peer's name is its
	// certificate's common name. Required with ClientListen.
	TLS *tls.Config
	// Allow refuses peers whose certificates are good but not welcome any more.
	// Default: all are welcome.
	Allow func(*x509.Certificate) error
	// Listen makes the embedded server listen for NATS clients on host:port.
	// Default "": no port, only this process reaches it.
	Listen string
	// Token is what clients on Listen must present. It may be empty only if
	// Listen is a loopback address.
	Token string
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	noSync    bool                            // benchmarks compare with it
	markerTTL time.Duration                   // tests shorten it
	measure   func(dir string) (int64, error) // of free bytes; tests fill the disk
}

// Catalog is an open catalog. Its methods may be called from any goroutine.
type Catalog struct {
	node string
	log  *slog.Logger
	ttl  string // of delete markers

	local   *embedded // what this node keeps for itself; nil with an outside cluster and no directory
	cloud   *cloud    // nil for a node alone and with an outside cluster
	outside []string
	conn    *nats.Conn // to the state
	ownConn *nats.Conn // to local; the same as conn for a node alone

	stateJS, ownJS jetstream.JetStream
	own            *bucket // nil without a directory
	state          *bucket // the same as own for a node alone
	said           *bucket // what nodes say of themselves; nil for a node alone

	seq *sequence

	ctx     context.Context // ends at Close; every follower lives under it
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	opened  time.Time
	adrift  sync.Once     // it is told that there is no state to begin with
	started atomic.Bool   // connections tell of themselves before all is open
	lookNow chan struct{} // holds a token when the state must be looked at

	mu       sync.Mutex // guards what follows
	tables   map[string]bool
	stands   StateStatus // without a cloud
	isClosed bool
}

// Open starts the embedded servers, or connects to the outside cluster. It
// returns ErrInUse, ErrForeign or ErrDamaged for a directory it will not touch.
// That other members or the outside cluster are away is no error for a node with
// a directory, which knows what was last true; without one it is.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	c := &Catalog{node: cfg.Node, log: cfg.Logger, tables: map[string]bool{}, ttl: cfg.markerTTL.String(), lookNow: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if err := c.open(ctx, cfg); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (cfg Config) check() (Config, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.markerTTL == 0 {
		cfg.markerTTL = markerTTL
	}
	if cfg.Node == "" {
		cfg.Node = "perigee"
	}
	if len(cfg.Servers) == 0 && cfg.Dir == "" {
		return cfg, errors.New("cannot open catalog: neither a directory nor NATS servers are given")
	}
	return cfg, nil
}

func (c *Catalog) open(ctx context.Context, cfg Config) error {
	if cfg.Dir != "" {
		if err := c.openOwn(ctx, cfg); err != nil {
			return err
		}
	}
	if err := c.openState(ctx, cfg); err != nil {
		return err
	}
	c.opened = time.Now()
	c.start()
	return nil
}

// openOwn opens what this node keeps for itself.
func (c *Catalog) openOwn(ctx context.Context, cfg Config) (err error) {
	if c.local, err = startLocal(ctx, cfg); err != nil {
		return err
	}
	c.ownConn, err = nats.Connect("", append(c.connOptions(cfg, nil), nats.InProcessServer(c.local), nats.Token(cfg.Token))...)
	if err != nil {
		return fmt.Errorf("cannot connect to NATS at the embedded server: %w", err)
	}
	if c.ownJS, err = jetstream.New(c.ownConn); err != nil {
		return fmt.Errorf("cannot use JetStream of the embedded server: %w", err)
	}
	c.own = &bucket{name: bucketName, log: c.log, conn: c.ownConn, js: c.ownJS, disk: func() *disk { return c.local.disk }}
	c.own.feed = newFeed(c.own)
	return c.openBucket(ctx, cfg)
}

// openState opens what all nodes share: the same as their own for a node alone.
func (c *Catalog) openState(ctx context.Context, cfg Config) error {
	switch {
	case len(cfg.Servers) > 0:
		return c.openOutside(ctx, cfg)
	case cfg.RouteListen != "" || cfg.ClientListen != "":
		return c.openCloud(ctx, cfg)
	}
	c.conn, c.stateJS, c.state, c.seq = c.ownConn, c.ownJS, c.own, &sequence{}
	c.stands = StateStatus{Connected: true, To: c.node, Leader: c.node, Quorum: true, Member: true, Replicas: 1, Current: true}
	return nil
}

func (c *Catalog) openCloud(ctx context.Context, cfg Config) (err error) {
	if c.cloud, err = openCloud(ctx, c, cfg); err != nil {
		return err
	}
	opts := append(c.connOptions(cfg, c.reconnected), stateOptions()...)
	if c.conn, err = nats.Connect("", append(opts, nats.InProcessServer(c.cloud.link))...); err != nil {
		return fmt.Errorf("cannot connect to the state: %w", err)
	}
	c.cloud.link.conn = c.conn
	if _, err := c.conn.Subscribe(peersSubject, c.cloud.tellPeers); err != nil {
		return fmt.Errorf("cannot follow the state: %w", err)
	}
	return c.openShared(ctx, cfg, 1, c.cloud.make)
}

func (c *Catalog) openOutside(ctx context.Context, cfg Config) (err error) {
	c.outside = cfg.Servers
	opts := append(c.connOptions(cfg, c.reconnected), stateOptions()...)
	if cfg.Credentials != "" {
		opts = append(opts, nats.UserCredentials(cfg.Credentials))
	}
	if cfg.Dir == "" { // nothing to begin with
		opts = append(opts, nats.RetryOnFailedConnect(false))
	}
	if c.conn, err = nats.Connect(strings.Join(cfg.Servers, ","), opts...); err != nil {
		return fmt.Errorf("cannot connect to NATS at %s: %w", cfg.Servers, err)
	}
	return c.openShared(ctx, cfg, cmp.Or(cfg.Replicas, min(3, len(cfg.Servers))), c.makeOutside)
}

// makeOutside makes a bucket in an outside cluster, or has one that is kept by too
// few servers be kept by more.
func (c *Catalog) makeOutside(kc jetstream.KeyValueConfig) func(context.Context) (jetstream.KeyValue, error) {
	return func(ctx context.Context) (jetstream.KeyValue, error) {
		s, err := c.stateJS.Stream(ctx, "KV_"+kc.Bucket)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return c.stateJS.CreateKeyValue(ctx, kc)
		case err != nil:
			return nil, err
		case s.CachedInfo().Config.Replicas < kc.Replicas:
			more := s.CachedInfo().Config
			more.Replicas = kc.Replicas
			if _, err := c.stateJS.UpdateStream(ctx, more); err != nil {
				return nil, fmt.Errorf("cannot have %d servers keep the state: %w", kc.Replicas, err)
			}
		}
		return c.stateJS.KeyValue(ctx, kc.Bucket)
	}
}

// openShared is the rest of openCloud and openOutside.
func (c *Catalog) openShared(ctx context.Context, cfg Config, replicas int, make func(jetstream.KeyValueConfig) func(context.Context) (jetstream.KeyValue, error)) (err error) {
	if c.stateJS, err = jetstream.New(c.conn); err != nil {
		return fmt.Errorf("cannot use JetStream of the state: %w", err)
	}
	if c.seq, err = openSequence(cfg.Dir); err != nil {
		return err
	}
	c.state = c.shared(make(bucketConfig(cfg, bucketName, replicas)), bucketName)
	c.said = c.shared(make(bucketConfig(cfg, publishedName, replicas)), publishedName)
	if c.own != nil {
		if err := c.openCopies(ctx); err != nil {
			return err
		}
	}
	return c.heedLeaders()
}

func (c *Catalog) openCopies(ctx context.Context) (err error) {
	if c.state.feed.copy, err = openCopy(ctx, c.ownJS, "copy", copyDelay, c.log); err != nil {
		return err
	}
	c.said.feed.copy, err = openCopy(ctx, c.ownJS, "copy-published", copyLazy, c.log)
	return err
}

func (c *Catalog) shared(make func(context.Context) (jetstream.KeyValue, error), name string) *bucket {
	b := &bucket{name: name, log: c.log, conn: c.conn, js: c.stateJS, make: make, unreachable: c.unreachable, disk: func() *disk { return nil }}
	if c.cloud != nil {
		b.disk = c.cloud.disk
	}
	b.feed = newFeed(b)
	return b
}

func (c *Catalog) unreachable(cause error) error {
	c.lookSoon()
	if c.cloud != nil {
		return c.cloud.unreachable(cause)
	}
	return noQuorum(cause, "the NATS servers %s do not take the write; reads go on", c.outside)
}

func bucketConfig(cfg Config, name string, replicas int) jetstream.KeyValueConfig {
	kc := jetstream.KeyValueConfig{Bucket: name, History: 1, Storage: jetstream.FileStorage, Replicas: replicas, LimitMarkerTTL: cfg.markerTTL,
		Description: "Perigee: who owns what, where it runs"}
	if name == publishedName {
		kc.Description = "Perigee: what nodes say of themselves"
	}
	return kc
}

// connOptions are for all connections.
func (c *Catalog) connOptions(cfg Config, again func()) []nats.Option {
	if again == nil {
		again = c.ownAgain
	}
	return []nats.Option{
		nats.Name(cfg.Node), nats.MaxReconnects(-1), nats.ReconnectWait(100 * time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.ReconnectHandler(func(*nats.Conn) { again() }), nats.ConnectHandler(func(*nats.Conn) { again() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.disconnected(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.log.Warn("nats", "error", err) }),
	}
}

// stateOptions find a dead connection within three seconds, and have nothing be
// sent later that failed before.
func stateOptions() []nats.Option {
	return []nats.Option{
		nats.RetryOnFailedConnect(true), nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2), nats.ReconnectBufSize(-1),
		nats.Timeout(dialLimit), nats.IgnoreDiscoveredServers(),
	}
}

// heedLeaders looks at the state as soon as another member leads: news may have
// been lost with the former one.
func (c *Catalog) heedLeaders() error {
	const subject = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."
	_, err := c.conn.Subscribe(subject+"*", func(m *nats.Msg) {
		for _, b := range []*bucket{c.state, c.said} {
			if m.Subject == subject+"KV_"+b.name {
				b.feed.hurry()
			}
		}
		c.lookSoon()
	})
	if err != nil {
		return fmt.Errorf("cannot follow the state: %w", err)
	}
	return nil
}

func (c *Catalog) lookSoon() {
	select {
	case c.lookNow <- struct{}{}:
	default:
	}
}

// start begins all that runs until Close.
func (c *Catalog) start() {
	c.started.Store(true)
	if c.own != nil {
		c.goOn(c.own.feed.run)
		c.goOn(func(ctx context.Context) { c.local.keepStore(ctx, c.ownReconnect) })
	}
	if c.state == c.own {
		return
	}
	c.goOn(func(ctx context.Context) {
		c.seq.run(ctx, func(err error) { c.log.Warn("cannot keep this node's numbers", "error", err) })
	})
	for _, b := range []*bucket{c.state, c.said} {
		c.goOn(b.feed.run)
		if b.feed.copy != nil {
			c.goOn(b.feed.copy.run)
		}
	}
	if c.cloud != nil {
		c.goOn(c.cloud.run)
	} else {
		c.goOn(func(ctx context.Context) { c.watchState(ctx, nil) })
	}
}

func (c *Catalog) goOn(run func(context.Context)) {
	if !c.begin() {
		return
	}
	go func() {
		defer c.wg.Done()
		run(c.ctx)
	}()
}

func (c *Catalog) ownReconnect() {
	if err := c.ownConn.ForceReconnect(); err != nil {
		c.log.Warn("cannot connect to the catalog's store at once", "error", err)
	}
}

// openBucket finds the bucket or makes it. One that was made before and is gone
// is reported, never silently made anew over lost records.
func (c *Catalog) openBucket(ctx context.Context, cfg Config) error {
	kv, err := c.ownJS.KeyValue(ctx, bucketName)
	switch {
	case err == nil:
		c.own.kv = kv
		return errors.Join(c.markBucket(), c.warnLost(ctx))
	case !errors.Is(err, jetstream.ErrBucketNotFound):
		return fmt.Errorf("cannot open the catalog's bucket: %w", err)
	case c.local.mark.Bucket:
		return fmt.Errorf("cannot open catalog in %q: %w: the bucket that was there cannot be read; "+
			"restore the directory from a backup, or move it away to start empty", c.local.dir, ErrDamaged)
	}
	return c.makeBucket(ctx, cfg)
}

func (c *Catalog) makeBucket(ctx context.Context, cfg Config) error {
	if err := c.Room(Reserve); err != nil {
		return fmt.Errorf("cannot create the catalog's bucket: %w", err)
	}
	kv, err := c.ownJS.CreateKeyValue(ctx, bucketConfig(cfg, bucketName, 1))
	if err != nil {
		return fmt.Errorf("cannot create the catalog's bucket: %w", err)
	}
	c.own.kv = kv
	return c.markBucket()
}

func (c *Catalog) markBucket() error {
	if c.local.mark.Bucket {
		return nil
	}
	return c.local.markBucket()
}

// warnLost says so when the store had to leave records out while recovering. A
// torn last write after a crash is normal and was never acknowledged.
func (c *Catalog) warnLost(ctx context.Context) error {
	s, err := c.ownJS.Stream(ctx, "KV_"+bucketName)
	if err != nil {
		return fmt.Errorf("cannot inspect the catalog's bucket: %w", err)
	}
	if lost := s.CachedInfo().State.Lost; lost != nil && len(lost.Msgs) > 0 {
		c.log.Error("catalog lost records: the store's files are damaged", "records", len(lost.Msgs), "bytes", lost.Bytes)
	}
	return nil
}

func (c *Catalog) disconnected(err error) {
	if err != nil {
		c.log.Warn("catalog lost its NATS connection; reads go on from memory", "error", err)
	}
}

// reconnected makes every table compare itself with the store: what was deleted
// while the connection was down may have left no trace to watch.
func (c *Catalog) reconnected() {
	if !c.started.Load() {
		return // nothing was read yet
	}
	c.log.Info("catalog is connected to the state", "member", c.StateStatus().To)
	c.state.feed.resync()
	c.said.feed.resync()
}

func (c *Catalog) ownAgain() {
	if c.started.Load() {
		c.own.feed.resync()
	}
}

// await returns when the feed has read its bucket. If that takes too long and
// there is something to begin with, fallback is called instead.
func (c *Catalog) await(f *feed, fallback func()) error {
	for {
		if f.isLoaded() {
			return nil
		}
		err := f.failed()
		if f == c.ownFeed() {
			if err != nil {
				return err
			}
		} else if known := f.copy != nil && f.copy.isWhole(); known && (time.Since(c.opened) > askLimit || !c.conn.IsConnected()) {
			c.adrift.Do(func() {
				c.log.Warn("the state cannot be reached; this node goes on with what it last knew", "error", cmp.Or(err, ErrNoQuorum))
			})
			fallback()
			return nil
		} else if !known && time.Since(c.opened) > firstLimit {
			return c.unreachable(errors.Join(errors.New("this node has never known it"), err))
		}
		if !pause(c.ctx, 5*time.Millisecond) {
			return ErrClosed
		}
	}
}

func (c *Catalog) ownFeed() *feed {
	if c.own == nil {
		return nil
	}
	return c.own.feed
}

// moveToState takes what a node that was alone has under the table's name to the
// cloud that it began.
func (c *Catalog) moveToState(table string, into sink) error {
	if c.cloud == nil || !c.cloud.began {
		return nil
	}
	if err := c.await(c.own.feed, nil); err != nil {
		return err
	}
	for key, r := range c.own.feed.takeEarly(table) {
		if r.deleted {
			continue
		}
		full := table + "." + key
		rev, err := c.state.write(c.ctx, create(full, r.data))
		if err != nil && !errors.Is(err, ErrExists) {
			return fmt.Errorf("cannot move record %q to the state: %w", key, err)
		}
		if err == nil {
			into.change(record{table: table, key: key, rev: rev, data: r.data})
		}
		if _, err := c.own.write(c.ctx, remove(full, c.ttl, nil)); err != nil {
			return fmt.Errorf("cannot move record %q to the state: %w", key, err)
		}
	}
	return nil
}

// SetMembers says who keeps the replicated state, the nearest first. The node
// remembers it, connects to the first that answers, and starts or ends its own
// part when it becomes or ceases to be one. It does nothing for a node alone and
// with an outside cluster.
func (c *Catalog) SetMembers(members []Member) error {
	if c.cloud == nil {
		return nil
	}
	return c.cloud.setMembers(members)
}

// Errors of CheckLoss.
var (
	ErrNeeded = errors.New("the rest of those that keep the cloud's state could decide nothing without it")
	ErrMoving = errors.New("what the cloud's state has on it is still being copied to others")
)

// CheckLoss reports whether one of the nodes keeps a part of the state now, and
// returns an error if the state could decide nothing, or had lost something, without
// all of them: [ErrNeeded] if of those that keep it too few others are here,
// [ErrMoving] if enough will be in a while, [ErrNoQuorum] if nobody can say. Without a
// cloud of its own, as with an outside cluster, nothing speaks against it.
func (c *Catalog) CheckLoss(ctx context.Context, nodes ...string) (keep bool, err error) {
	if c.cloud == nil {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*askLimit)
	defer cancel()
	return c.cloud.checkLoss(ctx, nodes)
}

// JetStream is for rooms that keep streams of their own on this node. With an
// outside cluster and no directory, the streams are there.
func (c *Catalog) JetStream() jetstream.JetStream {
	if c.own == nil {
		return c.stateJS
	}
	return c.ownJS
}

// Conn is the connection to the state, which reaches all nodes. It is closed by
// Close.
func (c *Catalog) Conn() *nats.Conn { return c.conn }

// Server is the embedded NATS server of what this node keeps for itself; nil if
// there is none.
func (c *Catalog) Server() *server.Server {
	if c.local == nil {
		return nil
	}
	return c.local.ns.Load()
}

// Close ends all watches, flushes and closes the store, and lets go of the
// directory. Reads go on answering from memory; writes return ErrClosed. It may
// be called more than once.
func (c *Catalog) Close() error {
	c.mu.Lock()
	closed := c.isClosed
	c.isClosed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	c.cancel()
	c.wg.Wait()
	for _, nc := range []*nats.Conn{c.conn, c.ownConn} {
		if nc != nil {
			nc.Close()
		}
	}
	for _, b := range []*bucket{c.own, c.state, c.said} {
		if b != nil {
			b.late.Wait()
		}
	}
	var err error
	if c.seq != nil {
		err = c.seq.keep()
	}
	if c.cloud != nil {
		err = errors.Join(err, c.cloud.close())
	}
	if c.local != nil {
		err = errors.Join(err, c.local.stop())
	}
	return err
}
