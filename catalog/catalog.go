package catalog

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
	// Replicas is how many servers of an outside cluster keep a record.
	// Default 1; ignored when embedded.
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
	srv  *embedded // nil with an outside cluster
	disk *disk     // nil with an outside cluster
	conn *nats.Conn
	js   jetstream.JetStream
	kv   jetstream.KeyValue
	ttl  string // of delete markers

	ctx    context.Context // ends at Close; every follower lives under it
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex    // guards what follows
	resync   chan struct{} // closed and replaced at each reconnect
	tables   map[string]bool
	isClosed bool
}

// Open starts the embedded server, or connects to the outside one, and opens
// the bucket. It returns ErrInUse, ErrForeign or ErrDamaged for a directory it
// will not touch, and an error if the outside cluster does not answer.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	c := &Catalog{node: cfg.Node, log: cfg.Logger, resync: make(chan struct{}), tables: map[string]bool{}, ttl: cfg.markerTTL.String()}
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
	var err error
	if len(cfg.Servers) == 0 {
		c.disk = newDisk(cfg.Dir, cfg.measure)
		if c.srv, err = startEmbedded(ctx, cfg, c.disk.failed); err != nil {
			return err
		}
	}
	if err := c.connect(cfg); err != nil {
		return err
	}
	if err := c.openBucket(ctx, cfg); err != nil {
		return err
	}
	if c.srv != nil && c.begin() {
		go c.keepStore(cfg)
	}
	return nil
}

func (c *Catalog) connect(cfg Config) error {
	opts := []nats.Option{
		nats.Name(cfg.Node), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectHandler(func(*nats.Conn) { c.reconnected() }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.disconnected(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.log.Warn("nats", "error", err) }),
	}
	where := "the embedded server"
	if c.srv != nil {
		opts = append(opts, nats.InProcessServer(c.srv), nats.Token(cfg.Token))
	} else {
		where = fmt.Sprint(cfg.Servers)
		if cfg.Credentials != "" {
			opts = append(opts, nats.UserCredentials(cfg.Credentials))
		}
	}
	return c.dial(cfg, where, opts)
}

func (c *Catalog) dial(cfg Config, where string, opts []nats.Option) (err error) {
	urls := ""
	for i, s := range cfg.Servers {
		if i > 0 {
			urls += ","
		}
		urls += s
	}
	if c.conn, err = nats.Connect(urls, opts...); err != nil {
		return fmt.Errorf("cannot connect to NATS at %s: %w", where, err)
	}
	if c.js, err = jetstream.New(c.conn); err != nil {
		return fmt.Errorf("cannot use JetStream at %s: %w", where, err)
	}
	return nil
}

// openBucket finds the bucket or makes it. One that was made before and is gone
// is reported, never silently made anew over lost records.
func (c *Catalog) openBucket(ctx context.Context, cfg Config) error {
	kv, err := c.js.KeyValue(ctx, bucketName)
	switch {
	case err == nil:
		c.kv = kv
		return errors.Join(c.markBucket(), c.warnLost(ctx))
	case !errors.Is(err, jetstream.ErrBucketNotFound):
		return fmt.Errorf("cannot open the catalog's bucket: %w", err)
	case c.srv != nil && c.srv.mark.Bucket:
		return fmt.Errorf("cannot open catalog in %q: %w: the bucket that was there cannot be read; "+
			"restore the directory from a backup, or move it away to start empty", c.srv.dir, ErrDamaged)
	}
	return c.makeBucket(ctx, cfg)
}

func (c *Catalog) makeBucket(ctx context.Context, cfg Config) error {
	if err := c.Room(Reserve); err != nil {
		return fmt.Errorf("cannot create the catalog's bucket: %w", err)
	}
	kv, err := c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucketName, Description: "Perigee: who owns what, where it runs",
		History: 1, Storage: jetstream.FileStorage, Replicas: max(cfg.Replicas, 1), LimitMarkerTTL: cfg.markerTTL,
	})
	if err != nil {
		return fmt.Errorf("cannot create the catalog's bucket: %w", err)
	}
	c.kv = kv
	return c.markBucket()
}

func (c *Catalog) markBucket() error {
	if c.srv == nil || c.srv.mark.Bucket {
		return nil
	}
	return c.srv.markBucket()
}

// warnLost says so when the store had to leave records out while recovering. A
// torn last write after a crash is normal and was never acknowledged.
func (c *Catalog) warnLost(ctx context.Context) error {
	s, err := c.js.Stream(ctx, "KV_"+bucketName)
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
	c.log.Info("catalog is connected to NATS again")
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.resync)
	c.resync = make(chan struct{})
}

func (c *Catalog) resyncSignal() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resync
}

// SetMembers says who keeps the replicated state, the nearest first. The node
// remembers it, connects to the first that answers, and starts or ends its own
// part when it becomes or ceases to be one.
func (c *Catalog) SetMembers(members []Member) error { return nil }

// StateStatus tells how the replicated state is reached. It does not wait.
func (c *Catalog) StateStatus() StateStatus {
	return StateStatus{Connected: c.conn.IsConnected(), To: c.node, Leader: c.node, Quorum: true, Member: true, Replicas: 1, Current: true}
}

// JetStream is for rooms that keep streams of their own beside the catalog.
func (c *Catalog) JetStream() jetstream.JetStream { return c.js }

// Conn is the connection under it. It is closed by Close.
func (c *Catalog) Conn() *nats.Conn { return c.conn }

// Server is the embedded NATS server, nil with an outside cluster.
func (c *Catalog) Server() *server.Server {
	if c.srv == nil {
		return nil
	}
	return c.srv.ns.Load()
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
	if c.conn != nil {
		c.conn.Close()
	}
	if c.srv != nil {
		return c.srv.stop()
	}
	return nil
}
