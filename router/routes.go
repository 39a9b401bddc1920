package router

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// portKind is how the bytes of a public port are read. All apps that share a port must agree on it.
type portKind byte

const (
	kindRaw  portKind = iota // one app owns the port
	kindHTTP                 // shared by Host
	kindTLS                  // shared by server name
	kindPg                   // shared by server name, after PostgreSQL's SSLRequest
)

func (k portKind) secure() bool { return k == kindTLS || k == kindPg }

func (k portKind) String() string {
	return [...]string{"raw TCP", "http", "tls", "pg_tls"}[k]
}

// routes is a Table made ready for look-ups. It is immutable.
type routes struct {
	exact    map[string]*appRoute
	wild     map[string]*appRoute // by ".example.com"
	ports    map[int]*portRoute
	apps     map[string]*appRoute
	own      map[netip.Addr]ownRoute
	hosted   map[seatKey]*hosted // what other routers may send here
	problems []Problem
}

// hosted is a service as other routers reach it on this node: the machines here alone, whatever the public port.
type hosted struct{ plain, h2 *target }

type appRoute struct {
	name  string
	org   string
	alone bool            // it has public addresses of its own
	hosts []string        // those it got
	ports map[int]*target // those of the shared addresses that it got
	own   map[int]*target // those of its own addresses
	web   *target         // the first of its services that takes HTTP
	stats *appStats
}

// portRoute is one public port; owner is set for raw ports only.
type portRoute struct {
	kind   portKind
	owner  *target
	holder string // the app that was here first
}

// target is a service as one of its public ports shows it.
type target struct {
	app    *appRoute
	inside int // internal port
	port   Port
	kind   portKind
	http   bool // the bytes inside are HTTP
	limits limits
	spots  []spot
	queue  *queue
	places places         // where the machines are
	tokens map[string]int // of a sticky service: the spot by cookie
}

// places says on whose nodes a service's machines are.
type places byte

const (
	placedHere places = 1 << iota
	placedAfar
)

// spot is a machine's place in a target.
type spot struct {
	id               string
	addr             netip.AddrPort
	temper           temper
	healthy          bool
	state            string
	local            bool
	seat             *seat
	region           string
	cordoned, asleep bool          // why it may be unfit
	peer             *peer         // of another node; nil: it is here
	guess            time.Duration // the round trip there while nobody has measured it
	token            string        // the cookie that leads here, of a sticky service
}

// compiler turns a Table into routes. What an app held in the table before it keeps: a newcomer never takes it away.
type compiler struct {
	out  *routes
	prev *routes
	r    *Router
}

func (r *Router) compile(t Table, prev *routes) *routes {
	c := &compiler{prev: prev, r: r, out: &routes{
		exact: map[string]*appRoute{}, wild: map[string]*appRoute{}, ports: map[int]*portRoute{},
		apps: map[string]*appRoute{}, own: map[netip.Addr]ownRoute{}, hosted: map[seatKey]*hosted{},
	}}
	c.reserve(80, kindHTTP)
	if r.cfg.Certificates != nil {
		c.reserve(443, kindTLS)
	}
	apps := make([]*appRoute, len(t.Apps))
	for i, a := range t.Apps {
		apps[i] = &appRoute{name: a.Name, org: a.Org, ports: map[int]*target{}, own: map[int]*target{}, alone: len(a.Addrs) > 0, stats: r.statsFor(a.Name)}
		c.out.apps[a.Name] = apps[i]
		c.host(apps[i], t.Apps[i].Services)
	}
	for _, old := range []bool{true, false} {
		for i := range t.Apps {
			c.hosts(apps[i], t.Apps[i].Hosts, old)
			c.addresses(apps[i], &t.Apps[i], old)
			c.services(apps[i], t.Apps[i].Services, old)
		}
	}
	return c.out
}

func (c *compiler) reserve(port int, k portKind) {
	if c.r.cfg.Listen[port] != "off" {
		c.out.ports[port] = &portRoute{kind: k}
	}
}

func (c *compiler) problem(p Problem) {
	c.out.problems = append(c.out.problems, p)
}

func (c *compiler) hosts(app *appRoute, hosts []string, old bool) {
	for _, h := range hosts {
		h = strings.TrimSuffix(strings.ToLower(h), ".")
		names, key := c.out.exact, h
		if strings.HasPrefix(h, "*.") {
			names, key = c.out.wild, h[1:]
		}
		if c.prev.heldHost(app.name, h) != old {
			continue
		}
		if other := names[key]; other != nil {
			if other != app {
				c.problem(Problem{App: app.name, Other: other.name, Host: h, Err: fmt.Errorf(
					"cannot give host %q to app %q: app %q has it; remove it there first", h, app.name, other.name)})
			}
			continue
		}
		names[key] = app
		app.hosts = append(app.hosts, h)
	}
}

