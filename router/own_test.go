package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// led is a socket to which connections to many addresses are led, as the mesh's firewall
// does it.
type led struct {
	net.Listener
	t     *testing.T
	conns chan net.Conn
	ended chan struct{}
}

func newLed(t *testing.T) *led {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return &led{l, t, make(chan net.Conn), make(chan struct{})}
}

func (l *led) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l *led) Close() error {
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
	return l.Listener.Close()
}

type madeTo struct {
	*net.TCPConn
	at netip.AddrPort
}

func (c madeTo) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.at) }

func (l *led) dial(at string) net.Conn {
	l.t.Helper()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	s, err := l.Listener.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	l.conns <- madeTo{s.(*net.TCPConn), netip.MustParseAddrPort(at)}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// get is what comes back over HTTP, "" if the connection is closed without a word.
func (l *led) get(at, host string) string {
	l.t.Helper()
	c := l.dial(at)
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host)
	got, _ := io.ReadAll(c)
	return string(got)
}

// line is what a raw service says first.
func (l *led) line(at string) string {
	l.t.Helper()
	c := l.dial(at)
	defer c.Close()
	got, _ := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(got)
}

func saying(t *testing.T, id string) Machine {
	return machine(id, rawOrigin(t, func(c net.Conn) { defer c.Close(); fmt.Fprintln(c, id) }))
}

// ownTable is two apps of one organization that want the same port, and one of another.
func ownTable(t *testing.T) Table {
	db := []Port{{Start: 5432}}
	shop := webTable(naming(t, "shop-web")).Apps[0]
	shop.Name, shop.Org, shop.Hosts = "shop", "us", []string{"shop.test"}
	shop.Private, shop.Addrs = netip.MustParseAddr("fd00::1"), []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	shop.Services[0].Ports = []Port{{Start: 80, Handlers: []string{HandlerHTTP}, ForceHTTPS: true}, {Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}}}
	shop.Services = append(shop.Services, Service{InternalPort: 5432, Ports: db, Machines: []Machine{saying(t, "shop-db")}})
	blog := App{Name: "blog", Org: "us", Private: netip.MustParseAddr("fd00::2"), Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, Services: []Service{
		{InternalPort: 5432, Ports: db, Machines: []Machine{saying(t, "blog-db")}},
		{InternalPort: 9000, Machines: []Machine{saying(t, "blog-inner")}},
	}}
	alien := App{Name: "alien", Org: "them", Private: netip.MustParseAddr("fd00::3"), Services: []Service{
		{InternalPort: 5433, Ports: []Port{{Start: 5433}}, Machines: []Machine{saying(t, "alien-db")}},
	}}
	return Table{Apps: []App{shop, blog, alien}}
}

func TestOwnAddresses(t *testing.T) {
	var org atomic.Value
	org.Store("us")
	l := newLed(t)
	e := startEdge(t, Config{Own: []net.Listener{l}, OrgOf: func(netip.Addr) string { return org.Load().(string) }}, ownTable(t))
	if p := e.Problems(); len(p) > 0 {
		t.Errorf("two apps with addresses of their own are in each other's way: %v", p[0].Err)
	}
	for at, want := range map[string]string{
		"[fd00::1]:5432": "shop-db", "[fd00::2]:5432": "blog-db", "192.0.2.1:5432": "shop-db", "192.0.2.2:5432": "blog-db",
		"[fd00::2]:9000": "blog-inner", "192.0.2.2:9000": "", // without a public port it is for inside
		"[fd00::1]:5433": "", "[fd00::3]:5433": "", "[fd00::9]:5432": "", "192.0.2.9:5432": "",
	} {
		if got := l.line(at); got != want {
			t.Errorf("%s is %q, want %q", at, got, want)
		}
	}
	if got := l.get("[fd00::1]:80", "any.example"); status(got) != 200 || !strings.HasSuffix(got, "shop-web") {
		t.Errorf("inside: %q", got)
	}
	if got := l.get("[fd00::2]:80", "blog.flycast"); got != "" {
		t.Errorf("an app without HTTP answers %q", got)
	}
	if got := l.get("192.0.2.1:80", "any.example"); status(got) != 301 {
		t.Errorf("outside, where https is forced: %q", got)
	}
	if got := l.get("192.0.2.2:80", "any.example"); status(got) != 404 {
		t.Errorf("the router's own port: %q", got)
	}
	for _, who := range []string{"them", ""} {
		org.Store(who)
		if got := l.line("[fd00::1]:5432") + l.get("[fd00::1]:80", "shop.flycast"); got != "" {
			t.Errorf("a caller of %q gets %q", who, got)
		}
	}
	if got := l.line("192.0.2.1:5432"); got != "shop-db" {
		t.Errorf("a stranger at a public address gets %q", got)
	}
}

