package router

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestDeadConnections checks what is sent again when the machine has closed a connection that was kept, or dies.
func TestDeadConnections(t *testing.T) {
	var mu atomic.Int32 // requests seen
	at := rawOrigin(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		mu.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		// and closes, without having said so
	})
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		for i := range 20 {
			method := []string{"GET", "POST"}[i%2]
			req, _ := http.NewRequest(method, base, nil)
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Errorf("%s %d: %d", method, i, res.StatusCode)
			}
			time.Sleep(2 * time.Millisecond) // the close is seen by now
		}
	})
	if n := mu.Load(); n != 60 {
		t.Errorf("the machine saw %d requests, want 60", n)
	}

	var seen atomic.Int32
	dying := rawOrigin(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			seen.Add(1)
		}
	})
	if err := e.SetTable(webTable(machine("m1", at), machine("dying", dying))); err != nil {
		t.Fatal(err)
	}
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		before, failed := seen.Load(), int32(0)
		for range 10 { // a GET may have been what killed the machine: no other one gets it
			if res, _ := get(t, c, base); res.StatusCode == 502 {
				failed++
			}
		}
		if failed == 0 || failed != seen.Load()-before {
			t.Errorf("%d of the GETs failed, the dying machine saw %d", failed, seen.Load()-before)
		}
		before, failed = seen.Load(), int32(0)
		for range 10 { // and a POST
			res, err := c.Post(base, "", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode == 502 {
				failed++
			}
			time.Sleep(2 * time.Millisecond) // see above: only what is known to be closed is not used
		}
		if failed == 0 || failed != seen.Load()-before {
			t.Errorf("%d of the POSTs failed, the dying machine saw %d", failed, seen.Load()-before)
		}
	})
}

// TestPoison has a request that ends whatever machine it comes to: it must not be passed on to all of them.
func TestPoison(t *testing.T) {
	var killed atomic.Int32
	poisoned := func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			q, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if q.URL.Path == "/oom" {
				killed.Add(1)
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	var ms []Machine
	for _, id := range []string{"m1", "m2", "m3", "m4"} {
		ms = append(ms, machine(id, rawOrigin(t, poisoned)))
	}
	table := webTable(ms...)
	for _, c := range []struct {
		name string
		warm int // requests before, so that connections are kept
		most int32
	}{{"new connection", 0, 1}, {"kept connection", 8, 2}} {
		t.Run(c.name, func(t *testing.T) {
			for _, h2 := range []bool{false, true} {
				e := startEdge(t, Config{}, table)
				client, base := e.client(h2), "http://app.test"
				if h2 {
					base = "https://app.test"
				}
				for range c.warm {
					get(t, client, base)
				}
				killed.Store(0)
				if res, _ := get(t, client, base+"/oom"); res.StatusCode != http.StatusBadGateway {
					t.Errorf("answered %d", res.StatusCode)
				}
				if n := killed.Load(); n == 0 || n > c.most {
					t.Errorf("the request came to %d machines, want at most %d", n, c.most)
				}
			}
		})
	}
}

// TestRefusingMachine checks that nobody notices a machine that accepts no connections while there is another.
func TestRefusingMachine(t *testing.T) {
	at := origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})
	e := startEdge(t, Config{ConnectTimeout: 200 * time.Millisecond}, webTable(machine("dead", freePort(t)), machine("m1", at)))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		for range 10 {
			res, err := c.Post(base, "", bytes.NewReader(pattern))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || len(b) != len(pattern) {
				t.Errorf("%d, %d bytes", res.StatusCode, len(b))
			}
		}
	})
	if err := e.SetTable(webTable(machine("dead", freePort(t)))); err != nil {
		t.Fatal(err)
	}
	if res, body := get(t, e.client(false), "http://app.test"); res.StatusCode != 502 || !strings.Contains(body, "0.0.0.0") {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

// freePort is an address where nobody listens.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// TestYoungMachine checks that a request waits for a machine that runs but does not listen yet.
func TestYoungMachine(t *testing.T) {
	at := freePort(t)
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	go func() {
		time.Sleep(100 * time.Millisecond)
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return
		}
		t.Cleanup(func() { l.Close() })
		if c, err := l.Accept(); err == nil {
			answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c)
			c.Close()
		}
	}()
	if res, body := get(t, e.client(false), "http://app.test"); res.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}
