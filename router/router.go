package router

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Router is the edge of a node. All its methods may be called at any time from any goroutine.
type Router struct {
	cfg      Config
	log      *slog.Logger
	routes   atomic.Pointer[routes]
	turn     atomic.Uint32
	tls      *tlsConfigs               // nil without certificates
	tlsPorts sync.Map                  // port → *tls.Config
	web      atomic.Pointer[webServer] // HTTP/2 alone
	inside   *webServer                // the same for the private network, which a drain does not touch
	lost     *appStats                 // requests for nobody's host
	keepable allowance                 // of bodies

	life      context.Context // ends when nothing may go on any more
	end       context.CancelCauseFunc
	draining  atomic.Bool
	leaving   atomic.Bool    // no visitors any more, but other nodes' routers
	goes      sync.WaitGroup // every goroutine of the router
	accepting sync.WaitGroup // those that accept visitors; Add with mu held
	ready     chan struct{}
	changed   chan struct{} // the table has changed: look after the listeners

	telling sync.Mutex // keeps reports of problems in order; taken before mu

	mu        sync.Mutex // guards what follows
	doors     map[string]*door
	seats     map[seatKey]*seat
	queues    map[queueKey]*queue
	peers     map[netip.AddrPort]*peer
	distances map[string]Distance
	stats     map[string]*appStats
	listeners map[int]net.Listener
	hostIn    net.Listener // of other routers
	inherited map[int]bool // ports whose listener of Config.Inherited was taken
	deaf      []Problem    // ports that could not be opened
	told      string       // the problems as last told
	live      map[visitor]struct{}
	fates     map[*seat]fate // what the present table is sure of
	severing  bool           // severLater has been called
}

type seatKey struct {
	machine string
	port    int
}

type queueKey struct {
	app  string
	port int
}

// visitor is a client's connection, as far as a shutdown has to do with it.
type visitor interface {
	closeIdle() // closes it if it is between two requests
	Close() error
}

// New makes a router with an empty table. It opens nothing yet.
func New(cfg Config) *Router {
	r := &Router{
		cfg:   cfg.withDefaults(),
		ready: make(chan struct{}), changed: make(chan struct{}, 1),
		doors: map[string]*door{}, seats: map[seatKey]*seat{}, queues: map[queueKey]*queue{}, peers: map[netip.AddrPort]*peer{}, inherited: map[int]bool{},
		stats: map[string]*appStats{}, listeners: map[int]net.Listener{}, live: map[visitor]struct{}{},
	}
	r.log = r.cfg.Logger
	r.keepable.left.Store(r.cfg.KeptBodies)
	r.life, r.end = context.WithCancelCause(context.Background())
	r.lost = r.statsFor("")
	r.tls = newTLS(r.cfg.Certificates, r.firstHost)
	r.web.Store(r.newWeb())
	r.inside = r.newWeb()
	r.routes.Store(r.compile(Table{}, &routes{}))
	return r
}

// Run opens the ports and serves until ctx ends; then it drains as Shutdown does, for Config.DrainTimeout. It returns an
// error at once if a port of the router itself (80, 443) cannot be opened; ports of apps are reported as Problems. After
// Shutdown it returns when that has. It may be called once.
func (r *Router) Run(ctx context.Context) error {
	if err := r.listenOwn(); err != nil {
		r.closeListeners()
		return err
	}
	if err := errors.Join(r.listenHost(), r.listenOwnAddresses()); err != nil {
		r.closeListeners()
		return err
	}
	for _, w := range []*webServer{r.web.Load(), r.inside} {
		r.goes.Go(func() { r.serveWeb(w) })
	}
	close(r.ready)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for ctx.Err() == nil && !r.draining.Load() {
		r.listenAll()
		select {
		case <-ctx.Done():
		case <-r.changed:
		case now := <-tick.C:
			r.sweep(now)
		}
	}
	if r.draining.Load() { // whoever called Shutdown knows how long to wait
		<-r.life.Done()
		return nil
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.DrainTimeout)
	defer cancel()
	if err := r.Shutdown(drain); err != nil {
		r.log.Warn("the router stopped before all was finished", "err", err)
	}
	return nil
}

// Ready is closed once Run has opened the router's own ports.
func (r *Router) Ready() <-chan struct{} { return r.ready }

