package catalog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs the certificates of one test cloud.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cloud"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key))
	return &authority{must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

func (a *authority) config(t testing.TB, name string) *tls.Config {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// testCloud is nodes in one process, each with its own directory.
type testCloud struct {
	t    testing.TB
	ca   *authority
	node map[string]*testNode
}

type testNode struct {
	*Catalog
	cfg    Config
	member Member
	apps   *Table[rec]
}

func newTestCloud(t testing.TB) *testCloud {
	return &testCloud{t: t, ca: newAuthority(t), node: map[string]*testNode{}}
}

// freeAddr is below the ports that the kernel gives to connections, one of which
// could take it before the node does.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		at := fmt.Sprintf("127.0.0.1:%d", 20000+mrand.N(12000))
		if ln, err := net.Listen("tcp", at); err == nil {
			defer ln.Close()
			return at
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// add makes a node, without starting it.
func (tc *testCloud) add(name string) *testNode {
	n := &testNode{member: Member{name, freeAddr(tc.t), freeAddr(tc.t)}}
	n.cfg = Config{Dir: tc.t.TempDir(), Node: name, ClientListen: n.member.ClientAddr, RouteListen: n.member.RouteAddr,
		TLS: tc.ca.config(tc.t, name), Logger: quiet.With("node", name)}
	tc.node[name] = n
	return n
}

func (tc *testCloud) members(names ...string) (out []Member) {
	for _, name := range names {
		out = append(out, tc.node[name].member)
	}
	return out
}

func (n *testNode) start(t testing.TB, members ...Member) *testNode {
	t.Helper()
	n.cfg.Members = members
	n.Catalog = open(t, n.cfg)
	n.apps = table(t, n.Catalog, "apps")
	return n
}

// setMembers tells every node that runs.
func (tc *testCloud) setMembers(names ...string) {
	tc.t.Helper()
	for _, n := range tc.node {
		if n.Catalog != nil && n.ctx.Err() == nil {
			if err := n.SetMembers(tc.members(names...)); err != nil {
				tc.t.Fatal(err)
			}
		}
	}
}

// three makes a cloud of three members that keep everything three times.
func three(t testing.TB) *testCloud {
	tc := newTestCloud(t)
	tc.add("a").start(t)
	all := []string{"a", "b", "c"}
	tc.add("b")
	tc.add("c")
	tc.node["b"].start(t, tc.members(all...)...)
	tc.node["c"].start(t, tc.members(all...)...)
	tc.setMembers(all...)
	tc.awaitReplicas(3)
	return tc
}

func (tc *testCloud) awaitReplicas(n int) {
	tc.t.Helper()
	eventually(tc.t, fmt.Sprintf("everything is kept %d times", n), func() bool { return tc.kept("KV_"+bucketName) == n && tc.kept("KV_"+publishedName) == n })
}

func (tc *testCloud) kept(stream string) int {
	for _, n := range tc.node {
		if n.Catalog == nil || n.ctx.Err() != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(tc.t.Context(), time.Second)
		s, err := n.stateJS.Stream(ctx, stream)
		cancel()
		if err != nil || s.CachedInfo().Cluster == nil {
			continue
		}
		current := 1
		for _, r := range s.CachedInfo().Cluster.Replicas {
			if r.Current {
				current++
			}
		}
		return min(current, s.CachedInfo().Config.Replicas)
	}
	return 0
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("it did not come to be that %s", what)
}

func TestFirstMember(t *testing.T) {
	tc := newTestCloud(t)
	began := time.Now()
	a := tc.add("a").start(t)
	t.Logf("first start took %s", time.Since(began))
	must[uint64](t)(a.apps.Create(t.Context(), "web", rec{N: 1}))
	a.Close()
	began = time.Now()
	a.start(t)
	t.Logf("second start took %s", time.Since(began))
	if e, ok := a.apps.Get("web"); !ok || e.Value.N != 1 {
		t.Fatalf("after the restart: %+v", e)
	}
	st := a.StateStatus()
	if !st.Connected || st.To != "a" || !st.Member {
		t.Errorf("status %+v", st)
	}
}

func TestGrowAndLoseOne(t *testing.T) {
	tc := newTestCloud(t)
	a := tc.add("a").start(t)
	for i := range 50 {
		must[uint64](t)(a.apps.Put(t.Context(), fmt.Sprintf("k%d", i), rec{N: i}))
	}
	tc.add("b")
	tc.add("c")
	all := []string{"a", "b", "c"}
	began := time.Now()
	tc.node["b"].start(t, tc.members(all...)...)
	tc.node["c"].start(t, tc.members(all...)...)
	tc.setMembers(all...)
	tc.awaitReplicas(3)
	t.Logf("three members after %s", time.Since(began))
	if n := len(tc.node["c"].apps.List("")); n != 50 {
		t.Fatalf("the new member has %d records", n)
	}
	w := startWriter(t, tc.node["b"].apps)
	time.Sleep(300 * time.Millisecond)
	a.Close()
	time.Sleep(4 * time.Second)
	w.stop()
	t.Logf("%d acknowledged, %d failed, longest %s", len(w.acked), w.failed, w.longest)
	if w.failed > 0 {
		t.Errorf("%d writes failed: %v", w.failed, w.last)
	}
	for key, n := range w.acked { // a write that failed may be there all the same
		for _, name := range []string{"b", "c"} {
			eventually(t, "an acknowledged write is everywhere", func() bool { e, ok := tc.node[name].apps.Get(key); return ok && e.Value.N >= n })
		}
	}
}

type writer struct {
	done    chan struct{}
	wg      sync.WaitGroup
	acked   map[string]int
	failed  int
	last    error
	longest time.Duration
}

func startWriter(t testing.TB, tab *Table[rec]) *writer {
	w := &writer{done: make(chan struct{}), acked: map[string]int{}}
	w.wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-w.done:
				return
			default:
			}
			key, began := fmt.Sprintf("w%d", i%100), time.Now()
			if _, err := tab.Put(t.Context(), key, rec{N: i}); err != nil {
				w.failed, w.last = w.failed+1, err
			} else {
				w.acked[key] = i
			}
			w.longest = max(w.longest, time.Since(began))
		}
	})
	return w
}

