package router

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// patient is a client that cannot be watched while it waits: what it sends belongs to the machine.
type patient struct{ ctx context.Context }

func (p patient) hold() context.Context { return p.ctx }

// rawVisitor is a connection that is never between two requests.
type rawVisitor struct{ net.Conn }

func (rawVisitor) closeIdle() {}

// serveRaw passes a connection that is not HTTP to a machine; c may be TLS that ends here.
func (r *Router) serveRaw(c net.Conn, a *ask) {
	v := &rawVisitor{c}
	r.enterLive(v)
	defer r.leaveLive(v)
	defer c.Close()
	tr := trip{ask: a, client: patient{r.life}, fresh: true}
	s, u, rf := r.reach(&tr)
	if rf != nil {
		r.log.Debug("connection refused", "port", a.port, "host", string(a.host), "reason", rf.reason)
		reset(c)
		return
	}
	defer s.release()
	defer u.Close()
	up := &rawVisitor{u} // so that a shutdown ends it too
	r.enterLive(up)
	defer r.leaveLive(up)
	if head := s.target.port.proxyHead(c); len(head) > 0 {
		if _, err := u.Write(head); err != nil {
			return
		}
	}
	in, out := r.tunnel(c, u.Conn, s.target)
	s.target.app.stats.in.Add(uint64(in))
	s.target.app.stats.out.Add(uint64(out))
}

// reset closes a connection so that the client sees an error and not an end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
}

// proxyHead is the PROXY protocol's head for a connection, nil if the port does not want one.
func (p Port) proxyHead(c net.Conn) []byte {
	if !slices.Contains(p.Handlers, HandlerProxyProto) {
		return nil
	}
	src, dst := unmapped(c.RemoteAddr()), unmapped(c.LocalAddr())
	if p.ProxyProtoVersion == 2 {
		return proxyV2(src, dst)
	}
	family := "TCP6"
	if src.Addr().Is4() {
		family = "TCP4"
	}
	return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, src.Addr(), dst.Addr(), src.Port(), dst.Port())
}

// proxyV2 is version 2's binary form: signature, command PROXY, family and TCP, length, addresses, ports.
func proxyV2(src, dst netip.AddrPort) []byte {
	family := byte(0x21)
	if src.Addr().Is4() {
		family = 0x11
	}
	addrs := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	out := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, family)
	out = binary.BigEndian.AppendUint16(out, uint16(len(addrs)+4))
	out = append(out, addrs...)
	out = binary.BigEndian.AppendUint16(out, src.Port())
	return binary.BigEndian.AppendUint16(out, dst.Port())
}
