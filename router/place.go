package router

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// A client is who a request is held for. hold is called when the request is about to wait, and returns a context that
// ends when the client goes away; what needs no waiting never pays for that.
type client interface{ hold() context.Context }

// trip is the way of one request, or one raw connection, to a machine: it remembers what has failed.
type trip struct {
	ask    *ask
	client client

	began   time.Time // of the first obstacle
	failed  []*seat
	cause   error // the last failure
	wakeErr error // the last wake that failed
	refused bool  // some machine runs, but does not accept
	rounds  int
	doubted bool // a machine said to run was woken all the same
	fresh   bool // take no kept connection
	careful bool // the request must not be sent twice: look at a kept connection before
}

// refusal is a request that no machine gets. Its reason is shown to the visitor.
type refusal struct {
	status int
	reason string
	retry  int // seconds for Retry-After, or 0
}

const statusClientGone = 499 // for the log only

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, reason: fmt.Sprintf(format, args...)}
}

// reach gets an open connection to a machine that may be used for one request. Machines that do not accept are left out
// and others tried; if all of them fail, the request is held until one accepts or the time is up.
func (r *Router) reach(tr *trip) (slot, *upstream, *refusal) {
	for {
		s, rf := r.admit(tr)
		if rf != nil {
			return s, nil, rf
		}
		u, err := r.openFor(tr, &s)
		if err == nil {
			return s, u, nil
		}
		s.release()
		tr.fail(s.seat, err)
		tr.refused = tr.refused || s.woken.IsZero()
	}
}

func (tr *trip) fail(s *seat, err error) {
	tr.failed = append(tr.failed, s)
	tr.cause = err
	tr.start()
}

func (tr *trip) start() {
	if tr.began.IsZero() {
		tr.began = time.Now()
	}
}

// admit takes a place on a running machine, waiting for it as far as the rules allow.
func (r *Router) admit(tr *trip) (slot, *refusal) {
	for {
		rt := r.routes.Load()
		tg, v := rt.find(tr.ask)
		if v != toService {
			return slot{target: tg}, r.notFound(tr.ask, v)
		}
		s, ch, ok := r.seize(tg, tr)
		if ok && ch.verdict == toSend {
			return s, nil
		}
		s, rf := r.linger(tr, tg, s, ch)
		if rf != nil || s.seat != nil {
			return s, rf
		}
	}
}

// seize chooses a machine and takes a place there, all without waiting. ok says that s is taken.
func (r *Router) seize(tg *target, tr *trip) (s slot, ch choice, ok bool) {
	var room [8]candidate
	for {
		cs := tr.view(room[:0], tg)
		ch = choose(tg.limits, cs, r.turn.Add(1))
		if ch.verdict != toSend && ch.verdict != toWake {
			return slot{target: tg}, ch, false
		}
		sp := &tg.spots[ch.index]
		if !sp.seat.enter(tg.limits.hard) {
			continue // someone was quicker
		}
		if ch.also >= 0 {
			r.wakeBesides(tg, &tg.spots[ch.also])
		}
		return slot{target: tg, seat: sp.seat, addr: sp.address()}, ch, true
	}
}

// address is where the machine listens: as it told when it was woken, else as the table says.
func (sp *spot) address() netip.AddrPort {
	if b := sp.seat.door.belief.Load(); b != nil && b.awake() {
		return netip.AddrPortFrom(b.addr, sp.addr.Port())
	}
	return sp.addr
}

// view is the service's machines as they stand at this moment to this request.
func (tr *trip) view(cs []candidate, tg *target) []candidate {
	for i := range tg.spots {
		sp := &tg.spots[i]
		d := sp.seat.door
		c := candidate{
			temper: sp.temper, healthy: sp.healthy, local: sp.local, held: d.word.Load() >= doorShut,
			waking: d.rising.Load(), inflight: int(sp.seat.n.Load()),
		}
		if b := d.belief.Load(); b != nil && c.temper != unfit {
			c.believe(b)
		}
		if len(tr.ask.force) > 0 && sp.id != string(tr.ask.force) {
			c.temper = unfit
		}
		c.wanted = len(tr.ask.prefer) > 0 && sp.id == string(tr.ask.prefer)
		c.tried = len(tr.failed) > 0 && slices.Contains(tr.failed, sp.seat)
		cs = append(cs, c)
	}
	return cs
}

func (c *candidate) believe(b *belief) {
	switch {
	case b.answered.Load():
		c.temper, c.healthy = running, true
	case b.awake():
		c.temper, c.waking = coming, true
	case c.temper == running:
		c.temper = paused
	}
}

// linger does the waiting that a choice asks for. It returns a place, or a refusal, or neither: choose again.
func (r *Router) linger(tr *trip, tg *target, s slot, ch choice) (slot, *refusal) {
	tr.start()
	switch ch.verdict {
	case toWake:
		return r.rouse(tr, s)
	case toHold:
		return slot{}, r.waitHold(tr, tg.spots[ch.index].seat.door)
	case toQueue:
		return r.waitTurn(tr, tg)
	}
	return slot{}, r.waitAgain(tr, tg)
}

// waitHold waits until it is decided whether a machine goes to sleep.
func (r *Router) waitHold(tr *trip, d *door) *refusal {
	done := d.want()
	if done == nil {
		return nil
	}
	ctx := tr.client.hold()
	timer := time.NewTimer(r.cfg.QueueTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return gone(ctx)
	case <-timer.C:
		return &refusal{http.StatusServiceUnavailable, "the machine neither went to sleep nor came back in time", 1}
	}
}