func (t *routes) heldHost(app, host string) bool {
	names := t.exact
	if strings.HasPrefix(host, "*.") {
		names, host = t.wild, host[1:]
	}
	a := names[host]
	return a != nil && a.name == app
}

func (c *compiler) services(app *appRoute, services []Service, old bool) {
	for i := range services {
		s := &services[i]
		if s.Protocol != "" && s.Protocol != "tcp" {
			if !old {
				c.problem(Problem{App: app.name, Err: fmt.Errorf(
					"cannot serve protocol %q of app %q: the router takes tcp only", s.Protocol, app.name)})
			}
			continue
		}
		for _, p := range s.Ports {
			c.ports(app, s, p, old)
		}
		if !old {
			c.inner(app, s)
		}
	}
}

func (c *compiler) ports(app *appRoute, s *Service, p Port, old bool) {
	kind, isHTTP, err := p.kind()
	var tg *target
	for n := p.Start; n <= max(p.Start, p.End); n++ {
		if c.prev.heldPort(app.name, n) != old {
			continue
		}
		if err == nil && tg == nil {
			tg = c.target(app, s, p, kind, isHTTP)
			if isHTTP && app.web == nil {
				app.web = tg
			}
		}
		c.port(app, n, tg, err)
		if tg != nil && app.own[n] == nil && (c.r.tls != nil || !tg.kind.secure()) {
			app.own[n] = tg
		}
	}
}

func (t *routes) heldPort(app string, port int) bool {
	p := t.ports[port]
	return p != nil && p.holder == app
}

// port gives one public port to the target, or says why not.
func (c *compiler) port(app *appRoute, n int, tg *target, err error) {
	fail := func(other string, err error) { c.problem(Problem{App: app.name, Other: other, Port: n, Err: err}) }
	if err != nil {
		fail("", fmt.Errorf("cannot open port %d of app %q: %w", n, app.name, err))
		return
	}
	if c.r.tls == nil && tg.kind.secure() {
		fail("", fmt.Errorf("cannot open port %d of app %q: it wants tls and this node has no certificates", n, app.name))
		return
	}
	here := c.out.ports[n]
	switch {
	case here == nil:
		here = &portRoute{kind: tg.kind, holder: app.name}
		c.out.ports[n] = here
	case here.kind != tg.kind || here.kind == kindRaw:
		if !app.alone { // at its own addresses the port is its own
			fail(here.holder, clash(app.name, n, tg.kind, here))
		}
		return
	case app.ports[n] != nil:
		fail(app.name, fmt.Errorf("cannot open port %d of app %q twice: two of its services name it; remove one", n, app.name))
		return
	}
	if tg.kind == kindRaw {
		here.owner = tg
	}
	app.ports[n] = tg
}

func clash(app string, port int, kind portKind, here *portRoute) error {
	if here.holder == "" {
		return fmt.Errorf("cannot open port %d of app %q for %s: on this port the router itself takes %s for all apps; choose another port, or give the app an address of its own",
			port, app, kind, here.kind)
	}
	return fmt.Errorf("cannot open port %d of app %q for %s: app %q has it for %s; choose another port, give the app an address of its own, or share it with http or tls handlers on both",
		port, app, kind, here.holder, here.kind)
}

var errHandlers = errors.New(`its handlers do not go together: use none, or some of "tls", "http", "pg_tls", "proxy_proto"; not pg_tls with tls or http, not proxy_proto with http`)

func (p Port) kind() (k portKind, isHTTP bool, err error) {
	has := func(h string) bool { return slices.Contains(p.Handlers, h) }
	isHTTP, isTLS, pg := has(HandlerHTTP), has(HandlerTLS), has(HandlerPgTLS)
	if pg && (isTLS || isHTTP) || has(HandlerProxyProto) && isHTTP {
		return 0, false, errHandlers
	}
	switch {
	case pg:
		return kindPg, false, nil
	case isTLS:
		return kindTLS, isHTTP, nil
	case isHTTP:
		return kindHTTP, true, nil
	}
	return kindRaw, false, nil
}

func (c *compiler) target(app *appRoute, s *Service, p Port, kind portKind, isHTTP bool) *target {
	tg := &target{app: app, inside: s.InternalPort, port: p, kind: kind, http: isHTTP, queue: c.r.queueFor(app.name, s.InternalPort)}
	canWake := c.r.cfg.Waker != nil
	tg.spots = make([]spot, len(s.Machines))
	for i := range s.Machines {
		tg.spots[i] = c.spot(&s.Machines[i], s, canWake)
		if tg.spots[i].peer != nil {
			tg.places |= placedAfar
		} else {
			tg.places |= placedHere
		}
	}
	tg.limits = limits{soft: s.Concurrency.Soft, hard: s.Concurrency.Hard, wake: s.AutoStart && (canWake || tg.places&placedAfar != 0)}
	if p.Sticky && isHTTP {
		c.r.giveTokens(tg)
	}
	return tg
}

