package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// tcpTable is an app "db" with one public port.
func tcpTable(port int, handlers []string, ms ...Machine) Table {
	return Table{Apps: []App{{Name: "db", Hosts: []string{"db.test"}, Services: []Service{{
		InternalPort: 5432, AutoStart: true, Ports: []Port{{Start: port, Handlers: handlers}}, Machines: ms,
	}}}}}
}

func TestRawTCP(t *testing.T) {
	e := startEdge(t, Config{}, tcpTable(5432, nil, machine("m1", rawOrigin(t, echo))))
	c := e.dial(5432)
	defer c.Close()
	go func() { c.Write(pattern); c.(*net.TCPConn).CloseWrite() }()
	got, err := io.ReadAll(c)
	if err != nil || string(got) != string(pattern) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
	if s := e.Snapshot()["db"]; s.Connections != 1 || s.BytesIn != uint64(len(pattern)) || s.BytesOut != s.BytesIn {
		t.Errorf("counted %+v", s)
	}
}

func TestRawTCPWakes(t *testing.T) {
	s := newSleeper(t, "m1")
	s.after, s.slow = 20*time.Millisecond, 20*time.Millisecond
	m := machine("m1", s.at["m1"])
	m.State = StateSuspended
	e := startEdge(t, Config{Waker: s}, tcpTable(5432, nil, m))
	c := e.dial(5432)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || !strings.Contains(string(got), "awake") {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRawPortsFollowTheTable opens, moves and closes ports, a port that the host has taken among them.
func TestRawPortsFollowTheTable(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	m := machine("m1", rawOrigin(t, echo))
	listen := map[int]string{7001: "127.0.0.1:0", 7002: "127.0.0.1:0", 7003: taken.Addr().String()}
	e := startEdge(t, Config{Listen: listen}, Table{})
	if e.Addr(7001) != nil {
		t.Fatal("open without a table")
	}
	table := tcpTable(7001, nil, m)
	table.Apps[0].Services[0].Ports = append(table.Apps[0].Services[0].Ports, Port{Start: 7002, End: 7003})
	if err := e.SetTable(table); err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{7001, 7002} {
		c := e.dial(port)
		fmt.Fprint(c, "hello")
		buf := make([]byte, 5)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("port %d: %q, %v", port, buf, err)
		}
		c.Close()
	}
	waitFor(t, "the taken port to be reported", func() bool { return len(e.Problems()) == 1 })
	if p := e.Problems()[0]; p.App != "db" || p.Port != 7003 || !strings.Contains(p.Err.Error(), "another program") {
		t.Errorf("problem %+v", p)
	}
	if err := e.SetTable(Table{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the ports to close", func() bool { return e.Addr(7001) == nil && e.Addr(7002) == nil && len(e.Problems()) == 0 })
}

func TestRefusedConnections(t *testing.T) {
	e := startEdge(t, Config{ConnectTimeout: 50 * time.Millisecond}, tcpTable(5432, nil, machine("m1", freePort(t))))
	c := e.dial(5432)
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("%d, %v; want a reset", n, err)
	}
}

func TestTCPHardLimit(t *testing.T) {
	table := tcpTable(5432, nil, machine("m1", rawOrigin(t, echo)))
	table.Apps[0].Services[0].Concurrency.Hard = 1
	e := startEdge(t, Config{}, table)
	first, second := e.dial(5432), e.dial(5432)
	defer second.Close()
	fmt.Fprint(first, "a")
	fmt.Fprint(second, "b")
	waitFor(t, "one to wait", func() bool { return e.queues[queueKey{"db", 5432}].waiting.Load() == 1 })
	first.Close()
	second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := second.Read(make([]byte, 1)); err == nil {
		return
	}
	// Which of the two came first is not ours to say: it is the other that waited then.
	waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
}

func TestIdleTunnel(t *testing.T) {
	table := tcpTable(5432, nil, machine("m1", rawOrigin(t, echo)))
	table.Apps[0].Services[0].Ports[0].IdleTimeout = 100 * time.Millisecond
	e := startEdge(t, Config{}, table)
	c := e.dial(5432)
	defer c.Close()
	for range 4 {
		time.Sleep(50 * time.Millisecond)
		fmt.Fprint(c, "x")
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatalf("ended though it was used: %v", err)
		}
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("still open")
	}
}

func TestProxyProtocol(t *testing.T) {
	for version, want := range map[int]string{0: "PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\nhello", 1: "PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\nhello", 2: ""} {
		table := tcpTable(5432, []string{HandlerProxyProto}, machine("m1", rawOrigin(t, echo)))
		table.Apps[0].Services[0].Ports[0].ProxyProtoVersion = version
		e := startEdge(t, Config{}, table)
		c := e.dial(5432)
		fmt.Fprint(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		c.Close()
		src, dst := c.LocalAddr().(*net.TCPAddr).Port, c.RemoteAddr().(*net.TCPAddr).Port
		if want = fmt.Sprintf(want, src, dst); version == 2 {
			head, _ := hex.DecodeString("0d0a0d0a000d0a515549540a2111000c7f0000017f000001")
			want = string(head) + string([]byte{byte(src >> 8), byte(src), byte(dst >> 8), byte(dst)}) + "hello"
		}
		if string(got) != want || err != nil {
			t.Errorf("version %d: %q, want %q, %v", version, got, want, err)
		}
	}
}

func TestProxyHead(t *testing.T) {
	six := netip.MustParseAddrPort("[2001:db8::1]:80")
	if got := proxyV2(six, six); len(got) != 52 || got[13] != 0x21 || got[15] != 36 {
		t.Errorf("%x", got)
	}
}

// TestTLSToTCP checks TLS that ends at the edge with bytes inside that are not HTTP, on a port shared by name.
func TestTLSToTCP(t *testing.T) {
	table := tcpTable(443, []string{HandlerTLS}, machine("m1", rawOrigin(t, echo)))
	web := webTable(machine("m2", origin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "web") })))
	table.Apps = append(table.Apps, web.Apps...)
	e := startEdge(t, Config{}, table)
	roots := x509.NewCertPool()
	roots.AddCert(e.ca.Root())
	c, err := tls.Dial("tcp", e.at(443), &tls.Config{ServerName: "db.test", RootCAs: roots, NextProtos: []string{"my-proto"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, body := get(t, e.client(true), "https://app.test"); body != "web" {
		t.Errorf("the other app: %q", body)
	}
	plain := e.dial(443)
	defer plain.Close()
	fmt.Fprint(plain, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	if got, _ := io.ReadAll(plain); !strings.Contains(string(got), "use https") {
		t.Errorf("plain HTTP: %q", got)
	}
	if _, err := tls.Dial("tcp", e.at(443), &tls.Config{ServerName: "app.test", RootCAs: roots, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestTLSResumes(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {}))))
	roots := x509.NewCertPool()
	roots.AddCert(e.ca.Root())
	cfg := &tls.Config{ServerName: "app.test", RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i := range 2 {
		c, err := tls.Dial("tcp", e.at(443), cfg)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
		_, _ = io.ReadAll(c)
		if got := c.ConnectionState().DidResume; got != (i == 1) {
			t.Errorf("connection %d resumed: %v", i, got)
		}
		c.Close()
	}
}

func TestPostgresTLS(t *testing.T) {
	e := startEdge(t, Config{}, tcpTable(5432, []string{HandlerPgTLS}, machine("m1", rawOrigin(t, echo))))
	roots := x509.NewCertPool()
	roots.AddCert(e.ca.Root())
	for _, gss := range []bool{false, true} {
		c := e.dial(5432)
		in := bufio.NewReader(c)
		if gss {
			c.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30})
			if b, err := in.ReadByte(); b != 'N' || err != nil {
				t.Fatalf("GSSENCRequest: %q, %v", b, err)
			}
		}
		c.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f})
		if b, err := in.ReadByte(); b != 'S' || err != nil {
			t.Fatalf("SSLRequest: %q, %v", b, err)
		}
		s := tls.Client(c, &tls.Config{ServerName: "db.test", RootCAs: roots})
		fmt.Fprint(s, "hello")
		s.CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
			t.Errorf("%q, %v", got, err)
		}
		c.Close()
	}
	c := e.dial(5432)
	defer c.Close()
	c.Write([]byte{0, 0, 0, 8, 0, 3, 0, 0})
	if got, _ := io.ReadAll(c); !strings.Contains(string(got), "sslmode=require") {
		t.Errorf("without TLS: %q", got)
	}
}

