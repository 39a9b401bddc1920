package router

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// patient is a client that cannot be watched while it waits: what it sends belongs to the machine.
type patient struct{ ctx context.Context }

func (p patient) hold() context.Context { return p.ctx }

// rawVisitor is a connection that is never between two requests.
type rawVisitor struct {
	net.Conn
	inside bool
}

func (rawVisitor) closeIdle() {}

// serveRaw passes a connection that is not HTTP to a machine; c may be TLS that ends here.
func (r *Router) serveRaw(c net.Conn, a *ask) {
	v := &rawVisitor{c, a.inside}
	r.enterLive(v)
	r.settled(c)
	defer r.leaveLive(v)
	defer c.Close()
	tr := trip{ask: a, client: patient{r.life}, fresh: true}
	s, u, early, rf := r.reachRaw(&tr)
	if rf != nil {
		r.log.Debug("connection refused", "port", a.port, "host", string(a.host), "reason", rf.reason)
		reset(c)
		return
	}
	defer s.release()
	defer u.Close()
	up := &rawVisitor{u, a.inside} // so that a shutdown ends it too
	r.enterLive(up)
	defer r.leaveLive(up)
	if head := s.target.port.proxyHead(c); len(head) > 0 {
		if _, err := u.Write(head); err != nil {
			return
		}
	}
	if len(early) > 0 {
		if _, err := c.Write(early); err != nil {
			return
		}
	}
	s.target.app.stats.connections.Add(1)
	in, out := r.tunnel(c, u.Conn, s.target)
	s.target.app.stats.in.Add(uint64(in))
	s.target.app.stats.out.Add(uint64(out))
}

// reachRaw is reach for bytes that are not HTTP. early is what the machine has said already.
func (r *Router) reachRaw(tr *trip) (s slot, u *upstream, early []byte, rf *refusal) {
	for {
		if s, u, rf = r.reach(tr); rf != nil || s.peer == nil {
			return s, u, nil, rf
		}
		var err error
		if early, rf, err = r.askStream(&s, u, tr); err == nil && rf == nil {
			return s, u, early, nil
		}
		_ = u.Close()
		s.release()
		switch {
		case err != nil && !tr.again(&s, u):
			return s, nil, nil, refuse(http.StatusBadGateway, "%v", err)
		case err == nil && tr.final(&s, rf):
			return s, nil, nil, rf
		}
	}
}

// askStream asks another node's router to pass bytes to a machine. Nothing of the client's has been sent before it agrees.
func (r *Router) askStream(s *slot, u *upstream, tr *trip) (early []byte, rf *refusal, err error) {
	o := s.order(tr.ask, false)
	o.flags = o.flags&^toH2 | asStream
	out := o.append([]byte("GET / HTTP/1.1\r\nHost: stream\r\n"))
	_ = u.SetDeadline(time.Now().Add(r.cfg.WakeTimeout + r.cfg.QueueTimeout))
	if _, err := u.Write(append(out, "\r\n"...)); err != nil {
		return nil, nil, err
	}
	var res http1.Response
	buf, n := make([]byte, 4<<10), 0
	for {
		k, err := u.Read(buf[n:])
		if k == 0 {
			return nil, nil, unexpected(err)
		}
		n += k
		if _, err = http1.AppendResponse(nil, buf[:n], len(buf), &res); err == nil {
			break
		} else if !errors.Is(err, http1.ErrMore) {
			return nil, nil, err
		}
	}
	code, load, ok := parseReport(res.Host)
	if !ok {
		return nil, &refusal{status: http.StatusBadGateway, code: codeBroken, reason: "no router of ours answers there"}, nil
	}
	s.seat.heard(load)
	if code != codeOK || res.Status != http.StatusSwitchingProtocols {
		return nil, &refusal{status: res.Status, code: code, reason: string(readShort(u, buf[res.Len:n], &res))}, nil
	}
	_ = u.SetDeadline(time.Time{})
	return buf[res.Len:n], nil, nil
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