func (w *writer) stop() {
	close(w.done)
	w.wg.Wait()
}

func TestNoQuorum(t *testing.T) {
	tc := three(t)
	a := tc.node["a"]
	must[uint64](t)(a.apps.Put(t.Context(), "kept", rec{N: 1}))
	must[uint64](t)(a.apps.Put(t.Context(), "lost", rec{N: 2}))
	eventually(t, "c has it", func() bool { _, ok := tc.node["c"].apps.Get("lost"); return ok })
	time.Sleep(300 * time.Millisecond) // until the copy on disk has it
	tc.node["a"].Close()
	tc.node["b"].Close()
	c := tc.node["c"]
	began := time.Now()
	_, err := c.apps.Put(t.Context(), "x", rec{})
	if !errors.Is(err, ErrNoQuorum) || !strings.Contains(err.Error(), "a and b") && !strings.Contains(err.Error(), "b and a") {
		t.Errorf("write without a quorum: %v", err)
	}
	t.Log(err, time.Since(began))
	if took := time.Since(began); took > writeLimit+time.Second {
		t.Errorf("it took %s", took)
	}
	c.Close()
	began = time.Now()
	c.start(t)
	t.Logf("a member alone opened after %s", time.Since(began))
	if e, ok := c.apps.Get("kept"); !ok || e.Value.N != 1 {
		t.Fatalf("the member alone reads %+v %v", e, ok)
	}
	a.start(t)
	if err := a.apps.Delete(t.Context(), "lost"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion arrives", func() bool { _, ok := c.apps.Get("lost"); return !ok })
	eventually(t, "c is current", func() bool { return c.StateStatus().Current })
	must[uint64](t)(c.apps.Put(t.Context(), "x", rec{N: 5}))
}

// TestLetOneGo removes a member that is dead, and one that leads.
func TestLetOneGo(t *testing.T) {
	tc := three(t)
	must[uint64](t)(tc.node["a"].apps.Put(t.Context(), "k", rec{N: 1}))
	tc.add("d").start(t, tc.members("a", "b", "c")...)
	tc.node["c"].Close()
	tc.setMembers("a", "b", "d")
	eventually(t, "the peers are a, b and d", func() bool {
		peers := tc.node["a"].cloud.part().ns.Load().JetStreamClusterPeers()
		slices.Sort(peers)
		return slices.Equal(peers, []string{"a", "b", "d"})
	})
	tc.awaitReplicas(3)
	tc.setMembers("a")
	for _, name := range []string{"b", "d"} {
		eventually(t, name+" keeps nothing any more", func() bool { return tc.node[name].cloud.part() == nil && !exists(tc.node[name].cloud.stateDir()) })
	}
	tc.awaitReplicas(1)
	for i, name := range []string{"a", "b", "d"} {
		n := tc.node[name]
		eventually(t, name+" reaches a", func() bool { st := n.StateStatus(); return st.To == "a" && st.Quorum })
		must[uint64](t)(n.apps.Put(t.Context(), "k", rec{N: 10 + i}))
	}
	eventually(t, "all have the last write", func() bool {
		e, _ := tc.node["a"].apps.Get("k")
		o, _ := tc.node["b"].apps.Get("k")
		return e.Value.N == 12 && o.Value.N == 12
	})
}

// TestOneIsLeft: of three members one dies while it and another are taken off the
// list. The last goes on by itself, and the one that lives follows it, also after it
// was started again.
func TestOneIsLeft(t *testing.T) {
	tc := three(t)
	tc.node["c"].Close()
	tc.setMembers("a")
	eventually(t, "b keeps nothing any more", func() bool { return tc.node["b"].cloud.part() == nil })
	tc.awaitReplicas(1)
	for round := range 2 {
		for i, name := range []string{"a", "b"} {
			want := 10*round + i
			eventually(t, name+" writes", func() bool {
				_, err := tc.node[name].apps.Put(t.Context(), "k", rec{N: want})
				return err == nil
			})
			for _, other := range []string{"a", "b"} {
				eventually(t, other+" has it", func() bool { e, _ := tc.node[other].apps.Get("k"); return e.Value.N == want })
			}
		}
		b := tc.node["b"]
		b.Close()
		b.start(t, tc.members("a")...)
	}
}

// TestAloneBecomesCloud moves what a node kept while it was alone.
func TestAloneBecomesCloud(t *testing.T) {
	tc := newTestCloud(t)
	n := tc.add("a")
	alone := open(t, Config{Dir: n.cfg.Dir, Node: "a"})
	apps, own := table(t, alone, "apps"), must[*Table[rec]](t)(NewLocal[rec](alone, "machines"))
	for i := range 20 {
		must[uint64](t)(apps.Put(t.Context(), fmt.Sprintf("k%d", i), rec{N: i}))
		must[uint64](t)(own.Put(t.Context(), fmt.Sprintf("m%d", i), rec{N: i}))
	}
	alone.Close()
	for range 2 {
		n.start(t)
		own = must[*Table[rec]](t)(NewLocal[rec](n.Catalog, "machines"))
		if a, m := len(n.apps.List("")), len(own.List("")); a != 20 || m != 20 {
			t.Fatalf("%d apps and %d machines", a, m)
		}
		n.Close()
	}
}

func TestStateIsLost(t *testing.T) {
	tc := newTestCloud(t)
	n := tc.add("a").start(t)
	must[uint64](t)(n.apps.Put(t.Context(), "k", rec{}))
	n.Close()
	if err := os.RemoveAll(filepath.Join(n.cfg.Dir, "state", "jetstream")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), n.cfg); !errors.Is(err, ErrDamaged) {
		t.Fatalf("opened with the state gone: %v", err)
	}
}

