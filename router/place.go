package router

import (
	"bytes"
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
	tries   int  // sent to another node, or tried to
	afar    bool // another node has refused it
	insist  bool // refusals are no use any more: ask to be held

	until    time.Time // a replay's timeout
	fellBack bool      // a replay that found nobody is back with who asked for it
}

// refusal is a request that no machine gets. Its reason is shown to the visitor.
type refusal struct {
	status int
	reason string
	retry  int    // seconds for Retry-After, or 0
	code   string // for another router, one of the codes; empty: silent
}

const statusClientGone = 499 // for the log only

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, reason: fmt.Sprintf(format, args...)}
}

// reach gets an open connection to a machine that may be used for one request. Machines that do not accept are left out
// and others tried; if all of them fail, the request is held until one accepts or the time is up.
func (r *Router) reach(tr *trip) (slot, *upstream, *refusal) {
	for {
		if !tr.until.IsZero() && time.Now().After(tr.until) {
			return slot{}, nil, refuse(http.StatusGatewayTimeout, "nobody took the replayed request in time: %v", tr.cause)
		}
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
		if tr.brief() {
			return slot{target: s.target}, nil, &refusal{status: http.StatusServiceUnavailable, reason: err.Error(), code: codeSilent}
		}
	}
}

func (tr *trip) fail(s *seat, err error) {
	tr.failed = append(tr.failed, s)
	tr.cause = err
	tr.start()
}

// brief says that another router asks, which would rather try elsewhere than have its request held here.
func (tr *trip) brief() bool { return tr.ask.order != nil && tr.ask.order.flags&insist == 0 }

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
		if tg.tokens != nil {
			tr.ask.follow(tg)
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
		if ch.also >= 0 && !tr.brief() {
			r.wakeAlso(tg, &tg.spots[ch.also])
		}
		s = sp.slot(tg)
		if sp.peer != nil { // its own router does the rest
			ch.verdict = toSend
			s.insist = tr.insist || tg.limits.alone(cs)
		}
		return s, ch, true
	}
}

func (sp *spot) slot(tg *target) slot {
	return slot{target: tg, seat: sp.seat, addr: sp.address(), peer: sp.peer}
}

// alone says that there is only one machine to try.
func (l limits) alone(cs []candidate) bool {
	n := 0
	for i := range cs {
		if v := l.verdict(&cs[i]); v != toNone && !cs[i].down {
			n++
		}
	}
	return n <= 1
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
		if sp.peer != nil {
			c.locate(sp, tg.limits.hard)
		}
		if b := d.belief.Load(); b != nil && c.temper != unfit {
			c.believe(b)
		}
		if len(tr.ask.force) > 0 && sp.id != string(tr.ask.force) {
			c.temper = unfit
		}
		c.wanted = len(tr.ask.prefer) > 0 && sp.id == string(tr.ask.prefer)
		c.favored = len(tr.ask.near) > 0 && listed(tr.ask.near, sp.region)
		if tr.ask.replay != nil {
			tr.ask.replay.judge(sp, &c)
		}
		c.tried = len(tr.failed) > 0 && slices.Contains(tr.failed, sp.seat)
		cs = append(cs, c)
	}
	return cs
}

// listed says that a region is in a list such as "syd, FRA".
func listed(list []byte, region string) bool {
	for {
		one, rest, more := bytes.Cut(list, comma)
		if strings.EqualFold(string(bytes.TrimSpace(one)), region) && region != "" {
			return true
		}
		if list = rest; !more {
			return false
		}
	}
}

var comma = []byte{','}

// locate adds what only machines of other nodes have.
func (c *candidate) locate(sp *spot, hard int) {
	c.rtt = time.Duration(sp.peer.rtt.Load())
	if c.rtt == 0 {
		c.rtt = sp.guess
	}
	c.down = sp.peer.gone() || sp.seat.shuns()
	c.inflight += sp.seat.others(hard)
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
		if tr.brief() {
			return slot{}, &refusal{status: http.StatusServiceUnavailable, reason: "all machines are at their limit", retry: 1, code: codeFull}
		}
		if tg.places == placedAfar {
			return r.queueAfar(tr, tg)
		}
		return r.waitTurn(tr, tg)
	}
	return slot{}, r.waitAgain(tr, tg)
}

// queueAfar sends a request to wait where the machine is that would be best if it had room: only its own router sees room
// come, whoever leaves it.
func (r *Router) queueAfar(tr *trip, tg *target) (slot, *refusal) {
	free := limits{wake: tg.limits.wake}
	ch := choose(free, tr.view(nil, tg), r.turn.Add(1))
	if ch.index < 0 || !tg.spots[ch.index].seat.enter(0) {
		return slot{}, &refusal{status: http.StatusServiceUnavailable, reason: "all machines are at their limit", retry: 1}
	}
	s := tg.spots[ch.index].slot(tg)
	s.insist = true
	return s, nil
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
		return &refusal{status: http.StatusServiceUnavailable, reason: "the machine neither went to sleep nor came back in time", retry: 1}
	}
}

