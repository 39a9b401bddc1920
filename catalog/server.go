package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/internal/durable"
)

const (
	markFile   = "perigee.json" // in Dir/nats: says that the directory is ours
	lockFile   = "lock"
	markFormat = 1
	startLimit = 60 * time.Second // recovery reads every block after a crash
)

// mark is the content of markFile.
type mark struct {
	Format int  `json:"format"`
	Bucket bool `json:"bucket"` // the bucket was made: finding none is damage
}

// embedded is a NATS server inside this process and the lock on its directory.
type embedded struct {
	ns   atomic.Pointer[server.Server] // another one after restart
	dir  string
	log  *slog.Logger
	disk *disk
	lock *os.File
	mark mark
	// options are asked for at each start; prepare, if there is one, puts files
	// into the directory before.
	options func() (*server.Options, error)
	prepare func() error
}

// startLocal starts the server of what this node keeps for itself.
func startLocal(ctx context.Context, cfg Config) (*embedded, error) {
	e := &embedded{dir: filepath.Join(cfg.Dir, "nats"), log: cfg.Logger, disk: newDisk(cfg.Dir, cfg.measure)}
	e.options = func() (*server.Options, error) { return e.localOptions(cfg) }
	return e, e.open(ctx)
}

func (e *embedded) open(ctx context.Context) error {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the catalog's directory: %w", err)
	}
	if err := e.takeLock(); err != nil {
		return err
	}
	if err := e.start(ctx); err != nil {
		return errors.Join(err, e.stop())
	}
	return nil
}

// takeLock holds a flock for as long as the process lives: the kernel lets go
// of it after kill -9, and a stale file means nothing.
func (e *embedded) takeLock() error {
	f, err := os.OpenFile(filepath.Join(e.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the catalog's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		owner := make([]byte, 20)
		n, _ := f.ReadAt(owner, 0)
		f.Close()
		return fmt.Errorf("cannot open catalog in %q: %w (pid %s); stop that one or use another data directory",
			e.dir, ErrInUse, strings.TrimSpace(string(owner[:n])))
	}
	e.lock = f
	// The pid is for people: a full disk has no room even for that, and the lock
	// holds all the same.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return nil
}

func (e *embedded) start(ctx context.Context) error {
	if err := e.readMark(); err != nil {
		return err
	}
	if e.prepare != nil {
		if err := e.prepare(); err != nil {
			return err
		}
	}
	opts, err := e.options()
	if err != nil {
		return err
	}
	logs := &serverLog{log: e.log, fail: e.disk.failed}
	ns, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("cannot make the embedded NATS server: %w", err)
	}
	ns.SetLoggerV2(logs, false, false, false)
	e.ns.Store(ns)
	return e.awaitStart(ctx, ns, logs)
}

// restart ends the server and starts another one on the same files.
func (e *embedded) restart(ctx context.Context) error {
	e.end()
	return e.start(ctx)
}

func (e *embedded) end() {
	if ns := e.ns.Load(); ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

// InProcessConn implements nats.InProcessConnProvider with the server of the day.
func (e *embedded) InProcessConn() (net.Conn, error) { return e.ns.Load().InProcessConn() }

func (e *embedded) awaitStart(ctx context.Context, ns *server.Server, logs *serverLog) error {
	started := make(chan bool, 1)
	go func() {
		ns.Start() // returns once JetStream has recovered its files
		started <- ns.ReadyForConnections(startLimit)
	}()
	var ready bool
	select {
	case ready = <-started:
	case <-ctx.Done():
		ns.Shutdown()
		<-started
		return fmt.Errorf("cannot start the embedded NATS server: %w", ctx.Err())
	}
	if msg := logs.fatal(); msg != "" {
		return fmt.Errorf("cannot start the embedded NATS server in %q: %s", e.dir, msg)
	}
	if !ready || !ns.JetStreamEnabled() {
		return fmt.Errorf("cannot start the embedded NATS server in %q: it was not ready after %s", e.dir, startLimit)
	}
	return nil
}

// localOptions: JetStream may use the whole disk (each stream has its own limits, and
// the catalog must not stop because logs grew), but hardly any memory.
func (e *embedded) localOptions(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName: cfg.Node, DontListen: true, NoSigs: true, NoSystemAccount: true,
		JetStream: true, StoreDir: e.dir, JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 50,
		SyncAlways: !cfg.noSync, SyncInterval: SyncInterval,
		Authorization: cfg.Token,
	}
	if cfg.Listen == "" {
		return opts, nil
	}
	if old := e.ns.Load(); old != nil { // a restart: the clients know this port
		if at, ok := old.Addr().(*net.TCPAddr); ok {
			cfg.Listen = at.String()
		}
	}
	return opts, listenOn(opts, cfg)
}