func TestCloudRefusals(t *testing.T) {
	tc := newTestCloud(t)
	n := tc.add("a")
	for name, change := range map[string]func(*Config){
		"no certificate": func(c *Config) { c.TLS = nil },
		"no door":        func(c *Config) { c.ClientListen = "" },
		"a port":         func(c *Config) { c.RouteListen = "127.0.0.1:x" },
		"a name":         func(c *Config) { c.Node = "a.b" },
		"a member twice": func(c *Config) { c.Members = []Member{n.member, n.member} },
		"an address":     func(c *Config) { c.Members = []Member{{Name: "a", ClientAddr: "x", RouteAddr: "y"}} },
	} {
		cfg := n.cfg
		cfg.Dir = t.TempDir()
		change(&cfg)
		if c, err := Open(t.Context(), cfg); err == nil {
			c.Close()
			t.Errorf("%s: was opened", name)
		}
	}
	n.start(t)
	for _, members := range [][]Member{nil, {{}}, {n.member, n.member}} {
		if err := n.SetMembers(members); err == nil {
			t.Errorf("members %v were taken", members)
		}
	}
	must[uint64](t)(n.apps.Put(t.Context(), "k", rec{}))
}

func TestNextToGo(t *testing.T) {
	on := func(ids ...string) map[string]bool {
		m := map[string]bool{}
		for _, id := range ids {
			m[id] = true
		}
		return m
	}
	for _, tc := range []struct {
		peers, leaving []string
		online         map[string]bool
		want           string
	}{
		{[]string{"a", "b", "c", "d"}, []string{"b", "c", "d"}, on("a", "b", "d"), "c"},
		{[]string{"a", "b", "d"}, []string{"d", "b"}, on("a", "b", "d"), "b"},
		{[]string{"a", "b"}, []string{"b"}, on("a", "b"), "b"},
		{[]string{"a", "b", "c"}, []string{"b"}, on("a", "b"), ""},
		{[]string{"a", "b", "c"}, []string{"c"}, on("a", "b"), "c"},
		{[]string{"a", "b", "c", "d"}, []string{"d"}, on("a", "d"), ""},
	} {
		got, err := nextToGo(tc.peers, tc.leaving, tc.online)
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("of %v leave %v, here are %v: %q %v, want %q", tc.peers, tc.leaving, tc.online, got, err, tc.want)
		}
	}
}

