package anycast

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Announcer tells neighbors. Its methods may be called from any goroutine; what
// they ask for is carried out by Run.
type Announcer struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu       sync.Mutex // guards what follows
	wish     wish
	why      string // of the last change of health or set
	known    map[netip.Prefix]told
	held     time.Time // announcements wait until then
	changed  chan struct{}
	sessions map[netip.Addr]*session

	keep atomic.Bool // the kernel's routes stay when Run ends
}

// Status is how things stand.
type Status struct {
	// Healthy is what SetHealthy said last, Why its or Withdraw's reason.
	Healthy bool
	Why     string
	// Draining says that Drain was called.
	Draining bool
	// Announced are the prefixes that neighbors know from us. Marked are those of
	// them that carry GRACEFUL_SHUTDOWN.
	Announced, Marked []netip.Prefix
	// HeldUntil is when prefixes that flapped are announced again; zero if none wait.
	HeldUntil time.Time
	// Sessions are the neighbors, in the order of the configuration.
	Sessions []Session
}

// Session is the connection to a neighbor.
type Session struct {
	Neighbor netip.Addr
	ASN      uint32
	// Established says that it is told; State is BGP's word for it.
	Established bool
	State       string
	// Since is when that became so.
	Since time.Time
	// Error says in words why there is no session, "" if there is.
	Error string
}

// New checks the configuration. Nothing is announced before SetHealthy(true).
func New(cfg Config) (*Announcer, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	a := &Announcer{
		cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), why: "nobody said yet that the edge is healthy",
		wish: wish{set: cfg.Prefixes}, known: map[netip.Prefix]told{}, changed: make(chan struct{}), sessions: map[netip.Addr]*session{},
	}
	for _, n := range cfg.Neighbors {
		a.sessions[n.Address] = &session{neighbor: n, state: "idle", since: time.Now()}
		if n.ASN != cfg.ASN {
			a.warnOfLength(n)
		}
	}
	return a, nil
}

// warnOfLength says what most of the internet does with small networks.
func (a *Announcer) warnOfLength(n Neighbor) {
	for _, p := range a.cfg.Prefixes {
		if least := map[bool]int{true: 24, false: 48}[p.Addr().Is4()]; p.Bits() > least {
			a.log.Warn("a prefix is too long for the internet at large: the neighbor must announce a larger one that holds it", "prefix", p, "longest", least, "neighbor", n.Address)
		}
	}
}

// SetHealthy lets the prefixes be announced, or withdraws them at once, and says
// why.
func (a *Announcer) SetHealthy(ok bool, why string) {
	a.change(func() {
		if a.wish.healthy != ok {
			a.log.Info("edge's health changed", "healthy", ok, "why", why)
		}
		a.wish.healthy, a.why = ok, why
	})
}

// Drain brings clients elsewhere: it marks the prefixes, where the configuration
// says so, waits and withdraws them. It returns once they are withdrawn, or when
// ctx ends; the drain goes on then. It needs Run.
func (a *Announcer) Drain(ctx context.Context) error {
	a.change(func() {
		if a.wish.draining {
			return
		}
		a.wish.draining, a.wish.drainEnds = true, time.Now()
		if a.cfg.GracefulShutdown {
			a.wish.drainEnds = time.Now().Add(a.cfg.DrainWait)
		}
	})
	for {
		a.mu.Lock()
		gone, changed := a.nothingTold(), a.changed
		a.mu.Unlock()
		if gone {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for addresses to be withdrawn: %w", ctx.Err())
		}
	}
}

// Undrain ends what Drain began.
func (a *Announcer) Undrain() { a.change(func() { a.wish.draining = false }) }

// nothingTold needs mu.
func (a *Announcer) nothingTold() bool {
	for _, t := range a.known {
		if t.now != withdrawn {
			return false
		}
	}
	return true
}

func (a *Announcer) change(f func()) {
	a.mu.Lock()
	f()
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default: // Run is to look already
	}
}

// KeepRoutes has the kernel go on taking packets for the prefixes in when Run
// ends, for another process that takes over.
func (a *Announcer) KeepRoutes() { a.keep.Store(true) }

// Status may be asked at any time, also before Run and after it.
func (a *Announcer) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{Healthy: a.wish.healthy, Why: a.why, Draining: a.wish.draining, HeldUntil: a.held}
	for _, p := range a.cfg.Prefixes {
		if now := a.known[p].now; now != withdrawn {
			s.Announced = append(s.Announced, p)
			if now == marked {
				s.Marked = append(s.Marked, p)
			}
		}
	}
	for _, n := range a.cfg.Neighbors {
		s.Sessions = append(s.Sessions, a.sessions[n.Address].status())
	}
	return s
}

// Run takes packets for the prefixes in, speaks BGP and carries out what the
// other methods ask for, until ctx ends. Then it withdraws, closes the sessions
// and stops taking packets in; so it does when it fails, and may be called again.
func (a *Announcer) Run(ctx context.Context) error {
	undo, err := a.takeIn()
	if err != nil {
		return err
	}
	defer func() {
		if !a.keep.Load() {
			undo()
		}
	}()
	sp, err := a.startSpeaker()
	if err != nil {
		return err
	}
	defer sp.stop()
	for {
		again, err := a.reconcile(sp)
		if err != nil {
			a.withdrawAll(sp)
			return err
		}
		timer := time.NewTimer(until(again))
		select {
		case <-ctx.Done():
			timer.Stop()
			a.withdrawAll(sp)
			return nil
		case <-a.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func until(t time.Time) time.Duration {
	if t.IsZero() {
		return time.Hour
	}
	return max(0, time.Until(t))
}

// reconcile tells the neighbors what changed.
func (a *Announcer) reconcile(sp *speaker) (again time.Time, err error) {
	a.mu.Lock()
	w, known := a.wish, a.known
	a.mu.Unlock() // known is written by this goroutine alone
	now := time.Now()
	steps, again := decide(now, w, a.cfg.Prefixes, known, a.cfg.MinInterval)
	for _, s := range steps {
		if err := sp.tell(s); err != nil {
			return again, err
		}
		a.log.Info("neighbors were told", "prefix", s.prefix, "now", s.to)
		a.note(now, s)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held = again; a.wish.draining {
		a.held = time.Time{}
	}
	return again, nil
}

// note remembers what the neighbors know and wakes who waits for it.
func (a *Announcer) note(now time.Time, s step) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.known[s.prefix]
	if t.now == withdrawn {
		t.since = now
	}
	t.now = s.to
	a.known[s.prefix] = t
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Announcer) withdrawAll(sp *speaker) {
	for _, p := range a.cfg.Prefixes {
		if a.known[p].now == withdrawn {
			continue
		}
		if err := sp.tell(step{p, withdrawn}); err != nil {
			a.log.Warn("cannot withdraw; the end of the session will", "prefix", p, "error", err)
		}
		a.note(time.Now(), step{p, withdrawn})
	}
}

// String is the word for people.
func (h how) String() string { return [...]string{"withdrawn", "marked", "announced"}[h] }
