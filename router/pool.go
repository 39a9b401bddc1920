package router

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// upstream is a connection to a machine.
type upstream struct {
	net.Conn
	pool  *pool
	addr  netip.AddrPort
	born  time.Time
	used  bool      // it has served a request before: the machine may have closed it meanwhile
	until time.Time // when it must not be used any more
}

// Close closes the connection; again is no error that matters.
func (u *upstream) Close() error {
	u.pool.forget(u)
	return u.Conn.Close()
}

// pool keeps a seat's connections: the unused ones, the last used first, and all there are.
type pool struct {
	mu   sync.Mutex // guards what follows
	addr netip.AddrPort
	idle []*upstream

	all opened
}

// opened are the connections of a seat that are open.
type opened struct {
	mu  sync.Mutex // guards set; may be taken while pool.mu is held
	set map[*upstream]struct{}
}

func (p *pool) know(u *upstream) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	if p.all.set == nil {
		p.all.set = map[*upstream]struct{}{}
	}
	p.all.set[u] = struct{}{}
}

func (p *pool) forget(u *upstream) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	delete(p.all.set, u)
}

// sever closes the connections that were opened before, to another address than the machine has now; none is valid
// for a machine that is gone. Its network went with it, so that nobody else would ever end them.
func (p *pool) sever(now netip.AddrPort, before time.Time) {
	p.all.mu.Lock()
	var dead []*upstream
	for u := range p.all.set {
		if u.addr != now && u.born.Before(before) {
			dead = append(dead, u)
		}
	}
	p.all.mu.Unlock()
	for _, u := range dead {
		_ = u.Close()
	}
}

func (p *pool) get(addr netip.AddrPort) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addr != addr {
		p.drop()
		p.addr = addr
	}
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	u := p.idle[n-1]
	p.idle[n-1] = nil
	p.idle = p.idle[:n-1]
	return u
}

func (p *pool) put(addr netip.AddrPort, u *upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addr != addr {
		_ = u.Close()
		return
	}
	p.idle = append(p.idle, u)
}

// drop closes all idle connections; p.mu is held.
func (p *pool) drop() {
	for i, u := range p.idle {
		_ = u.Close()
		p.idle[i] = nil
	}
	p.idle = p.idle[:0]
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
	p.addr = netip.AddrPort{}
}

// sweep closes those that are past their time.
func (p *pool) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.idle[:0]
	for _, u := range p.idle {
		if now.Before(u.until) {
			kept = append(kept, u)
		} else {
			_ = u.Close()
		}
	}
	clear(p.idle[len(kept):])
	p.idle = kept
}

// open gets a connection for a place taken: a kept one, or a new one.
func (r *Router) open(tr *trip, s *slot) (*upstream, error) {
	if s.peer != nil {
		return r.openPeer(tr, s)
	}
	for !tr.fresh {
		u := s.seat.pool.get(s.addr)
		if u == nil {
			break
		}
		if time.Now().Before(u.until) && (!tr.careful || u.quiet()) {
			return u, nil
		}
		_ = u.Close()
	}
	if !s.woken.IsZero() {
		return r.dialWoken(tr, s)
	}
	limit := time.Second
	if s.target.limits.wake {
		limit /= 4 // silence may mean that it sleeps, and the waker knows
	}
	return r.dial(context.WithoutCancel(r.life), s, limit)
}

func (r *Router) dial(ctx context.Context, s *slot, limit time.Duration) (*upstream, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := r.cfg.Dial(ctx, "tcp", s.addr.String())
	if err != nil {
		return nil, fmt.Errorf("machine %q: %w", s.seat.door.id, err)
	}
	u := &upstream{Conn: c, pool: &s.seat.pool, addr: s.addr, born: time.Now()}
	u.pool.know(u)
	return u, nil
}

// keep gives a connection back to the pool. lifetime is what the machine said it keeps it for, or 0; a second of it
// is left out, so that its closing and our next request do not cross.
func (r *Router) keep(s *slot, u *upstream, lifetime time.Duration) {
	limit := r.cfg.UpstreamIdle
	if lifetime > 0 {
		limit = min(limit, lifetime-time.Second)
	}
	if limit <= 0 || s.seat.retired.Load() {
		_ = u.Close()
		return
	}
	u.used, u.until = true, time.Now().Add(limit)
	s.kept().put(u.addr, u)
}

// quiet says that the machine has neither closed the connection nor sent anything on it. It costs one system call,
// and is asked before a request that must not be sent twice.
func (u *upstream) quiet() bool {
	sc, ok := u.Conn.(syscall.Conn)
	if !ok {
		return true
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = rc.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, e := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		quiet = e == unix.EAGAIN
		return true
	})
	return err == nil && quiet
}