func listenOn(opts *server.Options, cfg Config) error {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return fmt.Errorf("cannot listen for NATS on %q: %w; use host:port", cfg.Listen, err)
	}
	ip := net.ParseIP(host)
	if cfg.Token == "" && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("cannot listen for NATS on %q: anyone could write the catalog; set a token or listen on 127.0.0.1", cfg.Listen)
	}
	opts.Port, err = strconv.Atoi(port)
	if err != nil || opts.Port < 0 || opts.Port > 65535 {
		return fmt.Errorf("cannot listen for NATS on %q: port must be a number up to 65535", cfg.Listen)
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	opts.Host, opts.DontListen = host, false
	return nil
}

// readMark refuses a directory that holds something else, before the server
// writes into it.
func (e *embedded) readMark() error {
	data, err := os.ReadFile(filepath.Join(e.dir, markFile))
	if errors.Is(err, os.ErrNotExist) {
		return e.claim()
	}
	if err != nil {
		return fmt.Errorf("cannot read the catalog's mark: %w", err)
	}
	if err := json.Unmarshal(data, &e.mark); err != nil {
		return fmt.Errorf("cannot open catalog in %q: %w: %s is not JSON (%w); restore the directory from a backup",
			e.dir, ErrDamaged, markFile, err)
	}
	if e.mark.Format != markFormat {
		return fmt.Errorf("cannot open catalog in %q: %w: it has format %d and this program knows %d; use the program that wrote it",
			e.dir, ErrForeign, e.mark.Format, markFormat)
	}
	return nil
}

func (e *embedded) claim() error {
	names, err := os.ReadDir(e.dir)
	if err != nil {
		return fmt.Errorf("cannot read the catalog's directory: %w", err)
	}
	for _, n := range names {
		if n.Name() != lockFile && n.Name() != markFile+".new" {
			return fmt.Errorf("cannot open catalog in %q: %w: it holds %q but no %s; use an empty data directory",
				e.dir, ErrForeign, n.Name(), markFile)
		}
	}
	e.mark = mark{Format: markFormat}
	return e.writeMark()
}

func (e *embedded) markBucket() error {
	e.mark.Bucket = true
	return e.writeMark()
}

func (e *embedded) writeMark() error {
	data, err := json.Marshal(e.mark)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(e.dir, markFile), 0o600, data); err != nil {
		return fmt.Errorf("cannot write the catalog's mark: %w", err)
	}
	return nil
}

func (e *embedded) stop() error {
	e.end()
	if e.lock == nil {
		return nil
	}
	err := e.lock.Close()
	e.lock = nil
	return err
}

// serverLog passes the server's warnings on. Its notices are a page at every
// start, so they are debug lines; its fatal errors do not end the process but
// are what Open returns.
type serverLog struct {
	log  *slog.Logger
	fail func()

	mu    sync.Mutex // guards death
	death string
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.death
}

func (l *serverLog) Noticef(f string, v ...any) { l.log.Debug("nats: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Debugf(f string, v ...any)  { l.log.Debug("nats: " + fmt.Sprintf(f, v...)) }
func (l *serverLog) Tracef(f string, v ...any)  { l.log.Debug("nats: " + fmt.Sprintf(f, v...)) }

// usual are warnings and errors of what is all in a day's work here: a member
// that is alone or new, and ways between members that are cut and mended. That a
// member is away is told in this package's own words, once. That the server does
// not check the other members' certificates is wrong: this package does.
var usual = []string{
	"will not be verified", "Waiting for routing", "contact with a meta leader", "blocking snapshot", "detected stream remapping",
	"resetting first sequence", "Detected another leader with higher term", "Expected first catchup entry", "not cleaned up, retrying",
	"NO quorum, stalled", "trying to connect to route", "Error flushing",
}

func isUsual(msg string) bool {
	return slices.ContainsFunc(usual, func(part string) bool { return strings.Contains(msg, part) })
}

// Warnf implements server.Logger.
func (l *serverLog) Warnf(f string, v ...any) {
	msg := fmt.Sprintf(f, v...)
	if isUsual(msg) {
		l.log.Debug("nats: " + msg)
		return
	}
	l.log.Warn("nats: " + msg)
}

// Errorf also looks for the one sign that the server gives of a store that
// takes no writes any more.
func (l *serverLog) Errorf(f string, v ...any) {
	msg := fmt.Sprintf(f, v...)
	if isUsual(msg) {
		l.log.Debug("nats: " + msg)
		return
	}
	l.log.Error("nats: " + msg)
	if strings.Contains(msg, "Critical write error") || strings.Contains(msg, "will be DISABLED") {
		l.fail()
	}
}

// Fatalf implements server.Logger.
func (l *serverLog) Fatalf(f string, v ...any) {
	l.mu.Lock()
	l.death = fmt.Sprintf(f, v...)
	l.mu.Unlock()
	l.log.Error("nats: " + fmt.Sprintf(f, v...))
}

var _ server.Logger = (*serverLog)(nil)
