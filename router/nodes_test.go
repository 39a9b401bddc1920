package router

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// hostNode runs a router as another node: it takes requests of other routers for its own machines.
func hostNode(t testing.TB, cfg Config, table Table) *edge {
	t.Helper()
	cfg.HostListen = "127.0.0.1:0"
	if cfg.PeerAllowed == nil {
		cfg.PeerAllowed = func(a netip.Addr) bool { return a.IsLoopback() }
	}
	return startEdge(t, cfg, table)
}

func (e *edge) host() netip.AddrPort { return netip.MustParseAddrPort(e.HostAddr().String()) }

// on is the machine as another node's table has it: it is reached by way of e.
func on(e *edge, node, region string, m Machine) Machine {
	m.Node, m.Region, m.Via, m.Addr = node, region, e.host(), netip.Addr{}
	return m
}

// naming is a machine that answers with its name and what came of the request.
func naming(t *testing.T, id string) Machine {
	return machine(id, origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Sum", fmt.Sprintf("%x", sha256.Sum256(b)))
		for name := range r.Header {
			if strings.HasPrefix(name, "Perigee-") {
				w.Header().Set("Leaked", name)
			}
		}
		fmt.Fprint(w, id)
	}))
}

// eachPort has public ports at internal port 8080 and machines reached there by their own port.
func far(rtt time.Duration) Distance { return Distance{RTT: rtt, Up: true} }

func TestFarMachine(t *testing.T) {
	m := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Sum", fmt.Sprintf("%x", sha256.Sum256(b)))
		w.Header().Set("Perigee-Host", "full 9")
		for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port", "Fly-Client-Ip", "Fly-Forwarded-Port", "Fly-Region", "Via", "Perigee-Route", "X-Mine", "Fly-Replay-Src"} {
			w.Header().Add("Saw", h+"="+strings.Join(r.Header.Values(h), "|"))
		}
		w.Header().Set("Ids", fmt.Sprint(r.Header.Get("X-Request-Id") == "abc.1" && r.Header.Get("Fly-Request-Id") == "abc.1"))
		if r.URL.Path == "/chunks" {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	}))
	b := hostNode(t, Config{Region: "syd"}, webTable(m))
	a := startEdge(t, Config{Region: "fra"}, webTable(on(b, "b", "syd", m)))
	eachWay(t, a, func(t *testing.T, c *http.Client, base string) {
		for _, size := range []int{0, 1, 1000, 17000, 1 << 20, 1<<20 + 1, 3 << 20} {
			body := bytes.Repeat(pattern, size/len(pattern)+1)[:size]
			for _, path := range []string{"/length", "/chunks"} {
				for _, chunked := range []bool{false, true} {
					var in io.Reader = bytes.NewReader(body)
					if chunked {
						in = struct{ io.Reader }{in}
					}
					req, _ := http.NewRequest("POST", base+path, in)
					req.Header = http.Header{"X-Request-Id": {"abc.1"}, "X-Mine": {"1"}, "Perigee-Route": {"other 1 1 -"}, "Perigee_Route": {"x"}, "Fly-Region": {"no"}, "Fly-Replay-Src": {"instance=me"}}
					res, err := c.Do(req)
					if err != nil {
						t.Fatalf("%d %s %v: %v", size, path, chunked, err)
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != 200 || !bytes.Equal(got, body) {
						t.Fatalf("%d %s %v: status %d, %d bytes back, %v: %.100s", size, path, chunked, res.StatusCode, len(got), err, got)
					}
					if res.Header.Get("Perigee-Host") != "" || res.Header.Get("Ids") != "true" || res.Header.Get("Fly-Request-Id") != "abc.1" || len(res.Header.Values("Fly-Request-Id")) != 1 {
						t.Fatalf("headers: %v", res.Header)
					}
					saw := strings.Join(res.Header.Values("Saw"), "\n") + "\n"
					port, proto, via := "80", "http", "1.1 perigee"
					if strings.HasPrefix(base, "https") {
						port, proto = "443", "https"
					}
					if res.ProtoMajor == 2 {
						via = "2 perigee"
					}
					for _, want := range []string{"X-Forwarded-For=127.0.0.1", "X-Forwarded-Proto=" + proto, "X-Forwarded-Port=" + port, "Fly-Client-Ip=127.0.0.1",
						"Fly-Forwarded-Port=" + port, "Fly-Region=fra", "Via=" + via, "Perigee-Route=", "X-Mine=1", "Fly-Replay-Src="} {
						if !strings.Contains(saw, want+"\n") {
							t.Fatalf("no %q in:\n%s", want, saw)
						}
					}
				}
			}
		}
	})
	for _, e := range []*edge{a, b} {
		waitFor(t, "nothing in flight", func() bool { return e.InFlight("m1") == 0 })
	}
}