// waitTurn joins the queue of a service whose machines are all at their hard limit.
func (r *Router) waitTurn(tr *trip, tg *target) (slot, *refusal) {
	w := tg.queue.join(r.cfg.QueueLength)
	if w == nil {
		return slot{}, &refusal{http.StatusServiceUnavailable, "all machines are at their limit, and the queue is full", 1}
	}
	s, ok, rf := r.queued(tr, tg, w)
	if given := tg.queue.quit(w); given != nil { // too late, or not needed
		back := slot{target: tg, seat: given}
		back.release()
	}
	if !ok {
		return slot{}, rf
	}
	return s, nil
}

func (r *Router) queued(tr *trip, tg *target, w *waiter) (slot, bool, *refusal) {
	if s, ch, ok := r.seize(tg, tr); ok { // room came before we had joined
		if ch.verdict == toSend {
			return s, true, nil
		}
		s, rf := r.rouse(tr, s)
		return s, s.seat != nil, rf
	}
	ctx := tr.client.hold()
	timer := time.NewTimer(r.cfg.QueueTimeout - time.Since(tr.began))
	defer timer.Stop()
	select {
	case seat := <-w.got:
		return r.handed(tr, tg, seat)
	case <-ctx.Done():
		return slot{}, false, gone(ctx)
	case <-timer.C:
		return slot{}, false, &refusal{http.StatusServiceUnavailable, "all machines stayed at their limit", 1}
	}
}

// handed takes the place that the queue gave, if this request may have it.
func (r *Router) handed(tr *trip, tg *target, given *seat) (slot, bool, *refusal) {
	if given == nil {
		return slot{}, false, nil
	}
	for i := range tg.spots {
		sp := &tg.spots[i]
		if sp.seat == given && (len(tr.ask.force) == 0 || sp.id == string(tr.ask.force)) && !slices.Contains(tr.failed, given) {
			return slot{target: tg, seat: given, addr: sp.address()}, true, nil
		}
	}
	back := slot{target: tg, seat: given}
	back.release()
	return slot{}, false, nil
}

// waitAgain decides what to do when nobody is left to try: machines that run but refuse connections may be about to
// listen, so that they are tried again for a while.
func (r *Router) waitAgain(tr *trip, tg *target) *refusal {
	switch {
	case len(tr.failed) == 0:
		return nobody(tr, tg)
	case tr.wakeErr != nil && !tr.refused:
		return &refusal{http.StatusServiceUnavailable, "no machine could be woken: " + tr.wakeErr.Error(), 5}
	case time.Since(tr.began) > r.cfg.ConnectTimeout:
		return refuse(http.StatusBadGateway, "no machine of app %q accepts connections: %v; does the app listen on 0.0.0.0, and on the configured internal port?",
			tg.app.name, tr.cause)
	}
	silent := errors.Is(tr.cause, os.ErrDeadlineExceeded) || errors.Is(tr.cause, context.DeadlineExceeded)
	if tr.rounds++; (tr.rounds > 1 || silent) && tg.limits.wake && !tr.doubted {
		tr.doubt()
	}
	tr.failed, tr.refused = tr.failed[:0], false
	ctx := tr.client.hold()
	if !pause(ctx, backoff(tr.rounds)) {
		return gone(ctx)
	}
	return nil
}

// doubt makes the next choice ask the waker for machines that are said to run and do not answer: they may sleep.
func (tr *trip) doubt() {
	tr.doubted = true
	for _, s := range tr.failed {
		s.door.belief.Store(&belief{})
	}
}

// backoff is 1 ms at first and at most 25 ms.
func backoff(round int) time.Duration {
	return time.Duration(min(round*round, 25)) * time.Millisecond
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

var errShutdown = errors.New("the router is shutting down")

// gone is for a request that was given up while it waited.
func gone(ctx context.Context) *refusal {
	if errors.Is(context.Cause(ctx), errShutdown) {
		return &refusal{http.StatusServiceUnavailable, errShutdown.Error(), 1}
	}
	return refuse(statusClientGone, "the client went away")
}

func nobody(tr *trip, tg *target) *refusal {
	if len(tr.ask.force) > 0 {
		return refuse(http.StatusServiceUnavailable, "app %q has no machine %q that takes requests", tg.app.name, tr.ask.force)
	}
	if len(tg.spots) == 0 {
		return &refusal{http.StatusServiceUnavailable, fmt.Sprintf("app %q has no machines", tg.app.name), 5}
	}
	var states []string
	for i := range tg.spots {
		if s := tg.spots[i].state; !slices.Contains(states, s) {
			states = append(states, s)
		}
	}
	why := ""
	if !tg.limits.wake {
		why = ", and auto_start is off"
	}
	return &refusal{http.StatusServiceUnavailable,
		fmt.Sprintf("no machine of app %q takes requests: they are %s%s", tg.app.name, strings.Join(states, ", "), why), 5}
}

func (r *Router) notFound(a *ask, v verdict) *refusal {
	switch v {
	case toHTTPS:
		return refuse(http.StatusMovedPermanently, "https only")
	case toNoPort:
		return refuse(http.StatusNotFound, "host %q offers nothing on port %d", a.host, a.port)
	}
	if r.cfg.Domain == "" {
		return refuse(http.StatusNotFound, "host %q is not known here", a.host)
	}
	return refuse(http.StatusNotFound, "host %q is not known here; apps of this node are <app>.%s", a.host, r.cfg.Domain)
}
