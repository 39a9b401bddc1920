package fleet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/logs"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/machine/machinetest"
	"github.com/perigee-run/perigee/ssh"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

const (
	secret   = "tok-123"
	patience = 500 * time.Millisecond
)

var quiet = slog.New(slog.DiscardHandler)

// The fleet is what the API and a deploy need.
var (
	_ deploy.Machines  = (*fleet.Fleet)(nil)
	_ deploy.Validator = (*fleet.Fleet)(nil)
	_ fleet.Local      = (*machine.Host)(nil)
)

// cloud is a few nodes in one process. Each has the real rooms for machines,
// logs, the catalog, deploys, images and the API; what needs root, gVisor and
// network namespaces is stood in for by machinetest. Apps are those of the first
// node's catalog, for the state is the same everywhere. Nodes reach each other by
// HTTP/2 over mutual TLS, through connections that tests cut.
type cloud struct {
	nodes []*node
	apps  *app.Store

	mu    sync.Mutex
	place string // where the next machine goes
	down  map[string]bool
}

// node is one of a cloud.
type node struct {
	*api.Client // from outside, at its API
	cloud       *cloud
	name        string
	fleet       *fleet.Fleet
	host        *machine.Host
	shells      *ssh.Server
	index       *fleet.Index
	lines       *fleet.Lines
	log         *logs.Store
	images      *image.Store
	box         *machinetest.Sandbox
	router      *edge
	peer        *httptest.Server
	cut         *cut                            // what comes in from other nodes
	around      func(http.Handler) http.Handler // the peer server
	clients     map[string]*http.Client         // to others: by name, and "ws:" + name
	cert        tls.Certificate
	stop        []func()
}

func newCloud(t testing.TB, names ...string) *cloud {
	t.Helper()
	c := &cloud{down: map[string]bool{}}
	for _, name := range names {
		c.add(t, name)
	}
	for _, n := range c.nodes {
		n.connect(t)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			for _, client := range n.clients {
				client.CloseIdleConnections()
			}
		}
		for _, n := range c.nodes {
			for _, stop := range n.stop {
				stop()
			}
		}
	})
	return c
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (c *cloud) add(t testing.TB, name string) {
	t.Helper()
	dir := t.TempDir()
	n := &node{cloud: c, name: name, index: fleet.NewIndex(), box: &machinetest.Sandbox{}, router: &edge{}, cut: &cut{}, clients: map[string]*http.Client{}, cert: identity(t, name)}
	cat := must[*catalog.Catalog](t)(catalog.Open(t.Context(), catalog.Config{Dir: dir, Node: name, Logger: quiet}))
	if c.apps == nil {
		c.apps = must[*app.Store](t)(app.New(app.Config{Catalog: cat, KeyFile: filepath.Join(dir, "secrets.key"), Domain: "node.example"}))
	}
	records := must[*catalog.Table[machine.Record]](t)(catalog.NewTable[machine.Record](cat, "machines"))
	n.log = logs.New(t.Context(), logs.Config{JetStream: cat.JetStream(), Logger: quiet})
	n.images = must[*image.Store](t)(image.New(image.Config{Dir: filepath.Join(dir, "images"), MinFree: 1, Hosts: []string{"registry.test"}, Peers: n}))
	n.host = must[*machine.Host](t)(machine.New(machine.Config{
		Dir: filepath.Join(dir, "machines"), Node: name, Region: "fra", Sandbox: n.box, Images: shelf{n.images}, Networks: machinetest.Networks{}, Records: records,
		Apps: c.apps, Secrets: c.apps, Pool: -1, Logger: quiet, CPUs: 8, MemoryMB: 8192,
		Named: func(app, name string) string { return n.fleet.Named(app, name) },
	}))
	n.shells = must[*ssh.Server](t)(ssh.New(ssh.Config{Authority: must[*ssh.Authority](t)(ssh.NewAuthority(bytes.Repeat([]byte{1}, 32))), Machines: n.host, Logger: quiet}))
	n.fleet = must[*fleet.Fleet](t)(fleet.New(fleet.Config{
		Self: name, Local: n.host, Peers: fleet.Over(n), Summaries: n.index, Nodes: n, Place: c.choose, Router: n.router,
		Forget: n.log.Forget, Patience: patience, Logger: quiet, SSH: n.visit,
	}))
	n.lines = must[*fleet.Lines](t)(fleet.NewLines(fleet.LinesConfig{Self: name, Local: tail{n.log}, Peers: fleet.Over(n), Nodes: n, Patience: patience, Retry: 50 * time.Millisecond, Logger: quiet}))
	c.nodes = append(c.nodes, n)
	n.serve(t, cat)
}

