package router

// This file is the whole of "where a request goes": pure functions of what is asked, the table in memory and the loads.
// routes.find names the service; choose names the machine. Nothing here waits, counts or sends.

// ask is what the decision takes from a request's head or a connection.
type ask struct {
	port   int    // public port
	host   []byte // lower case, without port and final dot; empty for raw TCP
	secure bool   // came over TLS
	force  []byte // only this machine
	prefer []byte // this machine if it can
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
)

// find says which service of the table is asked for.
func (t *routes) find(a *ask) (*target, verdict) {
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
	local    bool // in our region
	held     bool // perhaps about to sleep: its door is shut
	waking   bool
	tried    bool // has failed this request already
	wanted   bool // the client prefers it
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

// choose picks a machine. In this order:
//
//   - a running one: healthy before unhealthy, under the soft limit before over it, ours before another region's, least
//     loaded first. An unhealthy one is better than an error page, and a young one serves before its first check;
//   - one whose door is shut because it may be going to sleep: to change its mind is quicker than any wake;
//   - a sleeping one, the one that is soonest back, unless it has its fill of waiting requests already;
//   - else the queue, if room can come, or nobody.
//
// If even the best running machine is over its soft limit, a sleeping one is woken besides, one at a time.
// turn rotates among equals.
func choose(l limits, cs []candidate, turn uint32) choice {
	best := choice{verdict: toNone, index: -1, also: -1}
	bestRank, full, waking := 0, false, false
	for k := range cs {
		i := (k + int(turn%uint32(len(cs)))) % len(cs)
		c := &cs[i]
		waking = waking || c.waking
		v, rank := l.rank(c)
		if v == toQueue {
			full = true
		}
		if v < toQueue && (best.index < 0 || rank < bestRank) {
			best.verdict, best.index, bestRank = v, i, rank
		}
	}
	switch {
	case best.index < 0 && full:
		best.verdict = toQueue
	case best.verdict == toSend && l.soft > 0 && cs[best.index].inflight >= l.soft && !waking:
		best.also = l.spare(cs)
	}
	return best
}

// Ranks: the lower, the better. The load is added to them, so that they must be far apart.
const (
	rankWanted    = 0
	rankLocal     = 1 << 32
	rankRemote    = 2 << 32
	rankOverSoft  = 2 << 32 // added to local or remote
	rankUnhealthy = 5 << 32
	rankHeld      = 6 << 32
	rankAsleep    = 7 << 32 // plus one for each temper
	rankCrowded   = 8 << 32 // added to an asleep one that has its fill
)

func (l limits) rank(c *candidate) (verdict, int) {
	switch {
	case c.tried || c.temper == unfit || c.temper > running && c.temper != coming && !l.wake:
		return toNone, 0
	case l.hard > 0 && c.inflight >= l.hard:
		return toQueue, 0
	case c.held:
		return toHold, rankHeld + c.inflight
	case c.temper != running:
		return toWake, l.rankAsleep(c) + c.inflight
	}
	return toSend, l.rankRunning(c) + c.inflight
}

func (l limits) rankRunning(c *candidate) int {
	rank := rankRemote
	switch {
	case c.wanted:
		return rankWanted
	case !c.healthy:
		return rankUnhealthy
	case c.local:
		rank = rankLocal
	}
	if l.soft > 0 && c.inflight >= l.soft {
		rank += rankOverSoft
	}
	return rank
}

func (l limits) rankAsleep(c *candidate) int {
	rank := rankAsleep + int(c.temper)<<32
	if c.waking {
		rank = rankAsleep
	}
	if l.soft > 0 && c.inflight >= l.soft {
		rank += rankCrowded
	}
	return rank
}

// spare is the sleeping machine to wake besides, or -1.
func (l limits) spare(cs []candidate) int {
	best, bestRank := -1, 0
	for i := range cs {
		if v, rank := l.rank(&cs[i]); v == toWake && (best < 0 || rank < bestRank) {
			best, bestRank = i, rank
		}
	}
	return best
}