func (c *compiler) spot(m *Machine, s *Service, canWake bool) spot {
	port := cmp.Or(m.Port, s.InternalPort)
	here := c.r.cfg.Region
	sp := spot{
		id: m.ID, addr: netip.AddrPortFrom(m.Addr, uint16(port)), temper: m.temper(canWake), healthy: m.Healthy, state: m.State,
		local: m.Region == here || m.Region == "" || here == "", region: m.Region,
		seat: c.r.seatFor(m.ID, port), peer: c.r.peerFor(m),
	}
	sp.cordoned, sp.asleep = m.Cordoned, m.awakeness() != running && m.awakeness() != unfit
	if sp.peer != nil {
		sp.addr, sp.guess = m.Via, guess(here, m.Region)
	}
	return sp
}

// host makes an app's services reachable for other routers, whether or not their public ports could be opened here.
func (c *compiler) host(app *appRoute, services []Service) {
	if c.r.cfg.HostListen == "" {
		return
	}
	for i := range services {
		s := services[i]
		s.Machines = slices.DeleteFunc(slices.Clone(s.Machines), func(m Machine) bool { return !m.local() })
		if len(s.Machines) == 0 || s.Protocol != "" && s.Protocol != "tcp" {
			continue
		}
		h := &hosted{plain: c.target(app, &s, Port{}, kindHTTP, true)}
		h2 := *h.plain
		h2.port.H2Backend = true
		h.h2 = &h2
		for j := range h.plain.spots {
			c.out.hosted[seatKey{s.Machines[j].ID, s.InternalPort}] = h
		}
	}
}

// fate is what the table says of the machine. It is not sure of one that is on its way from one state to another, or
// frozen with its connections.
func (sp *spot) fate(now time.Time) (f fate, sure bool) {
	switch sp.state {
	case StateStarted:
		return fate{sp.addr, sp.state, now}, sp.addr.Addr().IsValid()
	case StatePaused, StatePausing, StateSuspending, StateStopping, StateStarting, StateRestarting:
		return fate{}, false
	}
	return fate{state: sp.state, since: now}, true
}

// temper reads the state. Who is on the way up is waited for by asking the waker, and is unfit where there is none.
func (m *Machine) temper(canWake bool) temper {
	t := m.awakeness()
	if m.Cordoned || m.local() && t != running && t != unfit && !canWake {
		return unfit
	}
	return t
}

func (m *Machine) awakeness() temper {
	switch m.State {
	case StateStarted:
		if m.Addr.IsValid() || !m.local() {
			return running
		}
		return coming
	case StatePaused, StatePausing:
		return paused
	case StateSuspended, StateSuspending:
		return suspended
	case StateStopped, StateStopping:
		return stopped
	case StateStarting, StateRestarting:
		return coming
	}
	return unfit
}

// validate refuses what can only be a mistake of the node; what an app may get wrong is a Problem instead.
func (t Table) validate() error {
	seen := map[string]bool{}
	for _, a := range t.Apps {
		if a.Name == "" || seen[a.Name] {
			return fmt.Errorf("cannot take table: app name %q is empty or there twice", a.Name)
		}
		seen[a.Name] = true
		for _, s := range a.Services {
			if err := s.validate(); err != nil {
				return fmt.Errorf("cannot take table: app %q: %w", a.Name, err)
			}
		}
	}
	return nil
}

func (s Service) validate() error {
	if !goodPort(s.InternalPort) {
		return fmt.Errorf("internal port %d is not between 1 and 65535", s.InternalPort)
	}
	if s.Concurrency.Soft < 0 || s.Concurrency.Hard < 0 {
		return errors.New("a concurrency limit is negative")
	}
	for _, p := range s.Ports {
		if err := p.validate(); err != nil {
			return err
		}
	}
	ids := map[string]bool{}
	for _, m := range s.Machines {
		if m.ID == "" || ids[m.ID] || m.Port < 0 || m.Port > 65535 {
			return fmt.Errorf("machine %q has no id, is there twice, or has a bad port", m.ID)
		}
		ids[m.ID] = true
	}
	return nil
}

func (p Port) validate() error {
	if !goodPort(p.Start) || p.End != 0 && (!goodPort(p.End) || p.End < p.Start) {
		return fmt.Errorf("ports %d to %d are not a range between 1 and 65535", p.Start, p.End)
	}
	if p.ProxyProtoVersion < 0 || p.ProxyProtoVersion > 2 {
		return fmt.Errorf("proxy protocol version %d is not 1 or 2", p.ProxyProtoVersion)
	}
	for _, h := range p.Handlers {
		if !slices.Contains([]string{HandlerHTTP, HandlerTLS, HandlerPgTLS, HandlerProxyProto}, h) {
			return fmt.Errorf("handler %q is not known: use http, tls, pg_tls or proxy_proto", h)
		}
	}
	return nil
}

func goodPort(p int) bool { return p > 0 && p < 1<<16 }
