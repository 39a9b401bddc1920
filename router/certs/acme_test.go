package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/perigee-run/perigee/router"
	"github.com/perigee-run/perigee/router/certs"
	"github.com/perigee-run/perigee/router/localca"
)

// authority is Let's Encrypt's test server, in this process. It is started in two steps, because it must know our ports
// and we its address.
type authority struct {
	server  *httptest.Server
	handler atomic.Pointer[http.Handler]
	orders  atomic.Int32
}

func newAuthority(t *testing.T) *authority {
	a := &authority{}
	a.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/order-plz") {
			a.orders.Add(1)
		}
		(*a.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(a.server.Close)
	return a
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.server.Certificate())
	return pool
}

func (a *authority) start(t *testing.T, httpPort, tlsPort int) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	profiles := map[string]ca.Profile{"default": {Description: "default"}}
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, profiles)
	validator := va.New(quiet, httpPort, tlsPort, false, nameServer(t), store)
	front := wfe.New(quiet, store, validator, authority, []string{"test"}, false, false, 1, 1)
	h := front.Handler()
	a.handler.Store(&h)
}

// nameServer says that every name is this host.
func nameServer(t *testing.T) string {
	pc, l := bothWays(t)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 1 IN A 127.0.0.1")
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return pc.LocalAddr().String()
}

// bothWays listens by UDP and by TCP on one port. The port that one of them gets may be taken for the other.
func bothWays(t *testing.T) (net.PacketConn, net.Listener) {
	var last error
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		pc, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return pc, l
		}
		last = err
		l.Close()
	}
	t.Fatal(last)
	return nil, nil
}

// TestBothWays has ports that are free for one of the two only: most are.
func TestBothWays(t *testing.T) {
	for range 200 {
		pc, l := bothWays(t)
		if pc.LocalAddr().(*net.UDPAddr).Port != l.Addr().(*net.TCPAddr).Port {
			t.Errorf("%s and %s", pc.LocalAddr(), l.Addr())
		}
		t.Cleanup(func() { pc.Close(); l.Close() })
	}
}

// closedPort is a port where nobody listens: a challenge that would go there fails.
func closedPort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestACME gets certificates from a real ACME server through a real router, by each of the two challenges.
func TestACME(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			a := newAuthority(t)
			local, err := localca.Open(t.TempDir(), "test")
			if err != nil {
				t.Fatal(err)
			}
			var r *router.Router
			c, err := certs.New(certs.Config{
				Storage: &certmagic.FileStorage{Path: t.TempDir()}, Directory: a.server.URL + wfe.DirectoryPath, Roots: a.roots(), AgreeTerms: true,
				Email: "ops@example.com", Allow: func(host string) bool { return r.Serves(host) }, Local: local,
				Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.Close)
			r = runRouter(t, c)
			ports := map[int]int{80: port(r, 80), 443: port(r, 443)}
			if challenge == "http-01" {
				ports[443] = closedPort(t)
			} else {
				ports[80] = closedPort(t)
			}
			a.start(t, ports[80], ports[443])

			state := handshake(t, r, "shop.example.com")
			if issuer := state.PeerCertificates[0].Issuer.CommonName; !strings.Contains(issuer, "Pebble") {
				t.Errorf("issued by %q", issuer)
			}
			if err := state.PeerCertificates[0].VerifyHostname("shop.example.com"); err != nil {
				t.Error(err)
			}
			n := a.orders.Load()
			handshake(t, r, "shop.example.com")
			if a.orders.Load() != n {
				t.Error("a second handshake asked for another certificate")
			}
			if issuer := handshake(t, r, "app.localhost").PeerCertificates[0].Issuer.CommonName; !strings.Contains(issuer, "local CA") {
				t.Errorf("app.localhost was issued by %q", issuer)
			}
			if _, err := dial(r, "stranger.example.com"); err == nil {
				t.Error("a host that no app has got a certificate")
			}
			if a.orders.Load() != n {
				t.Error("a certificate was asked for a host that no app has")
			}
		})
	}
}

func runRouter(t *testing.T, c router.Certificates) *router.Router {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }))
	t.Cleanup(app.Close)
	at := netip.MustParseAddrPort(app.Listener.Addr().String())
	r := router.New(router.Config{Certificates: c, Listen: map[int]string{80: "127.0.0.1:0", 443: "127.0.0.1:0"}})
	err := r.SetTable(router.Table{Apps: []router.App{{Name: "shop", Hosts: []string{"shop.example.com", "app.localhost"}, Services: []router.Service{{
		InternalPort: int(at.Port()), Machines: []router.Machine{{ID: "m", Addr: at.Addr(), State: router.StateStarted, Healthy: true}},
		Ports: []router.Port{{Start: 80, Handlers: []string{router.HandlerHTTP}, ForceHTTPS: true}, {Start: 443, Handlers: []string{router.HandlerTLS, router.HandlerHTTP}}},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Ready()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func port(r *router.Router, public int) int { return r.Addr(public).(*net.TCPAddr).Port }

func dial(r *router.Router, host string) (*tls.Conn, error) {
	return tls.Dial("tcp", r.Addr(443).String(), &tls.Config{ServerName: host, InsecureSkipVerify: true})
}

func handshake(t *testing.T, r *router.Router, host string) tls.ConnectionState {
	t.Helper()
	c, err := dial(r, host)
	if err != nil {
		t.Fatalf("handshake for %s: %v", host, err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	if got, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(got), "hello") {
		t.Errorf("%q, %v", got, err)
	}
	return c.ConnectionState()
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func TestConfig(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	for name, cfg := range map[string]certs.Config{
		"nothing":     {},
		"not agreed":  {Storage: storage, Allow: func(string) bool { return true }},
		"no decision": {Storage: storage, AgreeTerms: true},
	} {
		if _, err := certs.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
