package router

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Some addresses belong to one app alone: public ones that it was given, and the private one that the machines of its
// organization find under "<app>.flycast". A connection to one is for that app, whatever host it names, and each of
// the app's ports is its own there.

// entrance is how a connection came in.
type entrance struct {
	port   int        // the public port
	own    netip.Addr // the address that it was made to, if that belongs to one app; invalid on those that all share
	inside bool       // it comes from the private network
}

// ownRoute is whose an address is.
type ownRoute struct {
	app     *appRoute
	private bool
}

// listenOwnAddresses takes the connections that are led to Config.Own.
func (r *Router) listenOwnAddresses() error {
	for _, l := range r.cfg.Own {
		if s, ok := l.(syscall.Conn); ok {
			rc, err := s.SyscallConn()
			if err = errors.Join(err, r.onSocket("", "", rc)); err != nil {
				return fmt.Errorf("cannot take connections to apps' own addresses at %s: %w", l.Addr(), err)
			}
		}
		r.goes.Go(func() { r.acceptAll(l, "own", r.serveOwn) })
	}
	return nil
}

// serveOwn serves a connection to an app's own address. What is not for the caller looks like a closed port.
func (r *Router) serveOwn(c net.Conn) {
	at := unmapped(c.LocalAddr())
	rt := r.routes.Load()
	o := rt.own[at.Addr()]
	e := entrance{port: int(at.Port()), own: at.Addr(), inside: o.private}
	kind, ok := rt.kindAt(o, e)
	if !ok || !r.admits(o, c) {
		reset(c)
		_ = c.Close()
		return
	}
	r.serveKind(c, kind, e)
}

// admits says whether a caller may come to an address: at a private one only those of the app's organization.
func (r *Router) admits(o ownRoute, c net.Conn) bool {
	if !o.private {
		return !r.leaving.Load() && !r.draining.Load()
	}
	return r.cfg.OrgOf != nil && o.app.org != "" && r.cfg.OrgOf(peerAddr(c).Addr()) == o.app.org
}

// kindAt is how the bytes of a connection to an app's own address are read; ok says that there is something at that port.
func (t *routes) kindAt(o ownRoute, e entrance) (k portKind, ok bool) {
	switch tg, p := o.target(e), t.ports[e.port]; {
	case o.app == nil:
		return 0, false
	case tg == nil && !o.private && p != nil && p.holder == "":
		return p.kind, true // the router's own port: challenges of ACME, and pages that say what is missing
	case tg == nil:
		return 0, false
	case tg != o.app.own[e.port]:
		return kindHTTP, true
	default:
		return tg.kind, true
	}
}

// target is what an app offers at a port of an address of its own, nil if nothing. Inside, a service without public
// ports is found at its internal one, and whatever the app serves by HTTP at port 80.
func (o ownRoute) target(e entrance) *target {
	if o.app == nil {
		return nil
	}
	tg := o.app.own[e.port]
	if tg != nil && tg.port.Start == 0 && !o.private {
		return nil
	}
	if tg == nil && o.private && e.port == 80 {
		return o.app.web
	}
	return tg
}

// atOwn finds the service of a request that came to an app's own address. TLS is never forced inside, where it would
// have no name to be for.
func (t *routes) atOwn(a *ask) (*target, verdict) {
	o := t.own[a.own]
	tg := o.target(a.entrance)
	switch {
	case o.app == nil:
		return nil, toUnknownHost
	case tg == nil:
		return nil, toNoPort
	case tg.port.ForceHTTPS && !a.secure && !a.inside:
		return tg, toHTTPS
	}
	return tg, toService
}

// addresses gives an app its own addresses.
func (c *compiler) addresses(app *appRoute, a *App, old bool) {
	for i, addr := range append([]netip.Addr{a.Private}, a.Addrs...) {
		if !addr.IsValid() || c.prev.own[addr].app.named(app.name) != old {
			continue
		}
		if other := c.out.own[addr].app; other != nil {
			c.problem(Problem{App: app.name, Other: other.name, Err: fmt.Errorf(
				"cannot give address %s to app %q: app %q has it; create the app under another name", addr, app.name, other.name)})
			continue
		}
		c.out.own[addr] = ownRoute{app: app, private: i == 0}
	}
}

func (a *appRoute) named(name string) bool { return a != nil && a.name == name }

// inner makes a service without public ports reachable at the app's private address, as the bytes that it takes.
func (c *compiler) inner(app *appRoute, s *Service) {
	if len(s.Ports) == 0 && app.own[s.InternalPort] == nil {
		app.own[s.InternalPort] = c.target(app, s, Port{}, kindRaw, false)
	}
}

// firstHost is the name that an app's certificate is for when a client asks for none.
func (r *Router) firstHost(c net.Conn) string {
	e, _ := c.(*edgeConn)
	if e == nil || !e.own.IsValid() {
		return ""
	}
	if app := r.routes.Load().own[e.own].app; app != nil && len(app.hosts) > 0 {
		return app.hosts[0]
	}
	return ""
}