// TestShutdown checks that what is in flight finishes, idle connections end, and new ones are not taken.
func TestShutdown(t *testing.T) {
	came, release := make(chan struct{}, 3), make(chan struct{})
	table := webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			came <- struct{}{}
			<-release
		}
		fmt.Fprint(w, "done")
	})))
	e := startEdge(t, Config{}, table)
	idle := e.dial(80)
	defer idle.Close()
	type answer struct {
		body  string
		close bool
		err   error
	}
	answers := make(chan answer, 3)
	for _, way := range []struct {
		h2   bool
		base string
	}{{false, "http://app.test"}, {false, "https://app.test"}, {true, "https://app.test"}} {
		c := e.client(way.h2)
		get(t, c, way.base)
		go func() {
			res, err := c.Get(way.base + "/slow")
			a := answer{err: err}
			if err == nil {
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				a = answer{string(b), res.Close || way.h2, err}
			}
			answers <- a
		}()
		<-came
	}
	addr := e.at(80)
	done := make(chan error, 1)
	go func() { done <- e.Shutdown(context.Background()) }()
	if n, err := idle.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the idle connection: %d, %v", n, err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a new connection was taken")
	}
	close(release)
	for range 3 {
		if a := <-answers; a.err != nil || a.body != "done" || !a.close {
			t.Errorf("%+v", a)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestShutdownIsForced(t *testing.T) {
	table := tcpTable(5432, nil, machine("m1", rawOrigin(t, echo)))
	e := startEdge(t, Config{}, table)
	c := e.dial(5432)
	defer c.Close()
	fmt.Fprint(c, "x")
	c.Read(make([]byte, 1))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := e.Shutdown(ctx); err == nil {
		t.Error("no word about the connection that was cut")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is still open")
	}
}

func TestOwnPortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	r := New(Config{Listen: map[int]string{80: taken.Addr().String()}})
	if err := r.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("%v", err)
	}
}
