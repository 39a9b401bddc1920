package catalog

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cable is a TCP proxy in front of an address that can be cut: connections stay
// and nothing passes, as when a cable is pulled.
type cable struct {
	ln       net.Listener
	to       string
	cutThere atomic.Bool // towards the address
	cutBack  atomic.Bool
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

func newCable(t testing.TB, to string) *cable {
	c := &cable{ln: must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), to: to}
	c.wg.Go(c.accept)
	t.Cleanup(c.close)
	return c
}

func (c *cable) accept() {
	for {
		in, err := c.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", c.to)
		if err != nil {
			in.Close()
			continue
		}
		c.mu.Lock()
		c.conns = append(c.conns, in, out)
		c.mu.Unlock()
		c.wg.Go(func() { c.pass(out, in, &c.cutThere) })
		c.wg.Go(func() { c.pass(in, out, &c.cutBack) })
	}
}

func (c *cable) pass(to, from net.Conn, cut *atomic.Bool) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for cut.Load() && err == nil {
			n, err = from.Read(buf) // is lost
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (c *cable) cut(there, back bool) {
	c.cutThere.Store(there)
	c.cutBack.Store(back)
	if !there && !back { // TCP would not go on over bytes that were lost
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, conn := range c.conns {
			conn.Close()
		}
		c.conns = nil
	}
}

func (c *cable) close() {
	c.ln.Close()
	c.mu.Lock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.mu.Unlock()
	c.wg.Wait()
}

// splitCloud is three members; what goes to and from a passes cables.
type splitCloud struct {
	*testCloud
	cables []*cable
}

func newSplitCloud(t testing.TB) *splitCloud {
	sc := &splitCloud{testCloud: newTestCloud(t)}
	for _, name := range []string{"a", "b", "c"} {
		sc.add(name)
	}
	through := func(addr string) string {
		c := newCable(t, addr)
		sc.cables = append(sc.cables, c)
		return c.ln.Addr().String()
	}
	// Everybody else reaches a, and a everybody else, by cables.
	far := func(name string) Member {
		m := sc.node[name].member
		return Member{name, through(m.ClientAddr), through(m.RouteAddr)}
	}
	forA := []Member{sc.node["a"].member, far("b"), far("c")}
	a := far("a")
	forRest := []Member{a, sc.node["b"].member, sc.node["c"].member}
	sc.node["a"].start(t)
	sc.node["b"].start(t, forRest...)
	sc.node["c"].start(t, forRest...)
	for name, n := range sc.node {
		list := forRest
		if name == "a" {
			list = forA
		}
		if err := n.SetMembers(list); err != nil {
			t.Fatal(err)
		}
	}
	sc.awaitReplicas(3)
	return sc
}

func (sc *splitCloud) cut(there, back bool) {
	for _, c := range sc.cables {
		c.cut(there, back)
	}
}

func TestSplit(t *testing.T) {
	for _, tc := range []struct {
		name        string
		there, back bool
	}{{"both ways", true, true}, {"one way", true, false}} {
		t.Run(tc.name, func(t *testing.T) {
			testSplit(t, tc.there, tc.back)
		})
	}
}

func testSplit(t *testing.T, there, back bool) {
	sc := newSplitCloud(t)
	a, b := sc.node["a"], sc.node["b"]
	rev := must[uint64](t)(a.apps.Put(t.Context(), "counter", rec{N: 0}))
	must[uint64](t)(a.apps.Put(t.Context(), "lost", rec{N: 7}))
	eventually(t, "b has both", func() bool { e, ok := b.apps.Get("lost"); return ok && e.Value.N == 7 })
	sc.cut(there, back)
	var aOK, bOK bool
	var wg sync.WaitGroup
	try := func(n *testNode, times int, ok *bool) {
		wg.Go(func() {
			for range times {
				began := time.Now()
				_, err := n.apps.Update(t.Context(), "counter", rec{N: 1, Name: n.node}, rev)
				t.Logf("%s after %s: %v", n.node, time.Since(began).Round(time.Millisecond), err)
				if err == nil || !errors.Is(err, ErrNoQuorum) {
					*ok = err == nil
					return
				}
			}
		})
	}
	try(a, 2, &aOK)
	try(b, 4, &bOK)
	wg.Wait()
	t.Logf("accepted by a: %v, by b: %v", aOK, bOK)
	if aOK && bOK || there && back && !bOK {
		t.Fatalf("accepted by a: %v, by b: %v; the side of b has the quorum", aOK, bOK)
	}
	survivor := map[bool]*testNode{true: a, false: b}[aOK]
	if err := survivor.apps.Delete(t.Context(), "lost"); err != nil {
		t.Logf("delete: %v", err)
	}
	if e, ok := a.apps.Get("counter"); !ok {
		t.Errorf("a reads %+v", e)
	}
	sc.cut(false, false)
	eventually(t, "a takes writes", func() bool { return a.apps.Delete(t.Context(), "lost") == nil })
	eventually(t, "all agree, and nothing accepted is lost", func() bool {
		e, _ := a.apps.Get("counter")
		for _, n := range sc.node {
			other, _ := n.apps.Get("counter")
			_, lost := n.apps.Get("lost")
			if other.Value.Name != e.Value.Name || other.Revision != e.Revision || lost {
				return false
			}
		}
		return !(aOK && e.Value.Name != "a") && !(bOK && e.Value.Name != "b")
	})
	for name, n := range sc.node {
		must[uint64](t)(n.apps.Put(t.Context(), "after."+name, rec{}))
	}
}

func TestStrangersAreRefused(t *testing.T) {
	tc := newTestCloud(t)
	a := tc.add("a")
	var removed atomic.Value
	removed.Store("")
	a.cfg.Allow = func(c *x509.Certificate) error {
		if c.Subject.CommonName == removed.Load() {
			return errors.New("the node was removed")
		}
		return nil
	}
	a.start(t)
	dial := func(p peers, as string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c, err := p.dial(ctx, Member{as, a.member.ClientAddr, a.member.RouteAddr})
		if err == nil {
			c.Close()
		}
		return err
	}
	b := peers{tls: tc.ca.config(t, "b")}
	if err := dial(b, "a"); err != nil {
		t.Fatalf("a node of the cloud: %v", err)
	}
	if err := dial(b, "z"); err == nil || !strings.Contains(err.Error(), `"a" and should be "z"`) {
		t.Errorf("another name: %v", err)
	}
	if err := dial(peers{tls: newAuthority(t).config(t, "b")}, "a"); err == nil {
		t.Error("a certificate of another cloud was taken")
	}
	blind := peers{tls: newAuthority(t).config(t, "b")}
	blind.tls.RootCAs = b.tls.RootCAs // knows whom to trust, and is not trusted
	if err := dial(blind, "a"); err == nil || !strings.Contains(err.Error(), "does not let this node in") {
		t.Errorf("a certificate of another cloud: %v", err)
	}
	conn := must[net.Conn](t)(b.dial(t.Context(), a.member))
	defer conn.Close()
	removed.Store("b")
	if err := dial(b, "a"); err == nil {
		t.Error("a removed node was let in")
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
		t.Error("a removed node's connection goes on")
	}
	if plain, err := net.Dial("tcp", a.member.ClientAddr); err == nil {
		defer plain.Close()
		_ = plain.SetReadDeadline(time.Now().Add(time.Second))
		if n, _ := plain.Read(make([]byte, 1)); n > 0 {
			t.Error("a client without TLS is spoken to")
		}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestNodeThatIsNoMember(t *testing.T) {
	tc := newTestCloud(t)
	a := tc.add("a").start(t)
	d := tc.add("d").start(t, tc.members("a")...)
	must[uint64](t)(d.apps.Create(t.Context(), "web", rec{N: 1}))
	eventually(t, "a has it", func() bool { _, ok := a.apps.Get("web"); return ok })
	if st := d.StateStatus(); st.Member || st.To != "a" {
		t.Errorf("status %+v", st)
	}
	own := must[*Table[rec]](t)(NewLocal[rec](d.Catalog, "own"))
	must[uint64](t)(own.Put(t.Context(), "k", rec{N: 1}))
	time.Sleep(300 * time.Millisecond)
	a.Close()
	d.Close()
	began := time.Now()
	d.start(t)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("opening without the state took %s", took)
	}
	if e, ok := d.apps.Get("web"); !ok || e.Value.N != 1 {
		t.Errorf("from the copy: %+v %v", e, ok)
	}
	own = must[*Table[rec]](t)(NewLocal[rec](d.Catalog, "own"))
	must[uint64](t)(own.Put(t.Context(), "k", rec{N: 2}))
	a.start(t)
	eventually(t, "d is connected again", func() bool { return d.StateStatus().Current })
	must[uint64](t)(d.apps.Put(t.Context(), "web", rec{N: 2}))
}
