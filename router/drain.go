package router

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Drain stops accepting visitors at the public ports and waits until those there are have got their answers, or ctx ends; idle connections
// are closed, and busy ones after the request that is under way (HTTP/2: GOAWAY). Other nodes' routers and machines at
// private addresses are served on: theirs are for this node. [Router.Resume] undoes it; [Router.Shutdown] may follow.
func (r *Router) Drain(ctx context.Context) error {
	r.leaving.Store(true)
	r.closePublic()
	r.accepting.Wait()
	_ = r.wait(ctx, isArrival)
	old := r.web.Load()
	web := make(chan error, 1)
	go func() { web <- old.srv.Shutdown(ctx) }()
	err := r.wait(ctx, func(v visitor) bool { return !isMesh(v) })
	if e := <-web; err == nil {
		err = e
	}
	return err
}

// Resume opens the ports again after [Router.Drain].
func (r *Router) Resume() {
	if r.leaving.Swap(false) && !r.draining.Load() {
		w := r.newWeb()
		r.web.Store(w)
		r.goes.Go(func() { r.serveWeb(w) })
		r.poke()
	}
}

// arrival is a connection that was accepted and has not come to who serves it: a handshake may be under way.
type arrival struct{ net.Conn }

func (arrival) closeIdle() {}

func isArrival(v visitor) bool {
	_, ok := v.(arrival)
	return ok
}

// settled says that an arrival has come to who serves it.
func (r *Router) settled(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if e, ok := c.(*edgeConn); ok {
		c = e.Conn
	}
	r.leaveLive(arrival{c})
}

// patience is how long a connection that ends is given for what may be on its way to us: the first request of a new one,
// the next one of another router's.
const patience = time.Second

// isMesh says that a connection is of another node's router, or of a machine.
func isMesh(v visitor) bool {
	switch c := v.(type) {
	case *conn:
		return c.mesh || c.inside
	case *rawVisitor:
		return c.inside
	}
	return false
}

// ending says that the connection should end after the request under way.
func (c *conn) ending() bool { return c.r.draining.Load() || !isMesh(c) && c.r.leaving.Load() }

// wait waits until no visitor is left for whom counts says so, and closes those that are idle.
func (r *Router) wait(ctx context.Context, counts func(visitor) bool) error {
	for began := time.Now(); ; {
		n := 0
		r.eachLive(func(v visitor) {
			switch {
			case !counts(v):
				return
			case time.Since(began) < patience: // busy clients learn from their next answer that it is the last
			case isArrival(v):
				_ = v.Close()
			default:
				v.closeIdle()
			}
			n++
		})
		if n == 0 {
			return nil
		}
		if !pause(ctx, 5*time.Millisecond) {
			return fmt.Errorf("cannot finish %d connections in time", n)
		}
	}
}

// Requests is how much is in flight, to machines of this node and of others, and what other nodes' routers have sent.
func (r *Router) Requests() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.doors {
		n += int(d.word.Load() & (doorShut - 1))
	}
	return n
}

// Files are duplicates of the open listeners, by public port ("80"; "host" for Config.HostListen; those of Config.Own by
// their addresses), for a process that takes over: it makes them Config.Inherited (net.FileListener) and serves the same sockets, so that no connection is
// refused in between. The caller closes them. Then this router should drain.
func (r *Router) Files() (map[string]*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string]net.Listener{}
	for port, l := range r.listeners {
		all[strconv.Itoa(port)] = l
	}
	for _, l := range r.cfg.Own {
		all[l.Addr().String()] = l
	}
	if r.hostIn != nil {
		all[hostPort] = r.hostIn
	}
	out := map[string]*os.File{}
	for port, l := range all {
		t, ok := l.(interface{ File() (*os.File, error) })
		if !ok {
			continue
		}
		f, err := t.File()
		if err != nil {
			for _, f := range out {
				_ = f.Close()
			}
			return nil, fmt.Errorf("cannot hand port %s over: %w", port, err)
		}
		out[port] = f
	}
	return out, nil
}

// closeInherited closes the listeners that nobody has taken.
func (r *Router) closeInherited() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for port, l := range r.cfg.Inherited {
		if n, err := strconv.Atoi(port); err == nil && !r.inherited[n] {
			_ = l.Close()
		}
	}
}

// webServer is the HTTP/2 server with the listener that feeds it.
type webServer struct {
	srv *http.Server
	in  *handover
}