func TestNearBeforeFar(t *testing.T) {
	m1, m2, m3 := naming(t, "m1"), naming(t, "m2"), naming(t, "m3")
	b, c := hostNode(t, Config{}, webTable(m1)), hostNode(t, Config{}, webTable(m2, m3))
	a := startEdge(t, Config{Region: "iad"}, webTable(on(b, "b", "fra", m1), on(c, "c", "nrt", m2), on(c, "c", "nrt", m3)))
	client := a.client(false)
	a.SetDistances(map[string]Distance{"b": far(90 * time.Millisecond), "c": far(170 * time.Millisecond)})
	for range 5 {
		if _, got := get(t, client, "http://app.test"); got != "m1" {
			t.Fatalf("got %s", got)
		}
	}
	a.SetDistances(map[string]Distance{"b": far(190 * time.Millisecond), "c": far(170 * time.Millisecond)})
	seen := map[string]int{}
	for range 10 {
		_, got := get(t, client, "http://app.test")
		seen[got]++
	}
	if seen["m2"] != 5 || seen["m3"] != 5 {
		t.Errorf("got %v", seen)
	}
	a.SetDistances(map[string]Distance{"b": far(190 * time.Millisecond), "c": {RTT: 170 * time.Millisecond}})
	if _, got := get(t, client, "http://app.test"); got != "m1" {
		t.Errorf("a node that is down was chosen: %s", got)
	}
	// What the client prefers comes first, and what it forces is all there is.
	a.SetDistances(map[string]Distance{"b": far(90 * time.Millisecond), "c": far(170 * time.Millisecond)})
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		for _, tt := range []struct{ header, value, want string }{
			{"Fly-Prefer-Region", "nrt", "m2 m3"}, {"Perigee-Prefer-Region", "nrt", "m2 m3"}, {"Fly-Prefer-Region", "gru", "m1"},
			{"Fly-Prefer-Region", "gru, NRT", "m2 m3"}, {"Perigee-Prefer-Region", ",", "m1"},
			{"Fly-Prefer-Instance-Id", "m3", "m3"}, {"Perigee-Prefer-Instance-Id", "m2", "m2"}, {"Fly-Force-Instance-Id", "m2", "m2"},
			{"Perigee-Force-Instance-Id", "m3", "m3"}, {"Fly-Force-Instance-Id", "m9", "503"}, {"Fly-Prefer-Instance-Id", "m9", "m1"},
		} {
			req, _ := http.NewRequest("GET", base, nil)
			req.Header.Set(tt.header, tt.value)
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				got = fmt.Append(nil, res.StatusCode)
			}
			if !strings.Contains(tt.want, string(got)) || len(got) == 0 {
				t.Errorf("%s: %s: got %q, want %s", tt.header, tt.value, got, tt.want)
			}
		}
	})
}

