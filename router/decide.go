package router

import "time"

// This file is the whole of "where a request goes": pure functions of what is asked, the table in memory and the loads.
// routes.find names the service; choose names the machine. Nothing here waits, counts or sends.

// ask is what the decision takes from a request's head or a connection.
type ask struct {
	entrance
	host   []byte // lower case, without port and final dot; empty for raw TCP
	secure bool   // came over TLS
	force  []byte // only this machine
	prefer []byte // this machine if it can
	near   []byte // machines of this region if they can
	stick  []byte // the machine that the visitor's cookie leads to
	cookie []byte
	order  *order // another router has chosen already
	replay *replay
}

// verdict is what becomes of a request.
type verdict byte

const (
	// Of choose:
	toSend  verdict = iota // to the machine, at once
	toWake                 // to the machine, which must be woken first
	toHold                 // to the machine, once it is decided whether it goes to sleep
	toQueue                // wait until some machine has room
	toNone                 // there is no machine for it
	// Of find:
	toService     // the service is found; choose says more
	toUnknownHost // nobody here has this name
	toNoPort      // the app does not offer this port
	toHTTPS       // the app wants TLS: 301
	toGone        // another router means a machine that is not here
)

// find says which service of the table is asked for.
func (t *routes) find(a *ask) (*target, verdict) {
	switch {
	case a.order != nil:
		return t.ordered(a.order)
	case a.replay != nil && a.replay.App != "":
		return t.webOf(t.apps[a.replay.App], a)
	case a.own.IsValid():
		return t.atOwn(a)
	}
	if p := t.ports[a.port]; p != nil && p.owner != nil {
		return p.owner, toService
	}
	app := t.byHost(a.host)
	if app == nil {
		return nil, toUnknownHost
	}
	tg := app.ports[a.port]
	switch {
	case tg == nil:
		return nil, toNoPort
	case tg.port.ForceHTTPS && !a.secure:
		return tg, toHTTPS
	}
	return tg, toService
}

// ordered is the service of a machine of ours that another router has chosen.
func (t *routes) ordered(o *order) (*target, verdict) {
	h := t.hosted[seatKey{string(o.machine), o.port}]
	switch {
	case h == nil:
		return nil, toGone
	case o.flags&toH2 != 0:
		return h.h2, toService
	}
	return h.plain, toService
}

// webOf is how an app takes HTTP: on the port that was asked for, else on the first one that is for HTTP.
func (t *routes) webOf(app *appRoute, a *ask) (*target, verdict) {
	if app == nil {
		return nil, toUnknownHost
	}
	tg := app.ports[a.port]
	if tg == nil || !tg.http {
		tg = app.web
	}
	if tg == nil {
		return nil, toNoPort
	}
	return tg, toService
}

// byHost looks a name up: the exact one first, then with a star for its first label.
func (t *routes) byHost(host []byte) *appRoute {
	if app := t.exact[string(host)]; app != nil {
		return app
	}
	for i, c := range host {
		if c == '.' {
			return t.wild[string(host[i:])]
		}
	}
	return nil
}

// temper is how a machine stands to a new request, in the order of how soon it could answer.
type temper byte

const (
	running temper = iota
	paused
	suspended
	coming // on its way up by itself
	stopped
	unfit // takes no requests
)

// candidate is one machine of a service at the moment of choice.
type candidate struct {
	temper   temper
	healthy  bool
	local    bool          // in our region
	rtt      time.Duration // to its node and back; 0 for our own
	down     bool          // its node does not answer
	held     bool          // perhaps about to sleep: its door is shut
	waking   bool
	tried    bool // has failed this request already
	wanted   bool // the client prefers it
	favored  bool // it is in the region that the client prefers
	inflight int
}

// limits are a service's, for choose. wake says that sleeping machines may be woken.
type limits struct {
	soft, hard int
	wake       bool
}

// choice is choose's answer: the candidate's index, and that of another one to wake besides, or -1.
type choice struct {
	verdict verdict
	index   int
	also    int
}

// What a request would wait for a machine's first byte, besides the way there and back. The figures are what wakes take
// on ordinary hardware; only their order and their size beside the distances on earth matter.
const (
	costPaused    = 10 * time.Millisecond
	costSuspended = 60 * time.Millisecond
	costComing    = 200 * time.Millisecond
	costStopped   = 400 * time.Millisecond
	costHeld      = 8 * time.Millisecond // to change its mind is quicker than any wake
	costWaking    = 9 * time.Millisecond // the greater part is over
	// costSoft is what a running machine over its soft limit is worse by: more than the way to another node of the region,
	// less than the way to another region or than any wake.
	costSoft = 5 * time.Millisecond
	// costCrowded is for a sleeping one that has its fill of waiting requests already.
	costCrowded = time.Second
	// costElsewhere is the way to another region when nobody has measured it.
	costElsewhere = 3 * time.Millisecond
)