// TestCatchUp: what one node has written, another reads after CatchUp.
func TestCatchUp(t *testing.T) {
	tc := three(t)
	for i := range 200 {
		from, to := tc.node["a"], tc.node["c"]
		if i%2 == 1 {
			from, to = to, from
		}
		key := fmt.Sprintf("k%d", i)
		must[uint64](t)(from.apps.Put(t.Context(), key, rec{N: i}))
		if err := to.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e, ok := to.apps.Get(key); !ok || e.Value.N != i {
			t.Fatalf("after CatchUp %q is %v, %v", key, e.Value, ok)
		}
	}
	tc.node["a"].Close()
	tc.node["b"].Close()
	eventually(t, "without a majority it fails", func() bool { return errors.Is(tc.node["c"].CatchUp(t.Context()), ErrNoQuorum) })
}

// TestMembersCallOneWay: two members that call each other at once would both hang
// up, again and again.
func TestMembersCallOneWay(t *testing.T) {
	tc := newTestCloud(t)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		tc.add(name)
	}
	all := tc.members(names...)
	calls := map[string]bool{}
	for _, name := range names {
		s := &stateServer{node: name, members: func() []Member { return all }, former: func() []Member { return nil }}
		for _, u := range s.routes() {
			for _, m := range all {
				if u.Host == m.RouteAddr {
					calls[name+m.Name] = true
				}
			}
		}
	}
	for i, one := range names {
		if !calls[one+one] {
			t.Errorf("%s does not call itself: the server wants one route at least", one)
		}
		for _, two := range names[i+1:] {
			if calls[one+two] == calls[two+one] {
				t.Errorf("%s calls %s: %v, and the other way round: %v", one, two, calls[one+two], calls[two+one])
			}
		}
	}
}

func TestOwnServerComesLastUntilItReachesMost(t *testing.T) {
	tc := newTestCloud(t)
	for _, name := range []string{"a", "b", "c"} {
		tc.add(name)
	}
	l := newLink("b", tc.members("b", "a", "c"))
	for touch, want := range map[bool][]string{true: {"b", "a", "c"}, false: {"a", "c", "b"}} {
		l.inTouch = func() bool { return touch }
		var got []string
		for _, m := range l.candidates() {
			got = append(got, m.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with its own server in touch %v the order is %v, want %v", touch, got, want)
		}
	}
}

func TestAbsentMembersAreToldOnce(t *testing.T) {
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	members, a := []Member{{Name: "a"}, {Name: "b"}}, absent{}
	a.note(members, "a", nil, log)
	if out.Len() > 0 {
		t.Errorf("told at once: %s", out.String())
	}
	a["b"] = time.Now().Add(-2 * awayFor)
	for range 3 {
		a.note(members, "a", nil, log)
	}
	for range 3 {
		a.note(members, "a", map[string]bool{"b": true}, log)
	}
	if got := out.String(); strings.Count(got, "cannot be reached") != 1 || strings.Count(got, "reached again") != 1 || len(a) > 0 {
		t.Errorf("told %q, left %v", got, a)
	}
}

// TestRecover: two of three members are lost for good, and one goes on alone, with
// all that it had, also after it was started again; another cloud grows from it.
func TestRecover(t *testing.T) {
	tc := three(t)
	a := tc.node["a"]
	must[uint64](t)(a.apps.Put(t.Context(), "k", rec{N: 1}))
	if err := a.Recover(t.Context(), []string{"b", "c"}); err == nil {
		t.Fatal("members that are there are taken for lost")
	}
	tc.node["b"].Close()
	if err := a.Recover(t.Context(), []string{"b"}); err == nil || !strings.Contains(err.Error(), "most members are there") {
		t.Fatalf("with two of three: %v", err)
	}
	tc.node["c"].Close()
	eventually(t, "the other members are away", func() bool { return len(a.cloud.part().online()) == 1 })
	if err := a.Recover(t.Context(), []string{"b"}); err == nil || !strings.Contains(err.Error(), `"c" cannot be reached and is not named`) {
		t.Fatalf("with one that is not named: %v", err)
	}
	if err := a.Recover(t.Context(), []string{"b", "c"}); err != nil {
		t.Fatal(err)
	}
	must[uint64](t)(a.apps.Put(t.Context(), "k", rec{N: 2}))
	tc.setMembers("a")
	tc.awaitReplicas(1)
	a.Close()
	a.start(t)
	eventually(t, "it has what it had", func() bool { e, _ := a.apps.Get("k"); return e.Value.N == 2 })
	tc.add("d")
	tc.node["d"].start(t, tc.members("a", "d")...)
	tc.setMembers("a", "d")
	tc.awaitReplicas(2)
	must[uint64](t)(tc.node["d"].apps.Put(t.Context(), "k", rec{N: 3}))
}
