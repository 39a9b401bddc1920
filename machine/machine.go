package machine

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/sandbox"
)

// machine is one machine of this node. An operation holds its turn; everybody
// else reads the view.
type machine struct {
	host *Host
	id   string
	turn chan struct{} // holds one token while an operation is under way

	view atomic.Pointer[view]

	// Only who holds the turn touches these.
	plan  *plan         // how to start the present version; nil until it is known
	life  *life         // the sandbox there is, nil if none
	later func()        // is done before the turn goes on, while the caller has its answer; nil for nothing
	read  chan struct{} // closed when the former life's console has been read; nil if there was none

	busy atomic.Int32 // commands running by Exec: the machine is not idle

	mu      sync.Mutex // guards what follows
	changed chan struct{}
	saver   saver
	wake    *wakeCall
	visited chan struct{} // closed while a visitor waits for the machine
	wanted  bool          // a request came while the machine was going to sleep
	retry   context.CancelFunc

	doom  sync.Once
	hurry chan struct{} // closed when the machine is to go by force: no stop is patient any more
}

// view is what readers see; it is never changed, only replaced.
type view struct {
	rec     Record
	addr    netip.Addr // where the node reaches the machine, if it has a sandbox
	checks  []api.CheckStatus
	probes  []probe // what the checks do, in the same order
	healthy bool
	since   time.Time // when the state began
	gone    bool      // destroyed
}

// life is one sandbox of a machine.
type life struct {
	id    string
	slot  *mesh.Slot
	ctx   context.Context // ends with the life; checks and the watcher live under it
	end   context.CancelFunc
	began time.Time

	former     chan struct{} // the machine's read when this life began
	followed   chan struct{} // closed once the console is followed
	paused     bool          // the sandbox is frozen; only with the turn
	noSnapshot bool          // a checkpoint failed; not tried again by itself

	ended chan struct{} // closed when the main process has ended
	exit  sandbox.Exit  // valid once ended is closed
}

func newMachine(h *Host, rec Record) *machine {
	m := &machine{host: h, id: rec.ID, turn: make(chan struct{}, 1), changed: make(chan struct{}), hurry: make(chan struct{}), visited: make(chan struct{})}
	m.saver.moved = make(chan struct{})
	m.view.Store(&view{rec: rec, since: time.Now()})
	return m
}

// now returns the present view.
func (m *machine) now() *view { return m.view.Load() }

// take waits for the machine's turn.
func (m *machine) take(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeTimeout, "machine %q is busy: it is %s", m.id, m.now().rec.State)
	}
}

// tryTake is take without waiting.
func (m *machine) tryTake() bool {
	select {
	case m.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

func (m *machine) give() {
	m.settle()
	<-m.turn
}

// settle does what was put off until the end of the turn. Who goes on with the machine's
// life in the same turn calls it first.
func (m *machine) settle() {
	if f := m.later; f != nil {
		m.later = nil
		f()
	}
}

// show changes what readers see, and does not write it down: for states that
// are passed through.
func (m *machine) show(edit func(*view)) {
	m.mu.Lock()
	m.edit(edit)
	m.mu.Unlock()
	m.host.tell(m.id)
}

// record changes what readers see and begins to write it down; sync waits for
// that.
func (m *machine) record(edit func(*view)) {
	m.mu.Lock()
	m.edit(func(v *view) {
		edit(v)
		v.rec.UpdatedAt = time.Now().UTC()
	})
	m.save()
	m.mu.Unlock()
	m.host.tell(m.id)
}

// edit replaces the view with an edited copy; mu is held.
func (m *machine) edit(edit func(*view)) {
	old := m.view.Load()
	v := *old
	edit(&v)
	if v.rec.State != old.rec.State {
		v.since = time.Now()
	}
	v.healthy = v.rec.State == api.StateStarted && v.passes()
	m.view.Store(&v)
	close(m.changed)
	m.changed = make(chan struct{})
}

// next returns the present view and a channel that is closed with the next change.
func (m *machine) next() (*view, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view.Load(), m.changed
}

// pass shows a state that is passed through.
func (m *machine) pass(state string) { m.show(func(v *view) { v.rec.State = state }) }

func (m *machine) identity() mesh.Identity {
	r := &m.now().rec
	return mesh.Identity{Org: r.Org, App: r.App, Machine: r.ID}
}