// TestRefusedElsewhere has tables at the edge that are behind what the hosts know.
func TestRefusedElsewhere(t *testing.T) {
	m1, m2 := naming(t, "m1"), naming(t, "m2")
	c := hostNode(t, Config{}, webTable(m2))
	for _, tt := range []struct {
		name  string
		truth func(*Machine)
	}{
		{"gone", func(m *Machine) { m.ID = "other" }}, {"asleep", func(m *Machine) { m.State = StateSuspended }}, {"cordoned", func(m *Machine) { m.Cordoned = true }},
		{"unhealthy", func(m *Machine) { m.Healthy = false }}, {"silent", func(m *Machine) { m.Port = int(freePort(t).Port()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			truth := m1
			tt.truth(&truth)
			b := hostNode(t, Config{Waker: nobodyWakes{}}, func() Table {
				x := webTable(truth)
				x.Apps[0].Services[0].AutoStart = tt.name != "asleep"
				return x
			}())
			a := startEdge(t, Config{}, webTable(on(b, "b", "fra", m1), on(c, "c", "nrt", m2)))
			a.SetDistances(map[string]Distance{"b": far(time.Millisecond), "c": far(100 * time.Millisecond)})
			eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
				for _, body := range [][]byte{nil, pattern[:100], pattern, bytes.Repeat(pattern, 8)} {
					res, err := client.Post(base, "", bytes.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					got, _ := io.ReadAll(res.Body)
					res.Body.Close()
					if string(got) != "m2" || res.Header.Get("Sum") != fmt.Sprintf("%x", sha256.Sum256(body)) || res.Header.Get("Leaked") != "" {
						t.Errorf("body of %d: %d %q, whole: %v", len(body), res.StatusCode, got, res.Header.Get("Sum") == fmt.Sprintf("%x", sha256.Sum256(body)))
					}
				}
			})
		})
	}
}

type nobodyWakes struct{}

func (nobodyWakes) Wake(context.Context, string) (netip.Addr, error) {
	return netip.Addr{}, fmt.Errorf("no")
}

// TestHardLimitSpills fills a near machine from two edges: what is too much goes far, and then waits.
func TestHardLimitSpills(t *testing.T) {
	var mu sync.Mutex
	most := map[string]int{}
	now := map[string]int{}
	slow := func(id string) Machine {
		return machine(id, origin(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			now[id]++
			most[id] = max(most[id], now[id])
			mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			now[id]--
			mu.Unlock()
			fmt.Fprint(w, id)
		}))
	}
	limited := func(ms ...Machine) Table {
		x := webTable(ms...)
		x.Apps[0].Services[0].Concurrency = Concurrency{Hard: 4}
		return x
	}
	m1, m2 := slow("m1"), slow("m2")
	b, c := hostNode(t, Config{}, limited(m1)), hostNode(t, Config{}, limited(m2))
	var wg sync.WaitGroup
	var total sync.Map
	for range 2 {
		a := startEdge(t, Config{Region: "iad"}, limited(on(b, "b", "iad", m1), on(c, "c", "nrt", m2)))
		a.SetDistances(map[string]Distance{"b": far(time.Millisecond), "c": far(100 * time.Millisecond)})
		client := a.client(false)
		wg.Go(func() {
			for status, n := range many(t, client, 30, "http://app.test") {
				old, _ := total.LoadOrStore(status, new(atomic.Int32))
				old.(*atomic.Int32).Add(int32(n))
			}
		})
	}
	wg.Wait()
	if n, ok := total.Load(200); !ok || n.(*atomic.Int32).Load() != 60 {
		total.Range(func(k, v any) bool { t.Logf("%v: %d", k, v.(*atomic.Int32).Load()); return true })
		t.Error("not all were answered")
	}
	if most["m1"] > 4 || most["m2"] > 4 || most["m2"] == 0 {
		t.Errorf("at most in flight: %v", most)
	}
}

func TestWakeAfar(t *testing.T) {
	s := newSleeper(t, "m1")
	s.after, s.slow = 30*time.Millisecond, 20*time.Millisecond
	b := hostNode(t, Config{Waker: s}, s.table(StateSuspended, "m1"))
	table := s.table(StateSuspended, "m1")
	table.Apps[0].Services[0].Machines[0] = on(b, "b", "fra", table.Apps[0].Services[0].Machines[0])
	a := startEdge(t, Config{}, table)
	if got := many(t, a.client(true), 20, "https://app.test"); got[200] != 20 || s.count("m1") != 1 {
		t.Errorf("%v, %d wakes", got, s.count("m1"))
	}
}

func TestFarWebSocket(t *testing.T) {
	m := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	}))
	b := hostNode(t, Config{}, webTable(m))
	a := startEdge(t, Config{}, webTable(on(b, "b", "fra", m)))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "ws://app.test/x", &websocket.DialOptions{HTTPClient: a.client(false)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	for range 3 {
		if err := c.Write(ctx, websocket.MessageBinary, pattern[:30000]); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); err != nil || !bytes.Equal(got, pattern[:30000]) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if a.InFlight("m1") != 1 || b.InFlight("m1") != 1 {
		t.Errorf("in flight: %d at the edge, %d at the host", a.InFlight("m1"), b.InFlight("m1"))
	}
}

