package router

import (
	"fmt"
	"net"
)

// listenPrivate opens the addresses at which machines reach "<app>.flycast": the services of apps of their own
// organization, asleep or not, by HTTP/1.1, without going out to the edge.
func (r *Router) listenPrivate() error {
	for _, at := range r.cfg.Private {
		l := r.cfg.Inherited[at]
		if l == nil {
			lc := net.ListenConfig{Control: r.onSocket, KeepAlive: -1}
			var err error
			if l, err = lc.Listen(r.life, "tcp", at); err != nil {
				return fmt.Errorf("cannot listen on %s for private services: %w; is the mesh up, and the port free?", at, err)
			}
		}
		r.mu.Lock()
		r.private[at] = l
		r.mu.Unlock()
		r.goes.Go(func() { r.acceptAll(l, at, r.servePrivate) })
	}
	return nil
}

// servePrivate serves a machine's connection. A caller whose organization nobody knows is closed without a word.
func (r *Router) servePrivate(nc net.Conn) {
	org := ""
	if r.cfg.OrgOf != nil {
		org = r.cfg.OrgOf(peerAddr(nc).Addr())
	}
	if org == "" {
		r.log.Warn("a stranger came to the private services", "peer", nc.RemoteAddr())
		_ = nc.Close()
		return
	}
	c := r.newConn(nc, privatePort, false, false)
	c.org = org
	r.serveConn(c, nil)
}

const privatePort = 80

// PrivateAddr is where one of Config.Private is listened on, nil if it is not.
func (r *Router) PrivateAddr(at string) net.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.private[at]; l != nil {
		return l.Addr()
	}
	return nil
}