// TestOwnTLS: a client that names no host means the app whose address it came to.
func TestOwnTLS(t *testing.T) {
	l := newLed(t)
	e := startEdge(t, Config{Own: []net.Listener{l}}, ownTable(t))
	roots := x509.NewCertPool()
	roots.AddCert(e.ca.Root())
	c := tls.Client(l.dial("192.0.2.1:443"), &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ConnectionState().PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: "shop.test", Roots: roots}); err != nil {
		t.Error(err)
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(c); !strings.HasSuffix(string(got), "shop-web") {
		t.Errorf("got %q", got)
	}
}

// TestOwnDrain: visitors of apps' own addresses leave with the others, machines do not, nor
// do those who speak HTTP/2; and an address that the app loses is nobody's at once.
func TestOwnDrain(t *testing.T) {
	l := newLed(t)
	table := ownTable(t)
	e := startEdge(t, Config{Own: []net.Listener{l}, OrgOf: func(netip.Addr) string { return "us" }}, table)
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return l.dial("[fd00::1]:80"), nil }}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	if _, b := get(t, client, "http://shop.flycast/"); b != "shop-web" {
		t.Fatalf("over HTTP/2: %q", b)
	}
	kept := l.dial("[fd00::1]:80")
	in := bufio.NewReader(kept)
	ask := func() *http.Response {
		fmt.Fprint(kept, "GET / HTTP/1.1\r\nHost: shop.flycast\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		return res
	}
	ask()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := e.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	if res := ask(); res.StatusCode != 200 || res.Close {
		t.Errorf("inside, while it drains: %v", res)
	}
	if _, b := get(t, client, "http://shop.flycast/"); b != "shop-web" {
		t.Errorf("inside over HTTP/2, while it drains: %q", b)
	}
	if got := l.line("192.0.2.1:5432"); got != "" {
		t.Errorf("outside, while it drains: %q", got)
	}
	table.Apps = append([]App(nil), table.Apps...)
	table.Apps[0].Private = netip.Addr{}
	if err := e.SetTable(table); err != nil {
		t.Fatal(err)
	}
	if res := ask(); res.StatusCode != 404 {
		t.Errorf("after the app has lost the address: %v", res)
	}
}

// TestOwnWake: a sleeping machine is woken for a caller inside, though its service has no
// public port.
func TestOwnWake(t *testing.T) {
	s := newSleeper(t, "m1")
	table := s.table(StateSuspended, "m1")
	app := &table.Apps[0]
	app.Org, app.Private = "us", netip.MustParseAddr("fd00::1")
	app.Services[0].Ports = nil
	l := newLed(t)
	startEdge(t, Config{Waker: s, Own: []net.Listener{l}, OrgOf: func(netip.Addr) string { return "us" }}, table)
	at := fmt.Sprintf("[fd00::1]:%d", app.Services[0].InternalPort)
	if got := l.get(at, "app.flycast"); !strings.HasSuffix(got, "awake") {
		t.Errorf("got %q", got)
	}
}

// TestAddressTwice: an address stays with the app that has it.
func TestAddressTwice(t *testing.T) {
	r := New(Config{})
	a := App{Name: "m", Private: netip.MustParseAddr("fd00::1")}
	if err := r.SetTable(Table{Apps: []App{a}}); err != nil {
		t.Fatal(err)
	}
	b := a
	b.Name = "a"
	if err := r.SetTable(Table{Apps: []App{b, a}}); err != nil {
		t.Fatal(err)
	}
	if o := r.routes.Load().own[a.Private]; o.app.name != "m" || !o.private {
		t.Errorf("it went to %q", o.app.name)
	}
	if p := r.Problems(); len(p) != 1 || p[0].App != "a" || p[0].Other != "m" {
		t.Errorf("problems %v", p)
	}
}