func (n *node) serve(t testing.TB, cat *catalog.Catalog) {
	deploys := must[*deploy.Deployer](t)(deploy.New(deploy.Config{Apps: n.cloud.apps, Machines: n.fleet, Images: shelf{n.images}, Logs: n.lines, Settle: time.Millisecond, Forget: n.fleet.Forget, Logger: quiet}))
	server := must[*httpapi.Server](t)(httpapi.New(httpapi.Config{Apps: n.cloud.apps, Deploys: deploys, Machines: n.fleet, Images: n.images, Node: self{}, Logs: n.lines, SSH: n.fleet, SSHAuthority: n.shells.Authority(), Logger: quiet}))
	ctx, cancel := context.WithCancel(context.Background())
	var rooms sync.WaitGroup
	rooms.Go(func() { _ = n.host.Run(ctx) })
	if len(n.cloud.nodes) == 1 {
		rooms.Go(func() { _ = deploys.Run(ctx) })
	}
	<-n.host.Ready()
	rooms.Go(func() { n.publish(ctx) })
	outside := httptest.NewServer(server.Handler(httpapi.Token(secret)))
	n.Client = must[*api.Client](t)(api.NewClient(api.ClientConfig{Addr: outside.URL, Token: secret}))
	n.peer = n.servePeers(server)
	n.stop = append(n.stop, n.Client.Close, outside.Close, n.cut.close, n.peer.Close, cancel, rooms.Wait, n.images.Close, func() { cat.Close() }, n.box.Close)
}

// servePeers is what the node offers to other nodes.
func (n *node) servePeers(server *httpapi.Server) *httptest.Server {
	rest := server.Handler(httpapi.PeerPrincipal(peerFrom))
	internal, registry := n.fleet.PeerHandler(), n.images.Registry(nil)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, r.TLS.PeerCertificates[0].Subject.CommonName))
		h := rest
		switch {
		case strings.HasPrefix(r.URL.Path, "/peer/"):
			h = internal
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			h = registry
		}
		if n.around != nil {
			h = n.around(h)
		}
		h.ServeHTTP(w, r)
	}))
	srv.EnableHTTP2 = true
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.StartTLS()
	return srv
}

type peerKey struct{}

func peerFrom(ctx context.Context) (string, bool) {
	name, ok := ctx.Value(peerKey{}).(string)
	return name, ok
}

// identity is a node's certificate.
func identity(t testing.TB, name string) tls.Certificate {
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// connect makes the clients to all other nodes.
func (n *node) connect(testing.TB) {
	for _, o := range n.cloud.nodes {
		for _, two := range []bool{true, false} {
			tr := o.peer.Client().Transport.(*http.Transport).Clone()
			tr.TLSClientConfig.Certificates = []tls.Certificate{n.cert}
			tr.ForceAttemptHTTP2, tr.DialContext = two, o.cut.dial
			name := o.name
			if !two {
				tr.TLSClientConfig.NextProtos, name = []string{"http/1.1"}, "ws:"+o.name
			}
			n.clients[name] = &http.Client{Transport: tr}
		}
	}
}

func (n *node) client(kind, name string) (*http.Client, string, error) {
	for _, o := range n.cloud.nodes {
		if o.name == name {
			return n.clients[kind+name], o.peer.URL, nil
		}
	}
	return nil, "", api.Errorf(api.CodeNotFound, "there is no node %q", name)
}

func (n *node) HTTPClient(name string) (*http.Client, string, error)    { return n.client("", name) }
func (n *node) UpgradeClient(name string) (*http.Client, string, error) { return n.client("ws:", name) }

// Nodes implements fleet.Nodes.
func (n *node) Nodes() (out []fleet.Node) {
	n.cloud.mu.Lock()
	defer n.cloud.mu.Unlock()
	for _, o := range n.cloud.nodes {
		out = append(out, fleet.Node{Name: o.name, Region: "fra", Up: !n.cloud.down[o.name], Edge: true})
	}
	return out
}

// Up implements fleet.Nodes.
func (n *node) Up(name string) bool {
	n.cloud.mu.Lock()
	defer n.cloud.mu.Unlock()
	return !n.cloud.down[name]
}

// Sources implements image.Peers.
func (n *node) Sources(context.Context) (out []image.Source) {
	for _, o := range n.cloud.nodes {
		if o != n {
			out = append(out, image.Source{Name: o.name, Client: n.clients[o.name], BaseURL: o.peer.URL})
		}
	}
	return out
}

// publish tells every node of this node's machines, as the catalog does.
func (n *node) publish(ctx context.Context) {
	for id := range n.host.Changes(ctx) {
		s, ok := n.host.Summary(id)
		b, err := json.Marshal(s)
		if err != nil {
			panic(err)
		}
		for _, o := range n.cloud.nodes {
			var told machine.Summary
			if err := json.Unmarshal(b, &told); err != nil {
				panic(err)
			}
			if ok {
				o.index.Put(told)
			} else {
				o.index.Drop(n.name, id)
			}
		}
	}
}

func (c *cloud) choose(context.Context, string, api.CreateMachineRequest) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.place == "" {
		return "", api.Errorf(api.CodeCapacity, "no node has room").WithHint("add a node").WithField("region")
	}
	return c.place, nil
}