// waitTurn joins the queue of a service whose machines are all at their hard limit.
func (r *Router) waitTurn(tr *trip, tg *target) (slot, *refusal) {
	w := tg.queue.join(r.cfg.QueueLength)
	if w == nil {
		return slot{}, &refusal{status: http.StatusServiceUnavailable, reason: "all machines are at their limit, and the queue is full", retry: 1}
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
	limit := r.cfg.QueueTimeout - time.Since(tr.began)
	if !tr.until.IsZero() {
		limit = min(limit, time.Until(tr.until))
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var look <-chan time.Time // room on other nodes comes unseen
	if tg.places&placedAfar != 0 {
		again := time.NewTicker(believedFull)
		defer again.Stop()
		look = again.C
	}
	for {
		select {
		case seat := <-w.got:
			return r.handed(tr, tg, seat)
		case <-ctx.Done():
			return slot{}, false, gone(ctx)
		case <-timer.C:
			return slot{}, false, &refusal{status: http.StatusServiceUnavailable, reason: "all machines stayed at their limit", retry: 1, code: codeFull}
		case <-look:
			if s, ch, ok := r.seize(tg, tr); ok && ch.verdict == toSend {
				return s, true, nil
			} else if ok {
				s.release()
			}
		}
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
			return sp.slot(tg), true, nil
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
	case tr.brief():
		return &refusal{status: http.StatusServiceUnavailable, reason: fmt.Sprint(tr.cause), code: tr.code()}
	case tr.afar && !tr.insist:
		tr.insist, tr.failed = true, tr.failed[:0]
		return nil
	case tr.wakeErr != nil && !tr.refused:
		return &refusal{status: http.StatusServiceUnavailable, reason: "no machine could be woken: " + tr.wakeErr.Error(), retry: 5}
	case time.Since(tr.began) > r.cfg.ConnectTimeout && errors.As(tr.cause, new(farError)):
		return refuse(http.StatusBadGateway, "no machine of app %q can be reached: %v", tg.app.name, tr.cause)
	case time.Since(tr.began) > r.cfg.ConnectTimeout:
		return refuse(http.StatusBadGateway, "no machine of app %q accepts connections: %v; does the app listen on 0.0.0.0, and on the configured internal port?",
			tg.app.name, tr.cause)
	}
	silent := errors.Is(tr.cause, os.ErrDeadlineExceeded) || errors.Is(tr.cause, context.DeadlineExceeded)
	if tr.rounds++; (tr.rounds > 1 || silent) && tg.limits.wake && tg.places&placedHere != 0 && !tr.doubted {
		tr.doubt()
	}
	tr.failed, tr.refused = tr.failed[:0], false
	ctx := tr.client.hold()
	if !pause(ctx, backoff(tr.rounds)) {
		return gone(ctx)
	}
	if !tr.until.IsZero() && time.Now().After(tr.until) {
		return refuse(http.StatusGatewayTimeout, "nobody took the replayed request in time: %v", tr.cause)
	}
	return nil
}

func (tr *trip) code() string {
	if tr.wakeErr != nil {
		return codeFailed
	}
	return codeSilent
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
		return &refusal{status: http.StatusServiceUnavailable, reason: errShutdown.Error(), retry: 1}
	}
	return refuse(statusClientGone, "the client went away")
}

func nobody(tr *trip, tg *target) *refusal {
	if len(tr.ask.force) > 0 {
		return refuse(http.StatusServiceUnavailable, "app %q has no machine %q that takes requests", tg.app.name, tr.ask.force)
	}
	if len(tg.spots) == 0 {
		return &refusal{status: http.StatusServiceUnavailable, reason: fmt.Sprintf("app %q has no machines", tg.app.name), retry: 5}
	}
	if rp := tr.ask.replay; rp != nil {
		return refuse(http.StatusServiceUnavailable, "app %q has no machine%s that takes requests; a replay was asked for by machine %q", tg.app.name, rp.which(), rp.self)
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
	return &refusal{status: http.StatusServiceUnavailable, retry: 5, code: codeGone,
		reason: fmt.Sprintf("no machine of app %q takes requests: they are %s%s", tg.app.name, strings.Join(states, ", "), why)}
}

func (r *Router) notFound(a *ask, v verdict) *refusal {
	switch v {
	case toGone:
		return &refusal{status: http.StatusServiceUnavailable, reason: fmt.Sprintf("machine %q is not here", a.order.machine), code: codeGone}
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