// choose picks the machine from which the first byte should come soonest: the round trip to its node, plus what its wake
// takes, plus something if it is over its soft limit. Before that count, in this order:
//
//   - nodes that do not answer come last;
//   - running unhealthy machines come after all others while a healthy one runs. With none, an unhealthy one is better
//     than an error page or a wake, and a young one serves before its first check;
//   - the machine that the client prefers, then those of the region that it prefers.
//
// Machines that are about as far and stand alike are equals: the least loaded of them is taken, then the nearer one,
// then turn rotates. A machine at its hard limit is none at all, so that requests go on to the next best, wherever it is;
// if all are, the verdict is to queue. If even the best running machine is over its soft limit, a sleeping one near it is
// woken besides, one at a time.
func choose(l limits, cs []candidate, turn uint32) choice {
	best := choice{verdict: toNone, index: -1, also: -1}
	if len(cs) == 0 {
		return best
	}
	var room [8]rating
	rs, sound, full := l.rate(room[:0], cs)
	for i := range rs {
		if rs[i].verdict < toQueue && (best.index < 0 || rs[i].before(&rs[best.index])) {
			best.index = i
		}
	}
	switch {
	case best.index < 0 && full:
		best.verdict = toQueue
	case best.index >= 0:
		best.index = leastLoaded(cs, rs, best.index, turn)
		best.verdict = rs[best.index].verdict
		c := &cs[best.index]
		if best.verdict == toSend && l.soft > 0 && c.inflight >= l.soft {
			best.also = l.spare(cs, c.rtt, sound)
		}
	}
	return best
}

// rating is what a machine is chosen by: its class first, then the sum of wait and way.
type rating struct {
	verdict   verdict
	class     int
	wait, way time.Duration
}

func (e *rating) before(o *rating) bool {
	if e.class != o.class {
		return e.class < o.class
	}
	return e.wait+e.way < o.wait+o.way
}

// like says that e stands as o does and is no farther but for noise: 2 ms, or a tenth.
func (e *rating) like(o *rating) bool {
	return e.verdict == o.verdict && e.class == o.class && e.wait == o.wait && e.way <= o.way+max(2*time.Millisecond, o.way/10)
}

// rate judges all machines. sound says that a healthy one runs and has room, full that room may come.
func (l limits) rate(rs []rating, cs []candidate) (out []rating, sound, full bool) {
	for i := range cs {
		c := &cs[i]
		v := l.verdict(c)
		sound = sound || v == toSend && c.healthy && !c.down
		full = full || v == toQueue
		rs = append(rs, rating{verdict: v})
	}
	for i := range rs {
		if rs[i].verdict < toQueue {
			l.estimate(&rs[i], &cs[i], sound)
		}
	}
	return rs, sound, full
}

func (l limits) verdict(c *candidate) verdict {
	switch {
	case c.tried || c.temper == unfit || c.temper > running && c.temper != coming && !l.wake:
		return toNone
	case l.hard > 0 && c.inflight >= l.hard:
		return toQueue
	case c.held:
		return toHold
	case c.temper != running:
		return toWake
	}
	return toSend
}

// Classes: what no time makes up for. They add up.
const (
	classFavored = 1 // those that the client has no wish for
	classSick    = 2
	classDown    = 8
	classWanted  = -4
)

// estimate completes a rating; sound says that a healthy machine runs somewhere.
func (l limits) estimate(e *rating, c *candidate, sound bool) {
	e.way, e.class = c.rtt, classFavored
	if c.favored {
		e.class = 0
	}
	if !c.local && c.rtt == 0 {
		e.way = costElsewhere
	}
	switch {
	case c.wanted:
		e.class = classWanted
	case e.verdict == toSend && sound && !c.healthy:
		e.class += classSick
	}
	if c.down {
		e.class += classDown
	}
	e.wait = l.wait(c, e.verdict)
}

var wakeCosts = [...]time.Duration{paused: costPaused, suspended: costSuspended, coming: costComing, stopped: costStopped, unfit: 0}

func (l limits) wait(c *candidate, v verdict) time.Duration {
	over := l.soft > 0 && c.inflight >= l.soft
	switch {
	case v == toHold:
		return costHeld
	case v == toSend && over:
		return costSoft
	case v == toSend:
		return 0
	}
	d := wakeCosts[c.temper]
	if c.waking {
		d = costWaking
	}
	if over {
		d += costCrowded
	}
	return d
}

// leastLoaded is the best of those that are like the best; turn chooses among equals.
func leastLoaded(cs []candidate, rs []rating, best int, turn uint32) int {
	top, equals := rs[best], uint32(0)
	for i := range rs {
		if !rs[i].like(&top) {
			continue
		}
		switch {
		case equals == 0 || lighter(&cs[i], &cs[best]):
			best, equals = i, 1
		case !lighter(&cs[best], &cs[i]):
			equals++
		}
	}
	if equals <= 1 {
		return best
	}
	for i, left := best, turn%equals; ; i++ {
		if !rs[i].like(&top) || lighter(&cs[best], &cs[i]) {
			continue
		}
		if left == 0 {
			return i
		}
		left--
	}
}

func lighter(a, b *candidate) bool {
	if a.inflight != b.inflight {
		return a.inflight < b.inflight
	}
	const step = 200 * time.Microsecond
	return a.rtt/step < b.rtt/step
}

// spare is the sleeping machine to wake besides one at the distance rtt, or -1. It must be about as near, and none there
// may be on its way up already.
func (l limits) spare(cs []candidate, rtt time.Duration, sound bool) int {
	best, top := -1, rating{}
	for i := range cs {
		c := &cs[i]
		if c.down || (c.rtt-rtt).Abs() > costSoft {
			continue
		}
		if c.waking {
			return -1
		}
		e := rating{verdict: l.verdict(c)}
		if e.verdict != toWake {
			continue
		}
		if l.estimate(&e, c, sound); best < 0 || e.before(&top) {
			best, top = i, e
		}
	}
	return best
}