func (c *cloud) placeOn(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place = name
}

func (c *cloud) setDown(name string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[name] = down
}

// app makes an app.
func (c *cloud) app(t testing.TB, name string) {
	t.Helper()
	if _, err := c.apps.Create(t.Context(), api.CreateAppRequest{AppName: name}); err != nil {
		t.Fatal(err)
	}
}

// machine makes a machine of the app on the node called where, through n.
func (n *node) machine(t testing.TB, app, where string) api.Machine {
	t.Helper()
	n.cloud.placeOn(where)
	return must[api.Machine](t)(n.CreateMachine(t.Context(), app, api.CreateMachineRequest{Config: config()}))
}

func config() *api.MachineConfig {
	return &api.MachineConfig{Image: "one", Metadata: map[string]string{"a": "b"}}
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !so(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came about that %s", what)
		}
	}
}

// cut is the network to one node.
type cut struct {
	mu     sync.Mutex
	state  string // "", "refused" or "silent"
	conns  map[net.Conn]bool
	healed chan struct{} // closed when it is not silent any more
}

func (c *cut) set(state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == "silent" {
		close(c.healed)
	}
	c.state = state
	if state == "silent" {
		c.healed = make(chan struct{})
		return
	}
	if state == "refused" {
		c.breakAll()
	}
}

// breakAll ends all connections; mu is held.
func (c *cut) breakAll() {
	for conn := range c.conns {
		conn.Close()
	}
	c.conns = nil
}

func (c *cut) close() { c.set(""); c.mu.Lock(); defer c.mu.Unlock(); c.breakAll() }

// silence is closed when what is silent now speaks again; nil if nothing is.
func (c *cut) silence() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != "silent" {
		return nil
	}
	return c.healed
}

func (c *cut) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if healed := c.silence(); healed != nil {
		select {
		case <-healed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == "refused" {
		return nil, errors.New("connection refused")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if c.conns == nil {
		c.conns = map[net.Conn]bool{}
	}
	c.conns[conn] = true
	return &wire{conn, c, make(chan struct{}), sync.Once{}}, nil
}

// wire is a connection over which nothing comes while it is silent.
type wire struct {
	net.Conn
	cut    *cut
	closed chan struct{}
	once   sync.Once
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if healed := w.cut.silence(); healed != nil {
		select {
		case <-healed:
		case <-w.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// edge is a router that lets go and learns when it is told to.
type edge struct {
	mu      sync.Mutex
	drained map[string]bool
	asked   []string
}

func (e *edge) wait(ctx context.Context, id string) error {
	e.mu.Lock()
	e.asked = append(e.asked, id)
	e.mu.Unlock()
	for {
		e.mu.Lock()
		ok := e.drained[id]
		e.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *edge) let(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.drained == nil {
		e.drained = map[string]bool{}
	}
	e.drained[id] = true
}

func (e *edge) Drained(ctx context.Context, id string) error { return e.wait(ctx, id) }
func (e *edge) Routed(ctx context.Context, id string) error  { return e.wait(ctx, id) }

// tail reads a log in the API's words.
type tail struct{ store *logs.Store }

func (l tail) Logs(ctx context.Context, app string, q api.LogQuery) iter.Seq2[api.LogLine, error] {
	return func(yield func(api.LogLine, error) bool) {
		for line, err := range l.store.Tail(ctx, logs.Query{App: app, Region: q.Region, Machine: q.Machine, Since: q.Since, Lines: q.Lines, Follow: q.Follow, Mark: q.Mark}) {
			if !yield(api.LogLine(line), err) {
				return
			}
		}
	}
}

// self is a daemon that is of no interest.
type self struct{}

func (self) Info(context.Context) (api.NodeInfo, error)      { return api.NodeInfo{}, nil }
func (self) Stop(context.Context, bool) error                { return nil }
func (self) Upgrade(context.Context, string) (string, error) { return "", nil }

// shelf has every image that is not in the built-in registry, and those that a
// real store has.
type shelf struct{ real *image.Store }

func (s shelf) Pull(ctx context.Context, ref string, progress func(image.Progress)) (image.Image, error) {
	if strings.HasPrefix(ref, "registry.test/") {
		return s.real.Pull(ctx, ref, progress)
	}
	i, _ := s.Get(ref)
	return i, nil
}

func (s shelf) Get(ref string) (image.Image, bool) {
	if strings.HasPrefix(ref, "registry.test/") {
		return s.real.Get(ref)
	}
	return image.Image{Ref: ref, Registry: "r", Repository: "a", Digest: "sha256:" + strings.Repeat("1", 64), Config: image.RunConfig{Cmd: []string{"/app"}}}, true
}

func (shelf) LookupUser(string, string) (uid, gid uint32, groups []uint32, home string, err error) {
	return 0, 0, nil, "/", nil
}
