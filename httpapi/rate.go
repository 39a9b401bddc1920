package httpapi

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/time/rate"
)

// rates bounds how often each operation is called on one thing: a machine, else an app,
// else by one caller. Who looks may do so five times as often as who changes something.
type rates struct {
	perSecond float64

	mu  sync.Mutex // guards all
	all map[string]*rate.Limiter
}

const (
	readsFactor = 5 // how much more often who only looks may call
	burstFor    = 6 * time.Second
	// maxRates bounds the memory: beyond it those are forgotten that have not been
	// called for a while, and, should none be, all.
	maxRates = 20_000
)

// newRates makes none for a rate of 0.
func newRates(perSecond float64) *rates {
	if perSecond <= 0 {
		return nil
	}
	return &rates{perSecond: perSecond, all: map[string]*rate.Limiter{}}
}

// allow returns how long the caller has to wait, 0 if not at all.
func (r *rates) allow(c *call) time.Duration {
	per, key := r.per(c.route.method), c.rateKey()
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.all[key]
	if l == nil {
		r.forget(now)
		l = rate.NewLimiter(rate.Limit(per), max(1, int(per*burstFor.Seconds())))
		r.all[key] = l
	}
	take := l.ReserveN(now, 1)
	if wait := take.DelayFrom(now); wait > 0 {
		take.CancelAt(now)
		return wait
	}
	return 0
}

func (r *rates) per(method string) float64 {
	if method == http.MethodGet {
		return r.perSecond * readsFactor
	}
	return r.perSecond
}

// forget makes room; mu is held. One whose tokens are all there is as good as a new one.
func (r *rates) forget(now time.Time) {
	if len(r.all) < maxRates {
		return
	}
	for key, l := range r.all {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(r.all, key)
		}
	}
	if len(r.all) >= maxRates {
		clear(r.all)
	}
}

// rateKey is the operation and what it is called on: a machine of the app, else the app,
// else by whom. Names of nothing are no key, for there is no end of them; nor is a machine
// under an app that is not its own, for its owner's calls would pay for it.
func (c *call) rateKey() string {
	app, id := c.path("app_name"), c.path("machine_id")
	switch {
	case app == "" || c.server.orgOf(app) == "":
		return c.route.id + " by " + c.who.Name
	case id == "" || !c.server.has(c.r.Context(), app, id):
		return c.route.id + " on " + app
	}
	return c.route.id + " on " + app + " " + id
}

// slow refuses a call that comes too soon after others. Nodes and root of the server
// itself are not counted.
func (s *Server) slow(c *call, auth Authenticator) error {
	_, root := auth.(Trust)
	if s.rates == nil || root || c.who.Node != "" {
		return nil
	}
	wait := s.rates.allow(c)
	if wait == 0 {
		return nil
	}
	seconds := strconv.Itoa(int(math.Ceil(wait.Seconds())))
	c.w.Header().Set("Retry-After", seconds)
	return api.Errorf(api.CodeRateLimited, "%s was called too often on the same thing: %s times a second are allowed", c.route.id,
		strconv.FormatFloat(s.rates.per(c.route.method), 'f', -1, 64)).
		WithHint("wait " + seconds + " s; the operator may raise it with perigeed --api-rate")
}

// Limit bounds how many times a second each change may be called on one thing, and looks
// five times as often; 0 is no bound, which is the default. It is called before anybody
// is served.
func (s *Server) Limit(perSecond float64) { s.rates = newRates(perSecond) }