func TestFarRawTCP(t *testing.T) {
	m := machine("m1", rawOrigin(t, echo))
	b := hostNode(t, Config{}, tcpTable(5432, nil, m))
	a := startEdge(t, Config{}, tcpTable(5432, nil, on(b, "b", "fra", m)))
	for range 3 {
		c := a.dial(5432)
		go func() { c.Write(pattern); c.(*net.TCPConn).CloseWrite() }()
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || !bytes.Equal(got, pattern) {
			t.Errorf("%d bytes back, %v", len(got), err)
		}
	}
	waitFor(t, "nothing in flight", func() bool { return a.InFlight("m1") == 0 && b.InFlight("m1") == 0 })
}

// TestFarGRPC has a machine of another node that speaks HTTP/2 only, and streams both ways with trailers.
func TestFarGRPC(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			http.Error(w, "not HTTP/2", 500)
			return
		}
		if r.URL.Path == "/only" { // trailers alone
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 4096)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	m := machine("m1", netip.MustParseAddrPort(s.Listener.Addr().String()))
	table := func(m Machine) Table {
		x := webTable(m)
		x.Apps[0].Services[0].Ports = []Port{{Start: 80, Handlers: []string{HandlerHTTP}, H2Backend: true}, {Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}, H2Backend: true}}
		return x
	}
	b := hostNode(t, Config{}, table(m))
	a := startEdge(t, Config{}, table(on(b, "b", "fra", m)))
	for name, e := range map[string]*edge{"near": b, "far": a} {
		eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
			for range 3 {
				in, out := io.Pipe()
				req, _ := http.NewRequest("POST", base+"/echo", in)
				req.Header.Set("Te", "trailers")
				res, err := c.Do(req)
				if err != nil {
					t.Fatal(name, err)
				}
				buf := make([]byte, 5)
				for range 3 { // each answer comes before the next question
					io.WriteString(out, "hello")
					if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != "hello" {
						t.Fatalf("%s: %q, %v", name, buf, err)
					}
				}
				out.Close()
				rest, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || len(rest) > 0 || res.Trailer.Get("Grpc-Status") != "0" {
					t.Errorf("%s: %q, %v, trailers %v", name, rest, err, res.Trailer)
				}
				res, err = c.Get(base + "/only")
				if err != nil || res.Header.Get("Grpc-Status") != "5" {
					t.Fatalf("%s: %v %v", name, res, err)
				}
				res.Body.Close()
			}
		})
		waitFor(t, "nothing in flight", func() bool { return e.InFlight("m1") == 0 })
	}
}

// cutOff ends all connections without a word, as the end of the process would.
func (e *edge) cutOff() {
	e.eachLive(func(v visitor) {
		if c, ok := v.(*conn); ok {
			_ = c.c.Close()
		}
	})
}

// TestNodeDies has a node end in the middle of requests: those that may be repeated are, the others are told.
func TestNodeDies(t *testing.T) {
	var stuck atomic.Int32
	hang := make(chan struct{})
	m1 := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) { stuck.Add(1); <-hang }))
	t.Cleanup(func() { close(hang) })
	m2 := naming(t, "m2")
	b, c := hostNode(t, Config{DrainTimeout: time.Millisecond}, webTable(m1)), hostNode(t, Config{}, webTable(m2))
	for _, silent := range []bool{false, true} {
		a := startEdge(t, Config{}, webTable(on(b, "b", "fra", m1), on(c, "c", "nrt", m2)))
		a.SetDistances(map[string]Distance{"b": far(time.Millisecond), "c": far(100 * time.Millisecond)})
		eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
			a.SetDistances(map[string]Distance{"b": far(time.Millisecond), "c": far(100 * time.Millisecond)})
			before := stuck.Load()
			type answer struct {
				status int
				body   string
			}
			got, post := make(chan answer, 1), make(chan answer, 1)
			ask := func(method string, to chan answer) {
				req, _ := http.NewRequest(method, base, nil)
				res, err := client.Do(req)
				if err != nil {
					to <- answer{0, err.Error()}
					return
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				to <- answer{res.StatusCode, string(body)}
			}
			go ask("GET", got)
			go ask("POST", post)
			waitFor(t, "both requests", func() bool { return stuck.Load() == before+2 })
			if silent {
				a.SetDistances(map[string]Distance{"b": {RTT: time.Millisecond}, "c": far(100 * time.Millisecond)})
			} else {
				b.cutOff()
			}
			if x := <-got; x.status != 200 || x.body != "m2" {
				t.Errorf("GET: %+v", x)
			}
			if silent { // it may come back with the answer
				b.cutOff()
			}
			if x := <-post; x.status != 502 {
				t.Errorf("POST: %+v", x)
			}
		})
	}
}