// Shutdown stops accepting, lets what is in flight finish until ctx ends, and then closes what is left. It returns nil
// if everything finished by itself.
func (r *Router) Shutdown(ctx context.Context) error {
	r.draining.Store(true)
	r.poke()
	r.closeListeners()
	r.accepting.Wait()
	_ = r.wait(ctx, isArrival)
	servers := []*webServer{r.web.Load(), r.inside}
	web := make(chan error, len(servers))
	for _, s := range servers {
		go func() { web <- s.srv.Shutdown(ctx) }()
	}
	err := r.wait(ctx, func(visitor) bool { return true })
	for range servers {
		err = cmp.Or(err, <-web)
	}
	for _, s := range servers {
		_ = s.srv.Close()
	}
	r.closeInherited()
	r.end(errShutdown)
	r.eachLive(func(v visitor) { _ = v.Close() })
	r.closePools()
	r.goes.Wait()
	return err
}

func (r *Router) eachLive(fn func(visitor)) {
	r.mu.Lock()
	live := make([]visitor, 0, len(r.live))
	for v := range r.live {
		live = append(live, v)
	}
	r.mu.Unlock()
	for _, v := range live {
		fn(v)
	}
}

func (r *Router) closePools() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seats {
		s.disconnect()
	}
	for _, p := range r.peers {
		p.pool.close()
	}
}

func (s *seat) disconnect() {
	s.pool.close()
	s.h2.close()
}

// enterLive makes a connection known to Shutdown; after that it is closed at once.
func (r *Router) enterLive(v visitor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live[v] = struct{}{}
	if r.life.Err() != nil {
		_ = v.Close()
	}
}

func (r *Router) leaveLive(v visitor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, v)
}

// SetTable replaces the table. A table that can only be a mistake is refused with an error, and the old one stays; what
// cannot be done for one app is a [Problem] and does not disturb the others. t must not be changed afterwards.
func (r *Router) SetTable(t Table) error {
	if err := t.validate(); err != nil {
		return err
	}
	r.mu.Lock()
	next := r.compile(t, r.routes.Load())
	r.settle(next)
	r.routes.Store(next)
	for _, q := range r.queues {
		q.kick()
	}
	r.mu.Unlock()
	r.tellProblems()
	r.poke()
	return nil
}

func (r *Router) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// settle brings what outlives a table in line with the next one; r.mu is held.
func (r *Router) settle(next *routes) {
	used := map[*seat]temper{}
	peers := map[*peer]bool{}
	fates, now := map[*seat]fate{}, time.Now()
	for tg := range next.targets() {
		for i := range tg.spots {
			sp := &tg.spots[i]
			used[sp.seat] = sp.temper
			sp.seat.door.see(sp.temper)
			if sp.peer != nil {
				peers[sp.peer] = true
				continue
			}
			if f, sure := sp.fate(now); sure {
				fates[sp.seat] = f
			}
		}
	}
	for key, s := range r.seats {
		t, ok := used[s]
		s.retired.Store(!ok || t == unfit)
		if !ok {
			s.disconnect()
			fates[s] = fate{since: now}
			if s.n.Load() == 0 {
				delete(r.seats, key)
			}
		}
	}
	for s, f := range fates {
		if old, ok := r.fates[s]; ok && old.addr == f.addr && old.state == f.state {
			f.since = old.since
			fates[s] = f
		}
	}
	r.fates = fates
	r.sweepDoors()
	r.sweepPeers(peers)
	r.severLater()
}

// fate is where a table says that a machine is reached, an invalid address if it has ended for now, and since when tables
// say so.
type fate struct {
	addr  netip.AddrPort
	state string
	since time.Time
}

// severDelay is how long a machine must be gone by the table before its connections are closed: a table may be a little
// older than a wake that has happened since. Connections that are younger than the table's news are never closed: they
// come from a wake that tables do not show yet.
const severDelay = 250 * time.Millisecond

// severLater closes what is still open to machines that ended or moved; r.mu is held.
func (r *Router) severLater() {
	if r.severing {
		return
	}
	r.severing = true
	time.AfterFunc(severDelay, r.sever)
}

