package router

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/region"
	"github.com/perigee-run/perigee/router/distance"
)

// Distance is how far a node is, and whether it answers.
type Distance = distance.Distance

// peer is another node's router, with the connections to it that all its machines share.
type peer struct {
	addr netip.AddrPort
	node string
	pool pool

	rtt     atomic.Int64 // nanoseconds, 0 if unknown
	down    atomic.Bool  // the probes say so
	suspect atomic.Int64 // until then (Unix nanoseconds) we say so ourselves

	mu      sync.Mutex // guards waiting
	waiting map[*upstream]struct{}
}

// suspicion is how long a node that could not be reached is avoided.
const suspicion = 500 * time.Millisecond

// gone says that the node should not be tried while there is another one.
func (p *peer) gone() bool {
	if p.down.Load() {
		return true
	}
	until := p.suspect.Load()
	return until > 0 && time.Now().UnixNano() < until
}

func (p *peer) doubt() { p.suspect.Store(time.Now().Add(suspicion).UnixNano()) }

// learn takes a distance over. What waits for a node that is down, and may be sent again, is set free.
func (p *peer) learn(d Distance) {
	p.rtt.Store(int64(d.RTT))
	if p.down.Swap(!d.Up) || d.Up {
		if d.Up {
			p.suspect.Store(0)
		}
		return
	}
	p.pool.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for u := range p.waiting {
		_ = u.Close()
	}
}

// await notes that u waits for an answer, and that the request can be sent again if the node goes down.
func (p *peer) await(u *upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = map[*upstream]struct{}{}
	}
	p.waiting[u] = struct{}{}
}

func (p *peer) unawait(u *upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, u)
}

// SetDistances tells how far the other nodes are, by name. Nodes that are missing are taken to answer, at the distance
// of their region. The map must not be changed afterwards.
func (r *Router) SetDistances(d map[string]Distance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.distances = d
	for _, p := range r.peers {
		p.learn(r.distanceOf(p.node))
	}
}

func (r *Router) distanceOf(node string) Distance {
	if d, ok := r.distances[node]; ok {
		return d
	}
	return Distance{Up: true}
}

// peerFor finds or makes the peer at an address; r.mu is held.
func (r *Router) peerFor(m *Machine) *peer {
	if m.local() {
		return nil
	}
	p := r.peers[m.Via]
	if p == nil || p.node != m.Node {
		p = &peer{addr: m.Via, node: m.Node}
		p.learn(r.distanceOf(m.Node))
		r.peers[m.Via] = p
	}
	return p
}

// sweepPeers forgets the peers that the table does not name any more; r.mu is held.
func (r *Router) sweepPeers(used map[*peer]bool) {
	for addr, p := range r.peers {
		if !used[p] {
			p.pool.close()
			delete(r.peers, addr)
		}
	}
}

// farAway is how far a node is taken to be of which nothing is known.
const farAway = 150 * time.Millisecond

// guess is the round trip between two regions as far as geography tells.
func guess(here, there string) time.Duration {
	if here == there {
		return 500 * time.Microsecond
	}
	a, ok := region.Lookup(here)
	b, ok2 := region.Lookup(there)
	if !ok || !ok2 {
		return farAway
	}
	return region.RTT(a, b)
}

// farError is that a node cannot be reached, which no app can help.
type farError struct{ error }

// Unwrap lets errors.Is see a timeout.
func (e farError) Unwrap() error { return e.error }

// openPeer gets a connection to the router of the machine's node. A silent one is given up soon: three round trips are
// time enough for what is lost once.
func (r *Router) openPeer(tr *trip, s *slot) (*upstream, error) {
	p := s.peer
	for !tr.fresh {
		u := p.pool.get(p.addr)
		if u == nil {
			break
		}
		if time.Now().Before(u.until) && u.quiet() {
			return u, nil
		}
		_ = u.Close()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.life), max(250*time.Millisecond, 3*time.Duration(p.rtt.Load())))
	defer cancel()
	c, err := r.cfg.dialPeer(ctx, p.addr.String())
	if err != nil {
		p.doubt()
		return nil, farError{fmt.Errorf("node %q: %w", p.node, err)}
	}
	u := &upstream{Conn: c, pool: &p.pool, addr: p.addr, born: time.Now()}
	p.pool.know(u)
	return u, nil
}

// meshDialer opens connections between routers. The kernel ends those whose other side is silent for ten seconds: a node
// that died takes its machines with it.
var meshDialer = net.Dialer{
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	Control: func(_, _ string, rc syscall.RawConn) (err error) {
		e := rc.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10_000)
		})
		if e != nil {
			return e
		}
		return err
	},
}

func (c *Config) dialPeer(ctx context.Context, addr string) (net.Conn, error) {
	return meshDialer.DialContext(ctx, "tcp", addr)
}

// load is what the owner of a machine has said of it.
type load struct {
	others int // in flight from elsewhere, at that time
	at     time.Time
}

// believed is how long it is taken for true. Who was full may have room again soon.
const (
	believed     = time.Second
	believedFull = 200 * time.Millisecond
)

// heard notes how much the owner says is in flight to the machine.
func (s *seat) heard(total int) {
	if others := total - int(s.n.Load()); others > 0 || s.told.Load() != nil {
		s.told.Store(&load{others: max(others, 0), at: time.Now()})
	}
}

// others is what is in flight from elsewhere, as far as we know.
func (s *seat) others(hard int) int {
	l := s.told.Load()
	if l == nil || l.others == 0 {
		return 0
	}
	age := time.Since(l.at)
	if age > believed || hard > 0 && l.others >= hard && age > believedFull {
		return 0
	}
	return l.others
}

// shun avoids a machine for a while that its owner gives nothing: the next table will say why.
func (s *seat) shun() { s.shunned.Store(time.Now().Add(suspicion).UnixNano()) }

func (s *seat) shuns() bool {
	until := s.shunned.Load()
	return until > 0 && time.Now().UnixNano() < until
}

// full notes that the owner has no room, whatever our count says.
func (s *seat) full(hard int) {
	s.told.Store(&load{others: max(hard, 1), at: time.Now()})
}

// InFlight says how much this router has in flight to a machine, on whatever node.
func (r *Router) InFlight(machine string) int {
	n, _ := r.Activity(machine)
	return n
}