// TestDeadNodeIsLeft dials a node that is not there.
func TestDeadNodeIsLeft(t *testing.T) {
	m2 := naming(t, "m2")
	c := hostNode(t, Config{}, webTable(m2))
	m1 := Machine{ID: "m1", Node: "b", Region: "fra", Via: netip.MustParseAddrPort("192.0.2.1:4284"), State: StateStarted, Healthy: true}
	a := startEdge(t, Config{}, webTable(m1, on(c, "c", "nrt", m2)))
	a.SetDistances(map[string]Distance{"b": far(time.Millisecond), "c": far(100 * time.Millisecond)})
	began := time.Now()
	for range 5 {
		res, err := a.client(false).Post("http://app.test", "", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(got) != "m2" {
			t.Errorf("%d %q", res.StatusCode, got)
		}
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("took %s", d)
	}
}

// TestStrangers come to the host's port, with and without an order.
func TestStrangers(t *testing.T) {
	m := naming(t, "m1")
	b := hostNode(t, Config{PeerAllowed: func(netip.Addr) bool { return false }}, webTable(m))
	c, err := net.Dial("tcp", b.host().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: app.test\r\nPerigee-Route: m1 8080 80 -\r\n\r\n")
	if got, _ := io.ReadAll(c); len(got) > 0 {
		t.Errorf("a stranger got %q", got)
	}
	ok := hostNode(t, Config{}, webTable(m))
	for _, line := range []string{"", "Perigee-Route: m1\r\n", "Perigee-Route: m1 0 80 -\r\n"} {
		c, err := net.Dial("tcp", ok.host().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: app.test\r\n%s\r\n", line)
		got, _ := io.ReadAll(c)
		if status(string(got)) != 400 {
			t.Errorf("%q got %q", line, got)
		}
		c.Close()
	}
}

// TestKeptConnections checks that requests to another node share connections, refusals included.
func TestKeptConnections(t *testing.T) {
	var conns atomic.Int32
	m := naming(t, "m1")
	b := hostNode(t, Config{PeerAllowed: func(netip.Addr) bool { conns.Add(1); return true }}, webTable(m))
	a := startEdge(t, Config{}, webTable(on(b, "b", "fra", m), on(b, "b", "fra", Machine{ID: "gone", State: StateStarted, Healthy: true})))
	for _, h2 := range []bool{false, true} {
		client := a.client(h2)
		for range 20 {
			for _, body := range []string{"", "body"} {
				res, err := client.Post("https://app.test", "", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if string(got) != "m1" {
					t.Fatalf("%d %s", res.StatusCode, got)
				}
			}
		}
	}
	if n := conns.Load(); n > 3 {
		t.Errorf("%d connections", n)
	}
}

// TestNobodyThere: who cannot reach a node is not told to look at the app.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := Machine{ID: "m1", Node: "b", Via: netip.MustParseAddrPort(l.Addr().String()), State: StateStarted, Healthy: true}
	l.Close()
	a := startEdge(t, Config{ConnectTimeout: 100 * time.Millisecond}, webTable(m))
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		res, got := get(t, client, base)
		if res.StatusCode != 502 || !strings.Contains(got, "can be reached: node") || strings.Contains(got, "0.0.0.0") {
			t.Errorf("%d %s", res.StatusCode, got)
		}
	})
}
