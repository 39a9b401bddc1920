package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/mesh/wire"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

const dbAddr = "fdaa:0:1:0:a:1:2:2"

// gateway is the far end of the tunnel, without root: WireGuard, the resolver
// and a machine that answers in capitals, all in this process.
type gateway struct {
	key   wire.PrivateKey
	dev   *device.Device
	port  string
	awake atomic.Bool // the machine: asleep it has no name
	woken atomic.Int32
	mu    sync.Mutex
	peers map[string]bool
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	key, err := wire.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tun, stack, err := netstack.CreateNetTUN([]netip.Addr{netip.MustParseAddr("fdaa::3"), netip.MustParseAddr(dbAddr)}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{key: key, peers: map[string]bool{}, dev: device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))}
	t.Cleanup(g.dev.Close)
	if err := g.dev.IpcSet(fmt.Sprintf("private_key=%x\n", key[:])); err != nil {
		t.Fatal(err)
	}
	if err := g.dev.Up(); err != nil {
		t.Fatal(err)
	}
	text, err := g.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	g.port = regexp.MustCompile(`listen_port=(\d+)`).FindStringSubmatch(text)[1]
	g.serve(t, stack)
	return g
}

func (g *gateway) serve(t *testing.T, stack *netstack.Net) {
	t.Helper()
	u, err := stack.ListenUDPAddrPort(netip.MustParseAddrPort("[fdaa::3]:53"))
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: u, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != "db.internal." || !g.awake.Load() {
			m.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeAAAA {
			m.Answer = []dns.RR{&dns.AAAA{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 5}, AAAA: net.ParseIP(dbAddr)}}
		}
		w.WriteMsg(m)
	})}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
	l, err := stack.ListenTCPAddrPort(netip.AddrPortFrom(netip.MustParseAddr(dbAddr), 5432))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				c.Write(bytes.ToUpper(b))
			}()
		}
	}()
}

// ServeHTTP is what the command asks of the node.
func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case r.URL.Path == "/v1/apps/db":
		json.NewEncoder(w).Encode(api.App{Name: "db", Organization: api.Organization{Slug: "acme"}})
	case r.URL.Path == "/v1/apps/db/machines":
		json.NewEncoder(w).Encode([]api.Machine{{ID: "m1", State: map[bool]string{true: api.StateStarted, false: api.StateSuspended}[g.awake.Load()]}})
	case r.URL.Path == "/v1/apps/db/machines/m1/start":
		g.woken.Add(1)
		g.awake.Store(true)
		fmt.Fprintln(w, `{"previous_state":"suspended"}`)
	case r.Method == http.MethodPost && r.URL.Path == "/v1/orgs/acme/wireguard_peers":
		var in api.CreateWireGuardPeerRequest
		json.NewDecoder(r.Body).Decode(&in)
		k, _ := wire.ParseKey(in.PublicKey)
		g.dev.IpcSet(fmt.Sprintf("public_key=%x\nallowed_ip=fdaa:0:1:0:a:9:9:4/128\n", k[:]))
		g.peers[in.Name] = in.TTL > 0
		json.NewEncoder(w).Encode(api.WireGuardPeer{Name: in.Name, Org: "acme", Address: "fdaa:0:1:0:a:9:9:4", GatewayKey: g.key.Public().String(),
			Endpoint: "127.0.0.1:" + g.port, DNS: "fdaa::3", AllowedIPs: []string{"fdaa::/16"}})
	case r.Method == http.MethodDelete:
		delete(g.peers, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
		fmt.Fprintln(w, `{"ok":true}`)
	default:
		http.NotFound(w, r)
	}
}

func (g *gateway) left() map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers
}

// TestProxy forwards real connections through real WireGuard, and leaves no peer behind.
func TestProxy(t *testing.T) {
	g := newGateway(t)
	node := httptest.NewServer(g)
	defer node.Close()
	said, out := io.Pipe()
	e := &env{IO: IO{Out: io.Discard, Err: out}, noColor: true}
	root := Root(e)
	root.SetArgs([]string{"--addr", node.URL, "proxy", "0:5432", "-a", "db"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { err := root.ExecuteContext(ctx); out.Close(); done <- err }()
	line := make([]byte, 256)
	k, err := said.Read(line)
	if err != nil {
		t.Fatalf("%v: %v", err, <-done)
	}
	go io.Copy(io.Discard, said)
	m := regexp.MustCompile(`Forwarding (\S+) to db.internal:5432`).FindSubmatch(line[:k])
	if m == nil {
		t.Fatalf("it says %q", line[:k])
	}
	if left := g.left(); len(left) != 1 {
		t.Errorf("peers are %v", left)
	}
	for name, ends := range g.left() {
		if !ends {
			t.Errorf("peer %s never ends by itself", name)
		}
	}
	for range 3 {
		g.awake.Store(false)
		c, err := net.DialTimeout("tcp", string(m[1]), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "select")
		c.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(c); string(b) != "SELECT" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		c.Close()
	}
	if n := g.woken.Load(); n != 4 {
		t.Errorf("the machine was woken %d times: once at the beginning and for each connection is 4", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left := g.left(); len(left) != 0 {
		t.Errorf("peers left behind: %v", left)
	}
}

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{"5432": "5432>5432", "8080:80": "8080>80", "0:80": "0>80",
		"": "", ":": "", "80:": "", ":80": "", "80:0": "", "0": "", "1:2:3": "", "70000:1": "", "-1:1": "", "a:b": ""} {
		l, r, err := parsePorts(in)
		if err == nil && l+">"+r != want || err != nil && want != "" {
			t.Errorf("%q is %s and %s, %v", in, l, r, err)
		}
	}
}
