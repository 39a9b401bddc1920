package mesh

import (
	"encoding/json"
	"errors"

	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/mesh/wire"
)

// stream sends without end and remembers when bytes came last, and the longest gap.
type stream struct {
	mu   sync.Mutex
	last time.Time
	gap  time.Duration
	sum  int64
	err  error
	conn net.Conn
	done chan struct{}
}

func newStream(t *testing.T, from, to place, addr netip.AddrPort) *stream {
	t.Helper()
	l := listenTCP(t, to, addr)
	s := &stream{last: time.Now(), done: make(chan struct{})}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 16<<10)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if err := from.do(func() (err error) { s.conn, err = net.DialTimeout("tcp", addr.String(), patient); return err }); err != nil {
		t.Fatal(err)
	}
	go s.read()
	t.Cleanup(func() { s.conn.Close(); <-s.done })
	return s
}

func (s *stream) read() {
	defer close(s.done)
	buf := make([]byte, 16<<10)
	for {
		k, err := s.conn.Read(buf)
		s.mu.Lock()
		s.gap = max(s.gap, time.Since(s.last))
		s.last, s.sum, s.err = time.Now(), s.sum+int64(k), err
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take returns the longest gap since the last call, and what came in all.
func (s *stream) take() (time.Duration, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gap := max(s.gap, time.Since(s.last))
	s.gap = 0
	return gap, s.sum, s.err
}

// TestRotation changes keys under a running transfer: of one node, of the other,
// and of both with nothing told in between.
func TestRotation(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	nodes := []*node{one, two}
	link(nodes)
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	s := newStream(t, in(a1), in(a2), netip.AddrPortFrom(a2.IPv6, 9000))
	time.Sleep(300 * time.Millisecond)
	for _, who := range [][]*node{{one}, {two}, {one, two}} {
		for _, n := range who {
			n.Next = n.call(nodeCall{Op: "rotate"}).Key
		}
		link(nodes)
		time.Sleep(100 * time.Millisecond)
		s.take()
		_, before, _ := s.take()
		for _, n := range who {
			n.call(nodeCall{Op: "next"})
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(800 * time.Millisecond)
		gap, after, err := s.take()
		t.Logf("%d nodes change keys: longest gap %v, %d bytes in 0.8 s", len(who), gap.Round(time.Millisecond), after-before)
		if gap > time.Second || err != nil || after == before {
			t.Errorf("gap of %v, %d bytes, %v", gap, after-before, err)
		}
		for _, n := range who {
			if now := n.call(nodeCall{Op: "hello"}).Key; now != n.Next {
				t.Errorf("the key is %s, not the next one", now)
			}
			n.Key, n.Next = n.Next, wire.Key{}
		}
		link(nodes)
		time.Sleep(300 * time.Millisecond)
		if gap, _, err := s.take(); gap > 300*time.Millisecond || err != nil {
			t.Errorf("after the old key is gone: gap of %v, %v", gap, err)
		}
	}
	for _, n := range nodes {
		for _, st := range n.call(nodeCall{Op: "status"}).Status {
			if st.LastHandshake.IsZero() || st.Received == 0 {
				t.Errorf("status is %+v", st)
			}
		}
	}
}

// TestUnchangedPeersAreLeftAlone: a list that is told again and again, with
// others that come and go, costs a link nothing.
func TestUnchangedPeersAreLeftAlone(t *testing.T) {
	u := newUnderlay(t)
	one, two, three := u.node(t), u.node(t), u.node(t)
	link([]*node{one, two})
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	s := newStream(t, in(a1), in(a2), netip.AddrPortFrom(a2.IPv6, 9000))
	time.Sleep(100 * time.Millisecond)
	handshake := one.call(nodeCall{Op: "status"}).Status[0].LastHandshake
	s.take()
	for i := range 16 {
		peers := []wire.Peer{two.peer()}
		if i%2 == 0 {
			peers = append(peers, three.peer())
		}
		one.call(nodeCall{Op: "peers", Peers: peers})
		one.call(nodeCall{Op: "setup"})
	}
	if gap, _, err := s.take(); gap > 300*time.Millisecond || err != nil {
		t.Errorf("gap of %v, %v", gap, err)
	}
	if now := one.call(nodeCall{Op: "status"}).Status[0].LastHandshake; !now.Equal(handshake) {
		t.Errorf("the link shook hands again")
	}
}

// TestKilledNode kills a node's process and starts it again, with its machines
// and connections there.
func TestKilledNode(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	nodes := []*node{one, two}
	link(nodes)
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	s := newStream(t, in(a1), in(a2), netip.AddrPortFrom(a2.IPv6, 9000))
	time.Sleep(100 * time.Millisecond)
	key := two.Key
	two.kill()
	two.start()
	if two.Key != key {
		t.Error("the key is another one")
	}
	if all := two.slots(); len(all) != 1 || all[0].IPv6 != a2.IPv6 {
		t.Errorf("slots are %+v", all)
	}
	link(nodes)
	_, before, _ := s.take()
	began := time.Now()
	waitFor(t, "the transfer goes on", 20*time.Second, func() bool { _, now, err := s.take(); return now > before+1<<20 && err == nil })
	t.Logf("the transfer went on after %v", time.Since(began).Round(time.Millisecond))
	two.kill()
	two.start()
	two.kill() // at once again, while nothing is told
	two.start()
	link(nodes)
	serve(t, in(a2), addrPort(a2.IPv6))
	if got, err := call(in(a1), "tcp", addrPort(a2.IPv6), netip.Addr{}, 15*time.Second); got != a1.IPv6 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestTwoDevicesOfOneName: the second process is told, and the first goes on.
func TestTwoDevicesOfOneName(t *testing.T) {
	u := newUnderlay(t)
	one := u.node(t)
	err := one.do(func() error {
		_, err := wire.New(wire.Config{Device: "wire0", KeyFile: filepath.Join(t.TempDir(), "key"), Address: netip.PrefixFrom(one.addr(), 128)})
		return err
	})
	if err == nil {
		t.Error("there are two")
	}
	one.call(nodeCall{Op: "status"})
}

// TestBadPeers: a peer that cannot be leaves the others alone.
func TestBadPeers(t *testing.T) {
	u := newUnderlay(t)
	one, two := u.node(t), u.node(t)
	link([]*node{two}, one.peer())
	thief, greedy := two.peer(), two.peer()
	thief.Name, thief.Allowed = "thief", nil
	greedy.Name, greedy.Key = "greedy", mustKey(t).Public()
	self := wire.Peer{Name: "self", Key: one.Key}
	err := tell(one, two.peer(), thief, greedy, self, wire.Peer{Name: "keyless"}, wire.Peer{Name: "lost", Key: mustKey(t).Public(), Endpoint: "nowhere.invalid:51820"})
	for _, who := range []string{"thief", "greedy", "self", "keyless"} {
		if err == nil || !strings.Contains(err.Error(), `"`+who+`"`) {
			t.Errorf("nothing is said of %s: %v", who, err)
		}
	}
	a1, a2 := one.machine("acme", "a1"), two.machine("acme", "a2")
	serve(t, in(a2), addrPort(a2.IPv6))
	if got, err := call(in(a1), "tcp", addrPort(a2.IPv6), netip.Addr{}, patient); got != a1.IPv6 {
		t.Errorf("%v, %v", got, err)
	}
}

func mustKey(t testing.TB) wire.PrivateKey {
	t.Helper()
	k, err := wire.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// tell is a call that may fail.
func tell(n *node, peers ...wire.Peer) error {
	var r nodeReply
	if err := json.NewEncoder(n.in).Encode(nodeCall{Op: "peers", Peers: peers}); err != nil {
		return err
	}
	if err := n.out.Decode(&r); err != nil {
		return err
	}
	if r.Err == "" {
		return nil
	}
	return errors.New(r.Err)
}

// TestKeyFile: made once, for its owner alone, and never replaced when unreadable.
func TestKeyFile(t *testing.T) {
	u := newUnderlay(t)
	one := u.node(t)
	path := filepath.Join(one.Dir, "wire.key")
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st, err)
	}
	bad := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(bad, []byte("not a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.New(wire.Config{Device: "wire9", KeyFile: bad, Address: netip.PrefixFrom(one.addr(), 128)}); err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(bad); string(b) != "not a key\n" {
		t.Error("the file was replaced")
	}
}
