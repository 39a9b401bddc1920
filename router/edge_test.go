package router

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/perigee-run/perigee/router/certs"
	"github.com/perigee-run/perigee/router/localca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// edge is a router that runs, for a test.
type edge struct {
	*Router
	t  testing.TB
	ca *localca.CA
}

// startEdge runs a router on ports of the loopback, with TLS from a local authority.
func startEdge(t testing.TB, cfg Config, table Table) *edge {
	t.Helper()
	e := &edge{t: t}
	if cfg.Certificates == nil {
		var err error
		if e.ca, err = localca.Open(t.TempDir(), "test"); err != nil {
			t.Fatal(err)
		}
		if cfg.Certificates, err = certs.New(certs.Config{Local: e.ca}); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Listen == nil {
		cfg.Listen = map[int]string{}
	}
	for _, a := range table.Apps {
		for _, s := range a.Services {
			for _, p := range s.Ports {
				cfg.Listen[p.Start] = "127.0.0.1:0"
			}
		}
	}
	cfg.Listen[80], cfg.Listen[443] = "127.0.0.1:0", "127.0.0.1:0"
	e.Router = New(cfg)
	if err := e.SetTable(table); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	<-e.Ready()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return e
}

// at is the address of a public port, once it is open.
func (e *edge) at(port int) string {
	e.t.Helper()
	var addr net.Addr
	waitFor(e.t, fmt.Sprintf("port %d to open", port), func() bool { addr = e.Addr(port); return addr != nil })
	return addr.String()
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s", what)
}

// client talks HTTP to the edge, whatever host the URL names.
func (e *edge) client(h2 bool) *http.Client {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			port := 80
			if strings.HasSuffix(addr, ":443") {
				port = 443
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", e.at(port))
		},
		Protocols: new(http.Protocols), DisableCompression: true,
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	if e.ca != nil {
		tr.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		tr.TLSClientConfig.RootCAs.AddCert(e.ca.Root())
	}
	e.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// raw sends bytes to port 80 and returns all that comes back until the connection ends.
func (e *edge) raw(send string) string {
	e.t.Helper()
	c := e.dial(80)
	defer c.Close()
	if _, err := io.WriteString(c, send); err != nil {
		e.t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, err := io.ReadAll(c)
	if err != nil && len(got) == 0 {
		e.t.Fatalf("reading the answer to %.60q: %v", send, err)
	}
	return string(got)
}

func (e *edge) dial(port int) net.Conn {
	e.t.Helper()
	c, err := net.Dial("tcp", e.at(port))
	if err != nil {
		e.t.Fatal(err)
	}
	return c
}

// origin is a machine's program: a real HTTP server.
func origin(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// rawOrigin is a machine's program that serves each connection by hand.
func rawOrigin(t testing.TB, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

// answering serves one raw answer for each request without a body.
func answering(answer string) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(in); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

func machine(id string, at netip.AddrPort) Machine {
	return Machine{ID: id, Addr: at.Addr(), Port: int(at.Port()), State: StateStarted, Healthy: true}
}

var webPorts = []Port{{Start: 80, Handlers: []string{HandlerHTTP}}, {Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}}}

// webTable is an app "app" at app.test with ports 80 and 443.
func webTable(ms ...Machine) Table {
	return Table{Apps: []App{{Name: "app", Hosts: []string{"app.test"}, Services: []Service{{InternalPort: 8080, Ports: webPorts, Machines: ms}}}}}
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return res, string(body)
}

// status is the status of the first answer in raw bytes.
func status(raw string) int {
	var n int
	_, _ = fmt.Sscanf(raw, "HTTP/1.1 %d", &n)
	return n
}

// eachWay runs a test over HTTP/1.1, HTTP/1.1 in TLS and HTTP/2.
func eachWay(t *testing.T, e *edge, fn func(t *testing.T, c *http.Client, base string)) {
	for _, way := range []struct {
		name, base string
		h2         bool
	}{{"http1", "http://app.test", false}, {"tls", "https://app.test", false}, {"h2", "https://app.test", true}} {
		t.Run(way.name, func(t *testing.T) { fn(t, e.client(way.h2), way.base) })
	}
}

var pattern = bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB
