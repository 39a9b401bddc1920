package router

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"time"
)

// The host's side: what other routers send here for machines of this node. They speak HTTP/1.1 and say with an order
// where each request goes; this router looks at its own truth, and either serves it as it would a visitor's or refuses
// at once, so that the other one can try elsewhere.

const hostPort = "host" // the name of the host's listener beside the public ports

// listenHost opens the address for other routers.
func (r *Router) listenHost() error {
	if r.cfg.HostListen == "" {
		return nil
	}
	l := r.cfg.Inherited[hostPort]
	if l == nil {
		lc := net.ListenConfig{Control: r.onSocket, KeepAlive: -1}
		var err error
		if l, err = lc.Listen(r.life, "tcp", r.cfg.HostListen); err != nil {
			return fmt.Errorf("cannot listen on %s for other nodes' routers: %w; is the mesh up, and the port free?", r.cfg.HostListen, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hostIn = l
	r.goes.Go(func() { r.acceptAll(l, hostPort, r.serveHost) })
	return nil
}

// HostAddr is where other routers reach this one, nil if they do not.
func (r *Router) HostAddr() net.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hostIn == nil {
		return nil
	}
	return r.hostIn.Addr()
}

// serveHost serves a connection of another router. Who is none is closed without a word.
func (r *Router) serveHost(c net.Conn) {
	if r.cfg.PeerAllowed == nil || !r.cfg.PeerAllowed(peerAddr(c).Addr()) {
		r.log.Warn("a stranger came to the host router", "peer", c.RemoteAddr())
		_ = c.Close()
		return
	}
	r.serveConn(r.newConn(c, entrance{}, false, true), nil)
}

// relay serves one request of another router.
func (c *conn) relay() bool {
	o, ok := parseOrder(c.req.Route)
	c.identify()
	if !ok {
		c.req.Close = true
		return c.page(&refusal{status: http.StatusBadRequest, reason: "no Perigee-Route: this port is for routers only"})
	}
	c.order = o
	c.ask = ask{entrance: entrance{port: o.public}, order: &c.order, force: o.machine, host: normalHost(c.host[:0], c.req.Host)}
	c.hostSeat = nil
	if rf := c.scruple(); rf != nil {
		return c.page(rf)
	}
	start := time.Now()
	x := exchange{conn: c, keep: keeping{of: &c.r.keepable}, head: string(c.req.Method) == "HEAD"}
	again := x.run()
	x.keep.release()
	c.unhold()
	if c.debug {
		c.log(&x, start)
	}
	return again
}

// scruple looks at what the table of this node says of the machine, and refuses what needs no trying.
func (c *conn) scruple() *refusal {
	tg, v := c.r.routes.Load().find(&c.ask)
	if v != toService {
		return c.r.notFound(&c.ask, v)
	}
	for i := range tg.spots {
		sp := &tg.spots[i]
		if sp.id != string(c.order.machine) {
			continue
		}
		c.hostSeat = sp.seat
		if code := sp.unwilling(tg, c.order.flags&insist != 0); code != "" {
			return &refusal{status: http.StatusServiceUnavailable, retry: 1, code: code, reason: fmt.Sprintf("machine %q takes no requests: it is %s (%s)", sp.id, code, sp.state)}
		}
		return nil
	}
	return &refusal{status: http.StatusServiceUnavailable, code: codeGone, reason: fmt.Sprintf("machine %q is not here", c.order.machine)}
}

// unwilling says why a machine takes nothing; empty if it does.
func (sp *spot) unwilling(tg *target, insist bool) string {
	b := sp.seat.door.belief.Load()
	switch {
	case sp.cordoned:
		return codeDraining
	case sp.temper == unfit && sp.asleep, sp.temper > running && sp.temper != coming && !tg.limits.wake && b == nil:
		return codeAsleep
	case sp.temper == unfit:
		return codeGone
	case sp.temper == running && !sp.healthy && !insist && (b == nil || !b.answered.Load()):
		return codeUnhealthy
	}
	return ""
}

// report appends what another router is told of a request.
func (c *conn) report(out []byte, code string) []byte {
	n := 0
	if c.hostSeat != nil {
		n = int(c.hostSeat.n.Load())
	}
	return appendReport(out, cmp.Or(code, codeBroken), n)
}

// obey does what an order asks for besides HTTP. done says that this was all.
func (x *exchange) obey() (again, done bool) {
	switch f := x.order.flags; {
	case f&justWake != 0:
		x.r.keepOpened(&x.slot, x.up)
		x.slot.release()
		out := x.report([]byte("HTTP/1.1 204 No Content\r\n"), codeOK)
		return x.say(out, nil, !x.req.Close && !x.ending()), true
	case f&asStream != 0:
		x.stream()
		x.slot.release()
		return false, true
	case f&announce != 0:
		out := append(x.report([]byte("HTTP/1.1 100 Continue\r\n"), codeOK), "\r\n"...)
		if _, err := x.c.Write(out); err != nil {
			x.dropUp()
			x.slot.release()
			return false, true
		}
	}
	return false, false
}

// keepOpened keeps a connection that was opened to see whether the machine answers.
func (r *Router) keepOpened(s *slot, u *upstream) {
	if u != nil {
		r.keep(s, u, 0)
	}
}

// stream makes the two connections one.
func (x *exchange) stream() {
	defer x.dropUp()
	out := x.report([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: perigee-stream\r\n"), codeOK)
	if _, err := x.c.Write(append(out, "\r\n"...)); err != nil {
		return
	}
	if early := x.b.in[x.req.Len:x.n]; len(early) > 0 {
		if _, err := x.up.Write(early); err != nil {
			return
		}
	}
	x.b.free()
	x.b = nil
	x.watch.upstream.Store(x.up)
	x.r.tunnel(x.c, x.up.Conn, x.slot.target)
	x.watch.upstream.Store(nil)
}
