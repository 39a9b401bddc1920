package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// waking is a wake under way, shared by all requests that wait for it.
type waking struct {
	began time.Time
	done  chan struct{}
	addr  netip.Addr // set before done is closed, as err
	err   error
}

// rouse wakes the machine of a place already taken there: what is in flight keeps it from going to sleep again.
func (r *Router) rouse(tr *trip, s slot) (slot, *refusal) {
	if b := s.seat.door.belief.Load(); b != nil && b.awake() { // all but its port
		s.addr, s.woken = netip.AddrPortFrom(b.addr, s.addr.Port()), b.began
		return s, nil
	}
	ctx := tr.client.hold()
	w, err := r.wake(ctx, s.seat.door, s.target)
	if err == nil {
		s.addr, s.woken = netip.AddrPortFrom(w.addr, s.addr.Port()), w.began
		return s, nil
	}
	s.release()
	if ctx.Err() != nil {
		return slot{}, gone(ctx)
	}
	tr.wakeErr = err
	tr.fail(s.seat, err)
	return slot{}, nil
}

// wake joins the machine's wake, or begins it. A wake goes on when those who wait for it leave.
func (r *Router) wake(ctx context.Context, d *door, tg *target) (*waking, error) {
	d.mu.Lock()
	w := d.waking
	if w == nil {
		w = &waking{began: time.Now(), done: make(chan struct{})}
		d.waking = w
		d.rising.Store(true)
		r.goes.Go(func() { r.runWake(d, tg, w) })
	}
	d.mu.Unlock()
	select {
	case <-w.done:
		return w, w.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Router) runWake(d *door, tg *target, w *waking) {
	ctx, cancel := context.WithTimeout(r.life, r.cfg.WakeTimeout)
	defer cancel()
	w.addr, w.err = r.callWaker(ctx, d.id)
	d.mu.Lock()
	if w.err == nil {
		d.belief.Store(&belief{addr: w.addr, began: w.began})
	}
	d.waking = nil
	d.rising.Store(false)
	d.mu.Unlock()
	close(w.done)
	tg.app.stats.wakeDone(w.err)
	if w.err != nil {
		r.log.Warn("machine did not wake", "app", tg.app.name, "machine", d.id, "err", w.err)
	}
	tg.queue.kick()
}

func (r *Router) callWaker(ctx context.Context, machine string) (netip.Addr, error) {
	if r.cfg.Waker == nil {
		return netip.Addr{}, errors.New("this node wakes no machines")
	}
	addr, err := r.cfg.Waker.Wake(ctx, machine)
	if err == nil && !addr.IsValid() {
		err = fmt.Errorf("machine %q woke without an address", machine)
	}
	return addr, err
}

// wakeAlso wakes one more machine, wherever it is.
func (r *Router) wakeAlso(tg *target, sp *spot) {
	if sp.peer != nil {
		r.wakeAfar(tg, sp)
		return
	}
	r.wakeBesides(tg, sp)
}

// wakeBesides wakes one more machine for the requests to come, and waits for its port.
func (r *Router) wakeBesides(tg *target, sp *spot) {
	if sp.seat.door.rising.Load() || !sp.seat.enter(tg.limits.hard) {
		return
	}
	r.goes.Go(func() {
		tr := trip{ask: &ask{}, client: patient{r.life}}
		tr.start()
		s, _ := r.rouse(&tr, slot{target: tg, seat: sp.seat, addr: sp.address()})
		if s.seat == nil {
			return // it is logged where it failed; the requests go elsewhere
		}
		defer s.release()
		if u, err := r.openFor(&tr, &s); err == nil && u != nil {
			r.keep(&s, u, 0)
		}
	})
}

// dialWoken dials a machine that was just woken until its port answers. A refused attempt is repeated after 1 ms at
// first, and a silent one is given up early, because the kernel repeats a lost SYN only after a second.
func (r *Router) dialWoken(tr *trip, s *slot) (*upstream, error) {
	limit := r.cfg.WakeTimeout
	if tr.doubted {
		limit = r.cfg.ConnectTimeout
	}
	ctx, cancel := context.WithDeadline(tr.client.hold(), tr.began.Add(limit))
	defer cancel()
	try, asked := 20*time.Millisecond, time.Now()
	for round := 1; ; round++ {
		u, err := r.dial(ctx, s, try)
		if err == nil {
			s.target.app.stats.wakeAnswered(time.Since(s.woken))
			if b := s.seat.door.belief.Load(); b != nil {
				b.answered.Store(b.awake())
			}
			s.target.queue.kick()
			return u, nil
		}
		if !pause(ctx, backoff(round)) {
			s.seat.door.disbelieve()
			tr.wakeErr = fmt.Errorf("its port did not answer within %s: %w", limit, err)
			return nil, tr.wakeErr
		}
		try = min(try*2, 500*time.Millisecond)
		if time.Since(asked) > time.Second { // it may have died meanwhile: the waker knows
			if asked, err = time.Now(), r.stillAwake(ctx, s); err != nil {
				tr.wakeErr = err
				return nil, err
			}
		}
	}
}

func (r *Router) stillAwake(ctx context.Context, s *slot) error {
	w, err := r.wake(ctx, s.seat.door, s.target)
	if err == nil {
		s.addr = netip.AddrPortFrom(w.addr, s.addr.Port())
	}
	return err
}
