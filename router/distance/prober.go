package distance

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Peer is another node.
type Peer struct {
	// Name is the node's name, the key of [Prober.Snapshot].
	Name string
	// Addr is where its prober listens: its address in the mesh.
	Addr netip.AddrPort
}

// Config is what a Prober needs.
type Config struct {
	// Listen is the UDP address to answer and ask from: this node's address in the mesh, port 4284.
	Listen string
	// Peers are the other nodes; asked about once a second, so that it may change. Others get no answer.
	Peers func() []Peer
	// Busy says that a node has traffic of ours now, so that it is asked twice a second. Nil: none has.
	Busy func(node string) bool
	// Rate is the most probes that are sent each second to nodes that are not busy. Default 200.
	Rate int
	// Now is the clock. Default time.Now.
	Now func() time.Time
	// Logger is told when a node goes down or comes back. Nil: nobody is.
	Logger *slog.Logger
}

// Prober measures distances. Its methods may be called at any time from any goroutine.
type Prober struct {
	cfg     Config
	log     *slog.Logger
	conn    *net.UDPConn
	changes chan struct{}

	mu    sync.Mutex // guards what follows
	peers map[string]*peer
	at    map[netip.AddrPort]*peer
	shown map[string]Distance // as Snapshot gave it; nil after a change
}

type peer struct {
	Peer
	echo
}

// New opens the socket. Nothing is sent before Run.
func New(cfg Config) (*Prober, error) {
	addr, err := net.ResolveUDPAddr("udp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot measure distances from %q: %w", cfg.Listen, err)
	}
	conn, err := net.ListenUDP("udp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot measure distances from %q: %w; is the mesh up, and the port free?", cfg.Listen, err)
	}
	cfg.Rate = cmp.Or(cfg.Rate, 200)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Peers == nil {
		cfg.Peers = func() []Peer { return nil }
	}
	p := &Prober{cfg: cfg, log: cfg.Logger, conn: conn, changes: make(chan struct{}, 1), peers: map[string]*peer{}, at: map[netip.AddrPort]*peer{}}
	return p, nil
}

// Addr is where the prober listens.
func (p *Prober) Addr() netip.AddrPort { return p.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Run asks and answers until ctx ends, and closes the socket.
func (p *Prober) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(p.receive)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for round := 0; ctx.Err() == nil; round++ {
		if round%20 == 0 {
			p.refresh(p.cfg.Peers())
		}
		p.round()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	_ = p.conn.Close()
	wg.Wait()
	return nil
}

// Snapshot is the distance of every node of which something is known: who is missing has not had the time to answer.
// The map is shared, so that asking for one node costs no more than a look: it must not be changed. It is made anew
// when Changes has something to tell, and each second.
func (p *Prober) Snapshot() map[string]Distance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown != nil {
		return p.shown
	}
	p.shown = make(map[string]Distance, len(p.peers))
	for name, e := range p.peers {
		if e.known {
			p.shown[name] = Distance{RTT: e.rtt, Up: e.up}
		}
	}
	return p.shown
}

// Changes gets a value after something in Snapshot has changed by more than noise: a node went down, came back, came
// new or is at another distance. It is for one listener, and values that come together become one.
func (p *Prober) Changes() <-chan struct{} { return p.changes }

// tell says that something changed; mu is held.
func (p *Prober) tell() {
	p.shown = nil
	select {
	case p.changes <- struct{}{}:
	default:
	}
}

// refresh takes over who the nodes are. What is known of those that stay where they are stays.
func (p *Prober) refresh(peers []Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next, at := make(map[string]*peer, len(peers)), make(map[netip.AddrPort]*peer, len(peers))
	for _, x := range peers {
		x.Addr = netip.AddrPortFrom(x.Addr.Addr().Unmap(), x.Addr.Port())
		e := p.peers[x.Name]
		if e == nil || e.Addr != x.Addr {
			e = &peer{Peer: x}
			e.due = p.cfg.Now().Add(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
			e.seq = rand.Uint64() >> 1 // so that nobody guesses what answers us
		}
		next[x.Name], at[x.Addr] = e, e
	}
	if len(next) != len(p.peers) {
		p.tell()
	}
	p.peers, p.at, p.shown = next, at, nil
}

// round sends the probes that are due and judges who is silent.
func (p *Prober) round() {
	type probe struct {
		to  netip.AddrPort
		seq uint64
	}
	var out []probe
	now := p.cfg.Now()
	p.mu.Lock()
	quiet := max(quietEvery, time.Duration(len(p.peers))*time.Second/time.Duration(p.cfg.Rate))
	for _, e := range p.peers {
		if e.judge(now) {
			p.log.Warn("node is silent", "node", e.Name)
			p.tell()
		}
		if !now.Before(e.due) {
			every := quiet
			if p.cfg.Busy != nil && p.cfg.Busy(e.Name) {
				every = busyEvery
			}
			out = append(out, probe{e.Addr, e.send(now, jitter(every))})
		}
	}
	p.mu.Unlock()
	for _, x := range out {
		_, _ = p.conn.WriteToUDPAddrPort(message(kindAsk, x.seq), x.to) // a failure is silence
	}
}

// jitter keeps a thousand nodes from asking at the same moment.
func jitter(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d/10)+1)) }

const (
	magic     = "perigee echo 1\x00"
	kindAsk   = 'a'
	kindReply = 'r'
)

func message(kind byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(magic), kind), seq)
}

// parse reads a message; ok says that it is one.
func parse(b []byte) (kind byte, seq uint64, ok bool) {
	if len(b) != len(magic)+9 || string(b[:len(magic)]) != magic {
		return 0, 0, false
	}
	return b[len(magic)], binary.BigEndian.Uint64(b[len(magic)+1:]), true
}

// receive answers and takes answers until the socket is closed.
func (p *Prober) receive() {
	var b [64]byte
	for {
		n, from, err := p.conn.ReadFromUDPAddrPort(b[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // of an earlier packet of ours, by ICMP
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if kind, seq, ok := parse(b[:n]); ok {
			p.take(kind, seq, from)
		}
	}
}

func (p *Prober) take(kind byte, seq uint64, from netip.AddrPort) {
	p.mu.Lock()
	e := p.at[from]
	if e == nil {
		p.mu.Unlock()
		return
	}
	if kind == kindReply {
		down := e.known && !e.up
		if e.answer(seq, p.cfg.Now()) {
			p.tell()
		}
		if down && e.up {
			p.log.Info("node answers again", "node", e.Name)
		}
	}
	p.mu.Unlock()
	if kind == kindAsk {
		_, _ = p.conn.WriteToUDPAddrPort(message(kindReply, seq), from)
	}
}
