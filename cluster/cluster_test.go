package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
)

func TestOpenAgain(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(Config{Dir: dir, Name: "a", Region: "iad", Address: "192.0.2.7", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	first := c.Self()
	checkHome(t, dir, true)
	if c, err = Open(Config{Dir: dir, Region: "fra", Version: "2", Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	got := c.Self()
	if got.Number != first.Number || got.Region != "fra" || got.Address != "192.0.2.7" || got.Version != "2" || !got.Member {
		t.Errorf("first %+v, then %+v", first, got)
	}
	for want, cfg := range map[string]Config{
		`the node here is "a"`:              {Dir: dir, Name: "b"},
		"as region":                         {Dir: dir, Region: "No Region"},
		"want 1, 3 or 5":                    {Dir: dir, Members: 4},
		"no data directory":                 {},
		"as node name":                      {Dir: t.TempDir(), Name: "A"},
		"as address":                        {Dir: dir, Address: "10.0.0.1:4281"},
		"set this server's clock":           {Dir: dir, now: func() time.Time { return time.Now().Add(-2 * time.Hour) }},
		"it was not renewed in time":        {Dir: dir, now: func() time.Time { return time.Now().Add(2 * nodeLife) }},
		`cannot use "queen" as role: there`: {Dir: dir, Roles: []string{"queen"}},
	} {
		_, err := Open(cfg)
		wantError(t, err, want)
	}
}

// TestOpenAfterACrash: what a start that was cut off has left is not used.
func TestOpenAfterACrash(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, newDir)
	if err := errors.Join(os.MkdirAll(left, 0o700), os.WriteFile(filepath.Join(left, signerFile), []byte("half"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, Name: "a", Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	checkHome(t, dir, true)
}

func TestDamagedFiles(t *testing.T) {
	for _, name := range []string{authorityFile, signerFile, nodeFile, identityFile, nodesFile} {
		dir := t.TempDir()
		if _, err := Open(Config{Dir: dir, Name: "a", Logger: quiet}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, homeDir, name), []byte("garbage"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(Config{Dir: dir, Logger: quiet})
		wantError(t, err, "cannot")
		t.Log(err)
	}
}

// TestRolesCannotGrow: a node that joined without the role state has no key.
func TestRolesCannotGrow(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra", RoleHost, RoleEdge)
	b.stop()
	_, err := Open(Config{Dir: b.dir, Roles: []string{RoleState}, Logger: quiet})
	wantError(t, err, `cannot take role "state"`)
	if _, err := Open(Config{Dir: b.dir, Roles: []string{RoleHost}, Logger: quiet}); err != nil {
		t.Error(err)
	}
}

// TestAlone: a node that restarts without the others knows them.
func TestAlone(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{Region: "iad"})
	b := cl.add(t, a, "b", "fra")
	eventually(t, "the record of a is on disk", func() bool {
		known, err := readNodes(b.home)
		return err == nil && len(known) == 2
	})
	b.stop()
	c, err := Open(Config{Dir: b.dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := c.Node("a"); !ok || n.Region != "iad" || !n.Member {
		t.Errorf("knows %+v", n)
	}
	if _, err := c.CreateToken(t.Context(), api.CreateJoinTokenRequest{}); err == nil {
		t.Error("made a token without the catalog")
	}
}

func TestAnnounceAndChanges(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	ctx, cancel := context.WithCancel(t.Context())
	changes := a.Changes(ctx)
	if err := b.Announce(t.Context(), func(n *Node) { n.WireGuardKey = "key1" }); err != nil {
		t.Fatal(err)
	}
	for n := range changes {
		if n.Name == "b" && n.WireGuardKey == "key1" {
			break
		}
	}
	cancel()
	for range changes {
	}
	for _, edit := range []func(n *Node){func(n *Node) { n.Name = "c" }, func(n *Node) { n.Number++ }, func(n *Node) { n.PeerPort = 0 }} {
		if err := b.Announce(t.Context(), edit); err == nil {
			t.Error("a node became another")
		}
	}
	b.stop()
	if c, err := Open(Config{Dir: b.dir, Logger: quiet}); err != nil || c.Self().WireGuardKey != "key1" {
		t.Errorf("after a restart: %v", err)
	}
}

func TestRemovedNode(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{Status: func(string) Status { return Status{Up: true, Machines: 2} }})
	b := cl.add(t, a, "b", "fra")
	c := cl.add(t, a, "c", "syd")
	if _, err := b.call(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three members", func() bool { return memberNames(a) == "a b c" })
	wantError(t, a.RemoveNode(t.Context(), "b", false), "is up and has 2 machines")
	wantError(t, a.RemoveNode(t.Context(), "zz", true), `there is no node "zz"`)
	cert := b.cert.Load().Leaf
	if err := errors.Join(a.Allow(cert), c.Allow(cert)); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveNode(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Removed():
	case <-time.After(5 * time.Second):
		t.Fatal("b did not learn it from the records")
	}
	wantError(t, a.Allow(cert), `node "b" was removed from the cloud`)
	eventually(t, "c hears of it", func() bool { return c.Allow(cert) != nil })
	_, err := b.call(t.Context(), "a") // over the connection that was open
	if !errors.Is(err, ErrRemoved) {
		t.Error(err)
	}
	t.Log(err)
	if _, err := a.call(t.Context(), "b"); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	b.stop()
	back, err := Open(Config{Dir: b.dir, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := back.CheckIn(t.Context()); !errors.Is(err, ErrRemoved) {
		t.Errorf("when it comes back: %v", err)
	}
	shut, err := catalog.Open(t.Context(), catalog.Config{Servers: []string{cl.url}, Node: "b", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	shut.Close()
	if err := back.Attach(t.Context(), shut); !errors.Is(err, ErrRemoved) {
		t.Errorf("when it comes back and the state is closed to it: %v", err)
	}
	back.closeClients()
	again := cl.add(t, a, "b", "fra") // the name is free
	if err := a.Allow(again.cert.Load().Leaf); err != nil {
		t.Error(err)
	}
	wantError(t, a.Allow(cert), "was replaced by a newer one")
	if again.Self().Number != b.Self().Number {
		t.Error("the name came back with another number")
	}
}

// TestOneNodeCannotEndAnother: what a single node says of a removal is asked of the
// others.
func TestOneNodeCannotEndAnother(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	eventually(t, "b knows a", func() bool { _, ok := b.Node("a"); return ok })
	if _, err := b.get(t.Context(), "a", "/peer/v1/lie"); !errors.Is(err, ErrRemoved) {
		t.Fatal(err)
	}
	select {
	case <-b.Removed():
		t.Error("b takes itself for removed")
	case <-time.After(500 * time.Millisecond):
	}
	if _, err := b.call(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// TestJudge: what a record says of a certificate, also when the record is old.
func TestJudge(t *testing.T) {
	at := time.Unix(1_000_000, 0)
	cert := func(serial int64, after time.Duration) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: at.Add(after)}
	}
	kept := Node{Name: "n", Serial: "2", PreviousSerial: "1", CertifiedAt: at}
	gone := kept
	gone.Removed = true
	for _, c := range []struct {
		why  string
		node Node
		cert *x509.Certificate
		want string
	}{
		{"the newest", kept, cert(2, 0), ""},
		{"the one before", kept, cert(1, -time.Hour), ""},
		{"a newer one, which is not heard of yet", kept, cert(3, time.Hour), ""},
		{"an older one", kept, cert(9, -time.Hour), ReasonReplaced},
		{"another of the same moment", kept, cert(9, 0), ReasonReplaced},
		{"removed", gone, cert(2, 0), ReasonRemoved},
		{"removed, the one before", gone, cert(1, -time.Hour), ReasonRemoved},
		{"removed, an older one", gone, cert(9, -time.Hour), ReasonRemoved},
		{"removed, and joined again, which is not heard of yet", gone, cert(3, time.Hour), ""},
	} {
		err := judge(c.node, c.cert)
		var r *RefusedError
		if errors.As(err, &r); c.want == "" && err != nil || c.want != "" && (r == nil || r.Reason != c.want || !errors.Is(err, ErrRemoved)) {
			t.Errorf("%s: %v, want %q", c.why, err, c.want)
		}
	}
}

func TestLastMemberStays(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	wantError(t, b.RemoveNode(t.Context(), "a", true), "most of the nodes that keep the cloud's state must stay")
	if err := b.DrainNode(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b is the member", func() bool {
		n, _ := b.Node("a")
		return b.Self().Member && !n.Member
	})
	if err := b.RemoveNode(t.Context(), "a", true); err != nil {
		t.Fatal(err)
	}
}

// TestLastTwoMembers: two removals at once never take both of the last members.
func TestLastTwoMembers(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	cl.add(t, b, "c", "syd")
	names := []string{"a", "b", "c"}
	eventually(t, "three members", func() bool { return memberNames(a) == "a b c" && memberNames(b) == "a b c" })
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		by := a
		if name == "a" {
			by = b
		}
		all.Go(func() { errs[i] = by.RemoveNode(t.Context(), name, true) })
	}
	all.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("all three members were removed at once")
	}
}

func TestMembersAreChosen(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{Region: "iad"})
	b := cl.add(t, a, "b", "fra")
	cl.add(t, a, "c", "syd", RoleHost)
	time.Sleep(2 * settle)
	if got := memberNames(a); got != "a" {
		t.Errorf("of two that may: %s", got)
	}
	cl.add(t, b, "d", "syd")
	eventually(t, "three members", func() bool { return memberNames(a) == "a b d" && memberNames(b) == "a b d" })
	cl.add(t, b, "e", "nrt")
	if err := b.RemoveNode(t.Context(), "d", true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a replacement", func() bool { return memberNames(a) == "a b e" })
}

// TestActsMeanwhile: records that change without a pause do not keep a node from
// acting on them, such as keeping them on disk.
func TestActsMeanwhile(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	stored := func() string {
		b, _ := os.ReadFile(filepath.Join(a.home, nodesFile)) // it is there once it was written
		return string(b)
	}
	eventually(t, "a's own record on disk", func() bool { return stored() != "" })
	before := stored()
	for i := range 200 {
		_, err := change(t.Context(), a.tables.nodes, "n", func(n *Node, _ bool) error {
			*n = Node{Name: "n", Region: "fra", Version: strconv.Itoa(i), Removed: true}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if stored() != before {
			return
		}
		time.Sleep(settle / 10)
	}
	t.Error("never acted while records changed")
}

func memberNames(s *station) string {
	var names []string
	for _, n := range s.Nodes() {
		if n.Member {
			names = append(names, n.Name)
		}
	}
	return strings.Join(names, " ")
}

// TestWrongServer: another node at the address is not taken for the one called.
func TestWrongServer(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	c := cl.add(t, a, "c", "syd")
	_, p := hostOf(t, c.at)
	if err := b.Announce(t.Context(), func(n *Node) { n.PeerPort = p }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a hears of b's address", func() bool { n, _ := a.Node("b"); return n.PeerPort == p })
	_, err := a.call(t.Context(), "b")
	wantError(t, err, `another node answers there: "c.node.perigee", not "b.node.perigee"`)
	// An outsider with a certificate for the name, from another authority.
	other, err := Open(Config{Dir: t.TempDir(), Name: "b", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- other.Server(http.HandlerFunc(whoCalls)).Run(ctx, l) }()
	if err := b.Announce(t.Context(), func(n *Node) { n.PeerPort = port(l) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a hears of it", func() bool { n, _ := a.Node("b"); return n.PeerPort == port(l) })
	_, err = a.call(t.Context(), "b")
	wantError(t, err, "not from this cloud's authority")
	cancel()
	<-done
}

// TestStranger: a certificate of another cluster opens nothing.
func TestStranger(t *testing.T) {
	a := newCloud(t).found(t, Config{})
	other, err := Open(Config{Dir: t.TempDir(), Name: "a", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	cfg := other.ClientTLS("")
	cfg.VerifyConnection = nil
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + a.at + "/v1/apps")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden || resp.Header.Get(refusedHeader) != ReasonCertificate {
		t.Errorf("%s: %s", resp.Status, b)
	}
}

func TestSkewedClock(t *testing.T) {
	cl := newCloud(t)
	k := &clock{}
	a := cl.found(t, Config{now: k.now})
	skew := &clock{}
	l, tok, dir := listen(t), a.token(t, api.CreateJoinTokenRequest{}), t.TempDir()
	if _, err := Join(t.Context(), JoinConfig{Address: a.at, Token: tok.Token, Dir: dir, Name: "b", PeerPort: port(l)}); err != nil {
		t.Fatal(err)
	}
	b := cl.start(t, Config{Dir: dir, now: skew.now}, l)
	skew.add(-3 * time.Hour)
	var err error
	eventually(t, "b's clock is behind: a's certificate is of the future", func() bool {
		b.closeClients() // one that was open stays good
		_, err = b.call(t.Context(), "a")
		return errors.Is(err, ErrClock)
	})
	wantError(t, err, "certificate is not valid yet: clocks differ by 3h0m", `that of node "a"`)
	skew.add(3 * time.Hour)
	if _, err := b.call(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	b.closeClients()
	k.add(-3 * time.Hour)
	_, err = b.call(t.Context(), "a") // a's clock is behind: it refuses b, and b can say why
	if !errors.Is(err, ErrClock) {
		t.Errorf("a behind: %v", err)
	}
	t.Log(err)
	k.add(3 * time.Hour)
	if _, err = b.call(t.Context(), "a"); err != nil { // over the same connection
		t.Errorf("a's clock was set: %v", err)
	}
}

func TestRenewal(t *testing.T) {
	cl, k := newCloud(t), &clock{}
	a := cl.found(t, Config{now: k.now})
	b := cl.add(t, a, "b", "fra", RoleHost)
	old := b.cert.Load().Leaf
	if err := b.renewIfDue(t.Context()); err != nil || b.cert.Load().Leaf != old {
		t.Fatalf("renewed too early: %v", err)
	}
	k.add(250 * 24 * time.Hour)
	if err := errors.Join(a.renewIfDue(t.Context()), b.renewIfDue(t.Context())); err != nil {
		t.Fatal(err)
	}
	fresh := b.cert.Load().Leaf
	if fresh == old || !fresh.NotAfter.After(old.NotAfter) {
		t.Fatal("not renewed")
	}
	eventually(t, "a's record of b", func() bool { n, _ := a.Node("b"); return n.Serial == serialOf(fresh) })
	if err := a.Allow(old); err != nil {
		t.Errorf("the old one may be in use still: %v", err)
	}
	k.add(200 * 24 * time.Hour)
	for _, s := range []*station{a, b} {
		s.closeClients()
	}
	if _, err := b.call(t.Context(), "a"); err != nil { // the old ones have ended
		t.Error(err)
	}
	if _, err := a.call(t.Context(), "b"); err != nil {
		t.Error(err)
	}
	b.stop()
	c, err := Open(Config{Dir: b.dir, Logger: quiet, now: k.now})
	if err != nil || serialOf(c.cert.Load().Leaf) != serialOf(fresh) {
		t.Errorf("after a restart: %v", err)
	}
}

// TestRenewalAnswerLost: the certificate that the node has stays good.
func TestRenewalAnswerLost(t *testing.T) {
	cl, k := newCloud(t), &clock{}
	a := cl.found(t, Config{now: k.now})
	b := cl.add(t, a, "b", "fra", RoleHost)
	old := b.cert.Load()
	k.add(250 * 24 * time.Hour)
	for range 3 {
		if _, err := a.reissue(t.Context(), old.Leaf, old.Leaf.PublicKey.(*ecdsa.PublicKey)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.renewIfDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.call(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// TestTLSConfigs makes connections as the state's clients and members do.
func TestTLSConfigs(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	c := cl.add(t, a, "c", "syd")
	l := listen(t)
	defer l.Close()
	handshake := func(server, client *tls.Config) error {
		got := make(chan error, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				got <- err
				return
			}
			defer conn.Close()
			got <- tls.Server(conn, server).Handshake()
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return errors.Join(tls.Client(conn, client).Handshake(), <-got)
	}
	for _, client := range []*tls.Config{b.ClientTLS(""), b.ClientTLS(ServerName("a")), b.ServerTLS()} {
		if err := handshake(a.ServerTLS(), client); err != nil {
			t.Error(err)
		}
	}
	wantError(t, handshake(a.ServerTLS(), b.ClientTLS(ServerName("c"))), "another node answers there")
	if err := handshake(a.ServerTLS(), &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("a client without a certificate was let in")
	}
	if err := a.RemoveNode(t.Context(), "b", true); err != nil {
		t.Fatal(err)
	}
	wantError(t, handshake(a.ServerTLS(), b.ClientTLS("")), "was removed")
	eventually(t, "c hears of it", func() bool { _, ok := c.Node("b"); return !ok })
	wantError(t, handshake(b.ServerTLS(), c.ClientTLS("")), "was removed")
}

// TestDeadPeer: a call to a node that went away without a word ends soon.
func TestDeadPeer(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	b := cl.add(t, a, "b", "fra")
	between := newGate(t, b.at)
	if err := b.Announce(t.Context(), func(n *Node) { n.PeerPort = port(between.l) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a hears of it", func() bool { n, _ := a.Node("b"); return n.PeerPort == port(between.l) })
	if _, err := a.call(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	between.shut.Store(true)
	began := time.Now()
	_, err := a.call(t.Context(), "b")
	if took := time.Since(began); err == nil || took > 3500*time.Millisecond {
		t.Errorf("%v after %v", err, took)
	} else {
		t.Logf("given up after %v: %v", took, err)
	}
	between.shut.Store(false)
	if _, err := a.call(t.Context(), "b"); err != nil {
		t.Errorf("when it is back: %v", err)
	}
}

func TestUpgradeClient(t *testing.T) {
	cl := newCloud(t)
	a := cl.found(t, Config{})
	cl.add(t, a, "b", "fra")
	client, base, err := a.UpgradeClient("b")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get(base + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "a true HTTP/1.1" {
		t.Errorf("%q", b)
	}
}

func TestTokensAreSwept(t *testing.T) {
	k := &clock{}
	a := newCloud(t).found(t, Config{now: k.now})
	tok := a.token(t, api.CreateJoinTokenRequest{})
	for _, step := range []struct {
		after time.Duration
		left  int
	}{{0, 1}, {2 * time.Hour, 1}, {tokenKept, 0}} {
		k.add(step.after)
		if err := a.sweepTokens(t.Context()); err != nil {
			t.Fatal(err)
		}
		if list, _ := a.ListTokens(); len(list) != step.left {
			t.Errorf("%v later: %+v", step.after, list)
		}
	}
	if err := a.RevokeToken(t.Context(), tok.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Error(err)
	}
	for _, bad := range []api.CreateJoinTokenRequest{{Uses: -1}, {TTL: api.D(-time.Hour)}, {TTL: api.D(0)}, {Region: "No"}, {Roles: []string{"x"}}} {
		if _, err := a.CreateToken(t.Context(), bad); !api.IsCode(err, api.CodeInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestLimiter(t *testing.T) {
	k := &clock{}
	l := newLimiter(k.now)
	for range limitPerHost {
		l.failed("[2001:db8::1]:9")
	}
	if l.wait("[2001:db8::2]:7") == 0 {
		t.Error("the same network goes on trying")
	}
	if l.wait("192.0.2.1:7") != 0 {
		t.Error("another host has to wait")
	}
	k.add(limitWindow)
	if l.wait("[2001:db8::1]:9") != 0 {
		t.Error("it waits for ever")
	}
	for i := range limitAll {
		l.failed(net.JoinHostPort(net.IPv4(10, 0, byte(i>>8), byte(i)).String(), "1"))
	}
	if l.wait("192.0.2.1:7") != 0 {
		t.Error("a host that did nothing has to wait, whatever token it has")
	}
	if l.waitAll() == 0 {
		t.Error("many hosts together go on trying")
	}
}

// TestOneNodeCatalogOnDisk: the first node alone, with its own catalog.
func TestOneNodeCatalogOnDisk(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		c, err := Open(Config{Dir: dir, Name: "a", Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		cat, err := catalog.Open(t.Context(), catalog.Config{Dir: dir, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Attach(t.Context(), cat); err != nil {
			t.Fatal(err)
		}
		if n, ok := c.record("a"); !ok || !n.Member || n.Number != c.Self().Number {
			t.Errorf("record %+v", n)
		}
		cat.Close()
	}
}
