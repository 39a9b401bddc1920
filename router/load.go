package router

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// door stands before a machine. It counts what is in flight there, for all its services, and can be shut while the idle
// policy decides whether the machine goes to sleep.
//
// Count and lock are one atomic word, so that "nothing is in flight, and nothing comes any more" is one step: a request
// either is counted before the door shuts, and then it does not shut, or finds it shut.
type door struct {
	id   string
	word atomic.Int64 // in flight, plus doorShut or doorDead
	last atomic.Int64 // when something last ended here, Unix nanoseconds

	// belief corrects the table while that lags behind what the router knows itself.
	belief atomic.Pointer[belief]
	rising atomic.Bool // a wake is under way

	mu     sync.Mutex // guards what follows
	hold   *Hold
	waking *waking
}

const (
	doorShut = 1 << 40
	doorDead = 1 << 41 // swept away; look the machine up again
)

// belief is what the router knows and the table may not say yet: asleep (without addr) or awake.
type belief struct {
	addr     netip.Addr
	began    time.Time   // when the wake began
	answered atomic.Bool // its port has answered since
}

func (b *belief) awake() bool { return b.addr.IsValid() }

func (d *door) enter() bool {
	for {
		w := d.word.Load()
		if w >= doorShut {
			return false
		}
		if d.word.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

func (d *door) leave() {
	d.last.Store(time.Now().UnixNano())
	d.word.Add(-1)
}

// see takes note of what a new table says. A table that shows the machine running does not undo our knowledge that it
// was put to sleep, because it may be older than that; Wake will tell, and costs little if it runs. Nor does it tell
// whether the port of a machine just woken answers.
func (d *door) see(t temper) {
	b := d.belief.Load()
	if b != nil && (t != running || b.answered.Load()) {
		d.belief.CompareAndSwap(b, nil)
	}
}

// disbelieve gives up what was thought of a machine that was woken and does not answer.
func (d *door) disbelieve() {
	if b := d.belief.Load(); b != nil && b.awake() {
		d.belief.CompareAndSwap(b, nil)
	}
}

// Hold is a machine's door held shut by [Router.Quiesce].
type Hold struct {
	door   *door
	once   sync.Once
	wanted chan struct{}
	asked  bool // wanted is closed; guarded by door.mu
	done   chan struct{}
}

// Wanted is closed when a request arrives that only this machine can take, or would have to wake another one for. It
// waits until Commit or Cancel; whoever puts the machine to sleep should break off if that is still cheap.
func (h *Hold) Wanted() <-chan struct{} { return h.wanted }

// Commit says that the machine is asleep. From now on the router wakes it for requests, those that wait included,
// even while tables still show it running.
func (h *Hold) Commit() { h.end(true) }

// Cancel says that the machine runs as before. Cancel and Commit after either of them do nothing.
func (h *Hold) Cancel() { h.end(false) }

func (h *Hold) end(asleep bool) {
	h.once.Do(func() {
		d := h.door
		d.mu.Lock()
		defer d.mu.Unlock()
		if asleep {
			d.belief.Store(&belief{})
		}
		d.hold = nil
		d.word.Add(-doorShut)
		close(h.done)
	})
}

// shut closes the door if nothing is in flight.
func (d *door) shut() (*Hold, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.word.CompareAndSwap(0, doorShut) {
		return nil, false
	}
	d.hold = &Hold{door: d, wanted: make(chan struct{}), done: make(chan struct{})}
	return d.hold, true
}

// want tells the holder that a request waits, and returns what that waits for: nil if the door is open again.
func (d *door) want() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hold
	if h == nil {
		return nil
	}
	if !h.asked {
		h.asked = true
		close(h.wanted)
	}
	return h.done
}

// seat is a machine as one internal port: where concurrency is counted and connections are kept.
type seat struct {
	door    *door
	port    int
	n       atomic.Int64
	retired atomic.Bool // gone from the table, or takes no new requests: the queue gets nothing from it
	pool    pool
	h2      h2backend
	told    atomic.Pointer[load] // what its owner said last, if that is another node
	shunned atomic.Int64         // until then (Unix nanoseconds) it is avoided, because its owner refused requests
}

// enter takes a place, if limit (0: none) and door let it.
func (s *seat) enter(limit int) bool {
	for {
		n := s.n.Load()
		if limit > 0 && n >= int64(limit) {
			return false
		}
		if s.n.CompareAndSwap(n, n+1) {
			break
		}
	}
	if s.door.enter() {
		return true
	}
	s.n.Add(-1)
	return false
}

// slot is a place taken on a machine. It must be released once.
type slot struct {
	target *target
	seat   *seat
	addr   netip.AddrPort
	woken  time.Time // when its wake began, if it was woken for this
	peer   *peer     // the machine is on that node; nil: on ours
	insist bool      // there it must be held as it would be here: nobody else is left
}

// kept is where connections like this one's are kept.
func (s *slot) kept() *pool {
	if s.peer != nil {
		return &s.peer.pool
	}
	return &s.seat.pool
}

// release gives the place back, and then to who waits longest for one. It is given back first: who joins the queue looks
// again after joining, so that one of the two sees the other.
func (s *slot) release() {
	s.seat.n.Add(-1)
	s.seat.door.leave()
	if q := s.target.queue; q.waiting.Load() > 0 {
		q.offer(s.seat, s.target.limits.hard)
	}
}

// queue is where requests wait for a place on any machine of a service.
type queue struct {
	waiting atomic.Int64
	mu      sync.Mutex // guards list
	list    []*waiter
}

// waiter gets a seat, entered for it, or nil when it should look again.
type waiter struct{ got chan *seat }

// join adds a waiter, or returns nil if the queue is full.
func (q *queue) join(limit int) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) >= limit {
		return nil
	}
	w := &waiter{got: make(chan *seat, 1)}
	q.list = append(q.list, w)
	q.waiting.Store(int64(len(q.list)))
	return w
}

// quit removes a waiter and returns the seat that it was given meanwhile, if any.
func (q *queue) quit(w *waiter) *seat {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, x := range q.list {
		if x == w {
			q.list = append(q.list[:i], q.list[i+1:]...)
			q.waiting.Store(int64(len(q.list)))
			break
		}
	}
	select {
	case s := <-w.got:
		return s
	default:
		return nil
	}
}

// offer gives a place on s to the one who waits longest.
func (q *queue) offer(s *seat, limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 || s.retired.Load() || !s.enter(limit) {
		return
	}
	w := q.list[0]
	q.list = append(q.list[:0], q.list[1:]...)
	q.waiting.Store(int64(len(q.list)))
	select {
	case <-w.got: // a kick that it has not seen yet
	default:
	}
	w.got <- s
}

// kick makes all waiters look again: the table or a machine's state has changed.
func (q *queue) kick() {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, w := range q.list {
		select {
		case w.got <- nil:
		default:
		}
	}
}