func (r *Router) sever() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.severing = false
	again := false
	for s, f := range r.fates {
		if time.Since(f.since) < severDelay {
			again = true
			continue
		}
		s.pool.sever(f.addr, f.since)
	}
	if again && r.life.Err() == nil {
		r.severLater()
	}
}

// sweepDoors forgets machines that no service has and nothing is in flight to.
func (r *Router) sweepDoors() {
	used := map[string]bool{}
	for key := range r.seats {
		used[key.machine] = true
	}
	for id, d := range r.doors {
		if !used[id] && d.word.CompareAndSwap(0, doorDead) {
			delete(r.doors, id)
		}
	}
}

func (t *routes) targets() map[*target]bool {
	out := map[*target]bool{}
	for _, h := range t.hosted {
		out[h.plain] = true
	}
	for _, app := range t.apps {
		for _, ports := range []map[int]*target{app.ports, app.own} {
			for _, tg := range ports {
				out[tg] = true
			}
		}
	}
	return out
}

// sweep closes connections to machines that are past their time.
func (r *Router) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.seats {
		s.pool.sweep(now)
	}
	for _, p := range r.peers {
		p.pool.sweep(now)
	}
}

// seatFor, queueFor, statsFor and doorFor find or make what outlives tables; r.mu is held (New needs no lock).
func (r *Router) seatFor(machine string, port int) *seat {
	key := seatKey{machine, port}
	s := r.seats[key]
	if s == nil {
		s = &seat{door: r.doorFor(machine), port: port}
		r.seats[key] = s
	}
	return s
}

func (r *Router) doorFor(machine string) *door {
	d := r.doors[machine]
	if d == nil {
		d = &door{id: machine}
		r.doors[machine] = d
	}
	return d
}

func (r *Router) queueFor(app string, port int) *queue {
	key := queueKey{app, port}
	q := r.queues[key]
	if q == nil {
		q = &queue{}
		r.queues[key] = q
	}
	return q
}

func (r *Router) statsFor(app string) *appStats {
	s := r.stats[app]
	if s == nil {
		s = &appStats{}
		r.stats[app] = s
	}
	return s
}

// Activity says how much is in flight to a machine (requests, open WebSockets and streams, TCP connections, requests
// that wait for its wake) and when the last of it ended; zero if nothing ever did.
func (r *Router) Activity(machine string) (inflight int, last time.Time) {
	r.mu.Lock()
	d := r.doors[machine]
	r.mu.Unlock()
	if d == nil {
		return 0, time.Time{}
	}
	if n := d.last.Load(); n > 0 {
		last = time.Unix(0, n)
	}
	return int(d.word.Load() & (doorShut - 1)), last
}

// Quiesce shuts the door of a machine that is to be put to sleep, if nothing is in flight to it; ok says whether. The
// connections to it that are kept for later are closed. Then either Commit or Cancel must be called, soon.
//
// The promise: from a true ok until Commit or Cancel no byte is sent to the machine. A request that arrives meanwhile
// goes to another running machine; if there is none it waits, and Hold.Wanted says so. After Commit it wakes the
// machine, after Cancel it goes straight there. So no request is ever sent to a machine that is about to freeze, and
// none is lost to one:
//
//	hold, ok := router.Quiesce(id)
//	if !ok { return } // busy
//	err := suspend(id, hold.Wanted()) // breaks off when somebody wants it
//	if err != nil { hold.Cancel() } else { hold.Commit() }
func (r *Router) Quiesce(machine string) (hold *Hold, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hold, ok = r.doorFor(machine).shut()
	if !ok {
		return nil, false
	}
	for key, s := range r.seats {
		if key.machine == machine {
			s.disconnect()
		}
	}
	return hold, true
}

// Serves says that some app in the table answers to the host; certificates are made only for those.
func (r *Router) Serves(host string) bool {
	var room [256]byte
	return r.routes.Load().byHost(normalHost(room[:0], []byte(host))) != nil
}

// normalHost appends host to dst in lower case, without its port and final dot.
func normalHost(dst, host []byte) []byte {
	n := len(host)
	for i := n - 1; i >= 0 && host[i] != ']'; i-- {
		if host[i] == ':' {
			n = i
			break
		}
	}
	if n > 0 && host[n-1] == '.' {
		n--
	}
	for _, c := range host[:n] {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return dst
}
