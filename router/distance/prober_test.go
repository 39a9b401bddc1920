package distance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"time"
)

// TestSilence plays a node's answers and silence on a clock of its own.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name     string
		every    time.Duration
		min, max time.Duration // from the last answer until it is down
	}{{"busy", busyEvery, 1400 * time.Millisecond, 1600 * time.Millisecond}, {"quiet", quietEvery, 1900 * time.Millisecond, 2100 * time.Millisecond}} {
		var e echo
		now := time.Unix(1000, 0)
		last := now
		for range 5 {
			seq := e.send(now, tt.every)
			last = now.Add(30 * time.Millisecond)
			e.answer(seq, last)
			now = now.Add(tt.every)
		}
		if !e.up || e.rtt != 30*time.Millisecond {
			t.Fatalf("%s: %+v", tt.name, e)
		}
		for now = last; !e.judge(now); now = now.Add(50 * time.Millisecond) {
			if now.Sub(last) > 5*time.Second {
				t.Fatalf("%s: never down", tt.name)
			}
			if !now.Before(e.due) {
				e.send(now, tt.every)
			}
		}
		if d := now.Sub(last); d < tt.min || d > tt.max {
			t.Errorf("%s: down after %s", tt.name, d)
		}
		if e.judge(now) {
			t.Errorf("%s: told twice", tt.name)
		}
		if seq := e.send(now, tt.every); !e.answer(seq, now.Add(time.Millisecond)) || !e.up {
			t.Errorf("%s: not up at the first answer", tt.name)
		}
	}
}

func TestLostProbeIsNoSilence(t *testing.T) {
	var e echo
	now := time.Unix(1000, 0)
	for i := range 40 { // every second one is lost
		seq := e.send(now, busyEvery)
		if i%2 == 0 {
			e.answer(seq, now.Add(200*time.Millisecond))
		}
		now = now.Add(busyEvery)
		if e.judge(now) {
			t.Fatal("down")
		}
	}
	if e.answer(e.seq-window, now) || e.answer(e.seq+1, now) || e.answer(0, now) {
		t.Error("took an answer to nothing")
	}
}

// relay is a wire between two probers that can be cut in one direction.
type relay struct {
	conn *net.UDPConn
	mu   sync.Mutex
	a, b netip.AddrPort
	cut  bool // from a to b
}

func (r *relay) run() {
	var buf [64]byte
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			return
		}
		r.mu.Lock()
		to, cut := r.b, r.cut
		if from == r.b {
			to, cut = r.a, false
		}
		r.mu.Unlock()
		if !cut {
			_, _ = r.conn.WriteToUDPAddrPort(buf[:n], to)
		}
	}
}

func TestTwoNodes(t *testing.T) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	wire := &relay{conn: conn}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	peers := func(name string) func() []Peer { return func() []Peer { return []Peer{{name, at}} } }
	a, err := New(Config{Listen: "127.0.0.1:0", Peers: peers("b"), Busy: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Listen: "127.0.0.1:0", Peers: peers("a"), Busy: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	wire.a, wire.b = a.Addr(), b.Addr()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(wire.run)
	wg.Go(func() { _ = a.Run(ctx) })
	wg.Go(func() { _ = b.Run(ctx) })
	defer wg.Wait()
	defer conn.Close()
	defer stop()
	until := func(what string, limit time.Duration, ok func() bool) time.Duration {
		t.Helper()
		for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			if ok() {
				return time.Since(began)
			}
			if time.Since(began) > limit {
				t.Fatalf("no %s within %s", what, limit)
			}
		}
	}
	until("answer", 2*time.Second, func() bool { d := a.Snapshot()["b"]; return d.Up && d.RTT > 0 && d.RTT < 50*time.Millisecond })
	until("answer the other way", 2*time.Second, func() bool { return b.Snapshot()["a"].Up })
	select {
	case <-a.Changes():
	case <-time.After(time.Second):
		t.Error("no change was told")
	}
	wire.mu.Lock()
	wire.cut = true // one way only
	wire.mu.Unlock()
	took := until("silence", 3*time.Second, func() bool { d, ok := a.Snapshot()["b"]; return ok && !d.Up })
	until("silence the other way", 3*time.Second, func() bool { return !b.Snapshot()["a"].Up })
	if took < 900*time.Millisecond || took > 2500*time.Millisecond {
		t.Errorf("down after %s", took)
	}
	t.Logf("down %s after the cut", took)
	wire.mu.Lock()
	wire.cut = false
	wire.mu.Unlock()
	until("answer again", 2*time.Second, func() bool { return a.Snapshot()["b"].Up && b.Snapshot()["a"].Up })
}

func TestStrangersGetNoAnswer(t *testing.T) {
	p, err := New(Config{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Run(ctx) }()
	defer func() { stop(); <-done }()
	c, err := net.Dial("udp", p.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = c.Write(message(kindAsk, 7))
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Read(make([]byte, 64)); err == nil {
		t.Errorf("a stranger got %d bytes", n)
	}
}

// TestSnapshotIsShared: who asks for each of many nodes gets one map, until something changes.
func TestSnapshotIsShared(t *testing.T) {
	now := time.Unix(1000, 0)
	p := thousand(t, &now)
	first := p.Snapshot()
	if len(first) != 1000 || reflect.ValueOf(first).Pointer() != reflect.ValueOf(p.Snapshot()).Pointer() {
		t.Fatalf("%d nodes, or the map was made twice without a change", len(first))
	}
	now = now.Add(10 * time.Second)
	for range misses {
		now = now.Add(silence)
		for _, e := range p.peers {
			e.send(now, quietEvery)
		}
	}
	p.round()
	if first["n7"] != (Distance{RTT: time.Millisecond, Up: true}) || p.Snapshot()["n7"].Up {
		t.Errorf("before %+v, now %+v", first["n7"], p.Snapshot()["n7"])
	}
	p.refresh(nil)
	if got := p.Snapshot(); len(got) != 0 {
		t.Errorf("still knows %d", len(got))
	}
}

// thousand is a prober with a thousand nodes that have answered.
func thousand(t testing.TB, now *time.Time) *Prober {
	p, err := New(Config{Listen: "127.0.0.1:0", Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.conn.Close() })
	var peers []Peer
	for i := range 1000 {
		peers = append(peers, Peer{fmt.Sprint("n", i), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(10000+i))})
	}
	p.refresh(peers)
	for _, e := range p.peers {
		e.answer(e.send(*now, quietEvery), now.Add(time.Millisecond))
	}
	return p
}

// BenchmarkEachNode asks for each of a thousand nodes.
func BenchmarkEachNode(b *testing.B) {
	now := time.Unix(1000, 0)
	p := thousand(b, &now)
	b.ReportAllocs()
	for b.Loop() {
		for name := range p.peers {
			if !p.Snapshot()[name].Up {
				b.Fatal(name)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(kindAsk, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if kind, seq, ok := parse(b); ok && string(message(kind, seq)) != string(b) {
			t.Errorf("%q", b)
		}
	})
}
