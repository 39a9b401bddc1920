package router

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func TestHeadersToTheApp(t *testing.T) {
	e := startEdge(t, Config{Region: "fra"}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Got-Id", r.Header.Get("X-Request-Id"))
		for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Ssl", "Fly-Client-Ip", "Fly-Forwarded-Port", "Fly-Region", "X-Mine", "Te"} {
			fmt.Fprintf(w, "%s=%s\n", h, strings.Join(r.Header.Values(h), "|"))
		}
		fmt.Fprintf(w, "host=%s\nids=%v\nvia=%v\n", r.Host, r.Header.Get("X-Request-Id") == r.Header.Get("Fly-Request-Id"), r.Header.Get("Via"))
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		req, _ := http.NewRequest("GET", base+"/x", nil)
		req.Header = http.Header{"X-Forwarded-For": {"6.6.6.6"}, "X-Request-Id": {"abc.1"}, "X-Mine": {"1"}, "Fly-Client-Ip": {"6.6.6.6"}, "X-Forwarded-Proto": {"gopher"}}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		port, proto, ssl := "80", "http", "off"
		if strings.HasPrefix(base, "https") {
			port, proto, ssl = "443", "https", "on"
		}
		for _, want := range []string{"X-Forwarded-For=127.0.0.1\n", "X-Forwarded-Proto=" + proto + "\n", "X-Forwarded-Port=" + port + "\n", "X-Forwarded-Ssl=" + ssl + "\n",
			"Fly-Client-Ip=127.0.0.1\n", "Fly-Forwarded-Port=" + port + "\n", "Fly-Region=fra\n", "X-Mine=1\n", "host=app.test\n", "ids=true\n", "perigee"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("no %q in:\n%s", want, b)
			}
		}
		if res.Header.Get("Got-Id") != "abc.1" || res.Header.Get("Fly-Request-Id") != "abc.1" || !strings.Contains(res.Header.Get("Via"), "perigee") {
			t.Errorf("answer's headers: %v", res.Header)
		}
		req.Header.Set("X-Request-Id", "no good\"")
		res, err = c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if id := res.Header.Get("Got-Id"); len(id) != 26 || id != res.Header.Get("Fly-Request-Id") {
			t.Errorf("made id %q", id)
		}
	})
}

func TestTrustedProxy(t *testing.T) {
	e := startEdge(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}},
		webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.Header.Get("X-Forwarded-For"), " ", r.Header.Get("Fly-Client-Ip"))
		}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		req, _ := http.NewRequest("GET", base, nil)
		req.Header.Set("X-Forwarded-For", "8.8.8.8, 9.9.9.9, 10.1.1.1")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, _ := io.ReadAll(res.Body); string(b) != "8.8.8.8, 9.9.9.9, 10.1.1.1, 127.0.0.1 9.9.9.9" {
			t.Errorf("got %q", b)
		}
	})
}

// TestBodies sends bodies of many sizes both ways, with and without a length.
func TestBodies(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), 500)
			return
		}
		w.Header().Set("Sum", fmt.Sprintf("%x", sha256.Sum256(b)))
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		} else {
			w.(http.Flusher).Flush()
		}
		w.Write(b)
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		for _, size := range []int{0, 1, 1000, 16 << 10, 17000, 100_000, 3 << 20} {
			body := bytes.Repeat(pattern, size/len(pattern)+1)[:size]
			want := fmt.Sprintf("%x", sha256.Sum256(body))
			for _, path := range []string{"/length", "/chunks"} {
				for _, chunked := range []bool{false, true} {
					var in io.Reader = bytes.NewReader(body)
					if chunked {
						in = struct{ io.Reader }{in}
					}
					res, err := c.Post(base+path, "text/plain", in)
					if err != nil {
						t.Fatalf("%d %s %v: %v", size, path, chunked, err)
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || !bytes.Equal(got, body) || res.Header.Get("Sum") != want {
						t.Fatalf("%d %s chunked %v: %d bytes back, sum %v, %v", size, path, chunked, len(got), res.Header.Get("Sum") == want, err)
					}
				}
			}
		}
	})
	waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
	if s := e.Snapshot()["app"]; s.Requests != 84 || s.Class[2] != 84 || s.BytesIn < 30<<20 || s.BytesOut < 30<<20 {
		t.Errorf("counted %+v", s)
	}
}

// TestKeepAlive checks that both sides' connections are used again, pipelined requests included.
func TestKeepAlive(t *testing.T) {
	var conns atomic.Int32
	at := rawOrigin(t, func(c net.Conn) {
		conns.Add(1)
		answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")(c)
	})
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	one := "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	got := e.raw(strings.Repeat(one, 20) + "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
	if n := strings.Count(got, "HTTP/1.1 200 OK"); n != 21 || conns.Load() != 1 {
		t.Errorf("%d answers over %d connections", n, conns.Load())
	}
	old := e.raw("GET / HTTP/1.0\r\nHost: app.test\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\nHost: app.test\r\n\r\n")
	if strings.Count(old, "200 OK") != 2 || strings.Count(old, "Connection: keep-alive") != 1 || strings.Count(old, "Connection: close") != 1 {
		t.Errorf("HTTP/1.0: %q", old)
	}
}

func TestSmallThings(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	tests := []struct{ name, answer, request, want, not string }{
		{"head", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "Content-Length: 99\r\n", ""},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "204 No Content", "chunked"},
		{"304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\n\r\nGET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "304", ""},
		{"interim", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + ok, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200", ""},
		{"interim for 1.0", "HTTP/1.1 103 Early Hints\r\n\r\n" + ok, "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n", "200 OK", "103"},
		{"chunks for 1.0", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n", "GET / HTTP/1.0\r\nHost: app.test\r\n\r\n", "\r\n\r\nabcde", "chunked"},
		{"trailers", "HTTP/1.1 200 OK\r\nTrailer: T\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nTE: trailers\r\nConnection: close\r\n\r\n", "Trailer: T\r\n", ""},
		{"absolute", ok, "GET http://app.test/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", "200 OK", ""},
		{"hop by hop", "HTTP/1.1 200 OK\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=3\r\nContent-Length: 2\r\n\r\nok", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "ok", "X-Hop"},
		{"connect", ok, "CONNECT / HTTP/1.1\r\nHost: app.test\r\n\r\n", "405", ""},
		{"garbage from the machine", "220 smtp ready\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "502", ""},
		{"two lengths from the machine", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "502", ""},
		{"switch unasked", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "502", "101"},
		{"large head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 25000) + "\r\nContent-Length: 2\r\n\r\nok", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "200 OK", ""},
		{"too large a head", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70000) + "\r\nContent-Length: 2\r\n\r\nok", "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n", "502", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := startEdge(t, Config{}, webTable(machine("m1", rawOrigin(t, answering(tt.answer)))))
			got := e.raw(tt.request)
			if !strings.Contains(got, tt.want) || tt.not != "" && strings.Contains(got, tt.not) {
				t.Errorf("got %.600q, want %q, not %q", got, tt.want, tt.not)
			}
		})
	}
}

// TestToTheEnd checks answers that end with the connection: whole ones, and ones that break off.
func TestToTheEnd(t *testing.T) {
	at := rawOrigin(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		switch r.URL.Path {
		case "/cut":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
		case "/cutchunk":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		default:
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nuntil the end")
		}
	})
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		if res, body := get(t, c, base); res.StatusCode != 200 || body != "until the end" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		for _, path := range []string{"/cut", "/cutchunk"} {
			res, err := c.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%s: the client takes %q for whole", path, b)
			}
			res.Body.Close()
		}
	})
	if old := e.raw("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n"); !strings.HasSuffix(old, "\r\n\r\nuntil the end") {
		t.Errorf("HTTP/1.0: %q", old)
	}
}

func TestTrailersBothWays(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Sum")
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %s", n, r.Trailer.Get("Mine"))
		w.Header().Set("Sum", "42")
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		req, _ := http.NewRequest("POST", base, struct{ io.Reader }{strings.NewReader("hello")})
		req.Trailer = http.Header{"Mine": {"yes"}}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil || string(b) != "5 yes" || res.Trailer.Get("Sum") != "42" {
			t.Errorf("%q, trailer %v, %v", b, res.Trailer, err)
		}
	})
}

func TestContinue(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		c.Transport.(*http.Transport).ExpectContinueTimeout = 20 * time.Second
		for path, want := range map[string]int{"/yes": 200, "/no": 403} {
			told := false
			trace := &httptrace.ClientTrace{Got100Continue: func() { told = true }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "POST", base+path, bytes.NewReader(pattern))
			req.Header.Set("Expect", "100-continue")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want || strings.HasPrefix(base, "http:") && told != (want == 200) {
				t.Errorf("%s: status %d, told to continue: %v", path, res.StatusCode, told)
			}
		}
	})
}

// TestEarlyAnswer checks that an answer given before the body was read reaches a client that is still sending.
func TestEarlyAnswer(t *testing.T) {
	at := rawOrigin(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		time.Sleep(50 * time.Millisecond)
	})
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	c := e.dial(80)
	defer c.Close()
	go func() {
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 100000000\r\n\r\n")
		for range 100 {
			if _, err := c.Write(pattern[:64<<10]); err != nil {
				return
			}
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 413 || string(b) != "big" || !res.Close {
		t.Errorf("%d %q close %v", res.StatusCode, b, res.Close)
	}
}

// TestFullDuplex has an echo: each piece comes back before the next is sent.
func TestFullDuplex(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			rc.Flush()
			if err != nil {
				return
			}
		}
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		in, out := io.Pipe()
		defer out.Close()
		req, _ := http.NewRequest("POST", base, in)
		go fmt.Fprint(out, "0")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		for i := range 5 {
			var b [1]byte
			if _, err := io.ReadFull(res.Body, b[:]); err != nil || b[0] != '0'+byte(i) {
				t.Fatalf("echo %d: %q, %v", i, b, err)
			}
			fmt.Fprint(out, i+1)
		}
	})
}

// TestStream checks that a server-sent event arrives when it is sent, and that the machine hears when the client leaves.
func TestStream(t *testing.T) {
	left := make(chan struct{}, 3)
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		res, err := c.Get(base)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 9)
		if _, err := io.ReadFull(res.Body, buf); err != nil {
			t.Fatal(err)
		}
		if n, _ := e.Activity("m1"); n != 1 {
			t.Errorf("an open stream counts as %d", n)
		}
		if _, ok := e.Quiesce("m1"); ok {
			t.Error("a machine with an open stream may sleep")
		}
		res.Body.Close()
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Fatal("the machine was not told that the client has left")
		}
		waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
	})
}

// TestClientLeavesBeforeTheAnswer is the same before any answer.
func TestClientLeavesBeforeTheAnswer(t *testing.T) {
	came, left := make(chan struct{}), make(chan struct{})
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", base, nil)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if res, err := c.Do(req); err == nil {
				res.Body.Close()
			}
		}()
		<-came
		cancel()
		select {
		case <-left:
		case <-time.After(10 * time.Second):
			t.Fatal("the machine was not told that the client has left")
		}
		<-done
	})
	waitFor(t, "all three to be counted", func() bool { return e.Snapshot()["app"].Class[0] == 3 })
}

func TestWebSocket(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, append([]byte("echo "), b...)); err != nil {
				return
			}
		}
	}))))
	for _, base := range []string{"ws://app.test", "wss://app.test"} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		c, _, err := websocket.Dial(ctx, base+"/chat", &websocket.DialOptions{HTTPClient: e.client(false)})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			msg := fmt.Sprint("hello ", i)
			if err := c.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
				t.Fatal(err)
			}
			if _, b, err := c.Read(ctx); err != nil || string(b) != "echo "+msg {
				t.Fatalf("%q, %v", b, err)
			}
		}
		if n, _ := e.Activity("m1"); n != 1 {
			t.Errorf("an open WebSocket counts as %d", n)
		}
		c.Close(websocket.StatusNormalClosure, "")
		cancel()
		waitFor(t, "the WebSocket to end", func() bool { n, _ := e.Activity("m1"); return n == 0 })
	}
	if s := e.Snapshot()["app"]; s.Connections != 2 || s.Class[1] != 2 {
		t.Errorf("counted %+v", s)
	}
}

// TestUpgradeToAnything uses a protocol of its own, with bytes sent before the answer.
func TestUpgradeToAnything(t *testing.T) {
	at := rawOrigin(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil || r.Header.Get("Upgrade") != "echo/1" {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo/1\r\n\r\nready ")
		io.Copy(c, in)
	})
	e := startEdge(t, Config{}, webTable(machine("m1", at)))
	c := e.dial(80)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: echo/1\r\n\r\nearly ")
	io.WriteString(c, "late")
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101") || !strings.HasSuffix(string(got), "\r\n\r\nready early late") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPages(t *testing.T) {
	e := startEdge(t, Config{Domain: "example.net"}, Table{Apps: []App{
		{Name: "empty", Hosts: []string{"empty.test"}, Services: []Service{{InternalPort: 1, Ports: webPorts}}},
		{Name: "asleep", Hosts: []string{"asleep.test"}, Services: []Service{{InternalPort: 1, Ports: webPorts, Machines: []Machine{{ID: "m", State: StateSuspended}}}}},
	}})
	for _, h2 := range []bool{false, true} {
		c := e.client(h2)
		for host, want := range map[string]struct {
			status int
			text   string
		}{"nobody.test": {404, `"nobody.test" is not known here`}, "empty.test": {503, "no machines"}, "asleep.test": {503, "suspended, and auto_start is off"}} {
			res, body := get(t, c, "https://"+host)
			if res.StatusCode != want.status || !strings.Contains(body, want.text) || !strings.Contains(body, res.Header.Get("Fly-Request-Id")) ||
				!strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("%s: %d %q %v", host, res.StatusCode, body, res.Header)
			}
			if want.status == 503 && res.Header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", host)
			}
		}
		req, _ := http.NewRequest("GET", "https://nobody.test", nil)
		req.Header.Set("Accept", "application/json")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.Header.Get("Content-Type") != "application/json" || !strings.Contains(string(b), `"status":404`) {
			t.Errorf("%q", b)
		}
	}
	both := e.raw("HEAD / HTTP/1.1\r\nHost: nobody.test\r\n\r\nGET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n")
	if strings.Count(both, "404 Not Found\r\n") != 2 || strings.Count(both, "is not known here") != 1 {
		t.Errorf("HEAD and GET: %q", both)
	}
}

func TestForceHTTPS(t *testing.T) {
	table := webTable()
	table.Apps[0].Services[0].Ports = []Port{{Start: 80, Handlers: []string{HandlerHTTP}, ForceHTTPS: true}, webPorts[1]}
	e := startEdge(t, Config{}, table)
	_, tlsPort, _ := net.SplitHostPort(e.at(443))
	for host, want := range map[string]string{"app.test": "https://app.test/a?b", "app.test:8080": "https://app.test:" + tlsPort + "/a?b", "app.test:80": "https://app.test/a?b"} {
		got := e.raw("GET /a?b HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		if status(got) != 301 || !strings.Contains(got, "\r\nLocation: "+want+"\r\n") {
			t.Errorf("%s: %q", host, got)
		}
	}
}

func TestLimitsOnHeads(t *testing.T) {
	e := startEdge(t, Config{HeaderTimeout: 100 * time.Millisecond, IdleTimeout: 300 * time.Millisecond}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, len(r.Header.Get("X")))
	}))))
	big := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nX: " + strings.Repeat("x", n) + "\r\n\r\n"
	}
	if got := e.raw(big(30000)); status(got) != 200 || !strings.HasSuffix(got, "30000") {
		t.Errorf("30000: %q", got)
	}
	if got := e.raw(big(40000)); status(got) != 431 {
		t.Errorf("40000: %q", got)
	}
	if got := e.raw("GET / HTTP/1.1\r\nHost: app"); status(got) != 408 {
		t.Errorf("an unfinished head: %q", got)
	}
	c := e.dial(80)
	defer c.Close()
	start := time.Now()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF || time.Since(start) > 5*time.Second {
		t.Errorf("an idle connection: %d, %v", n, err)
	}
	for _, bad := range []string{"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"} {
		if got := e.raw(bad); status(got) != 400 || !strings.Contains(got, "Connection: close") {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

// TestSlowHead sends a request byte by byte.
func TestSlowHead(t *testing.T) {
	e := startEdge(t, Config{}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))))
	c := e.dial(80)
	defer c.Close()
	for _, b := range []byte("POST / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n") {
		c.Write([]byte{b})
		time.Sleep(100 * time.Microsecond)
	}
	if got, err := io.ReadAll(c); err != nil || !strings.Contains(string(got), "abc") {
		t.Errorf("%q, %v", got, err)
	}
}

// stall begins a request of 600 bytes, sends half of its body, and gives what came of it once the rest is sent.
func stall(c *http.Client, base string) (finish func() (status int, body string)) {
	in, out := io.Pipe()
	req, _ := http.NewRequest("POST", base, in)
	req.ContentLength = 600
	done := make(chan struct{})
	var status int
	var body []byte
	go func() {
		defer close(done)
		defer in.Close()
		if res, err := c.Do(req); err == nil {
			defer res.Body.Close()
			status = res.StatusCode
			body, _ = io.ReadAll(res.Body)
		}
	}()
	_, _ = out.Write(pattern[:300])
	return func() (int, string) {
		_, _ = out.Write(pattern[300:600])
		_ = out.Close()
		<-done
		return status, string(body)
	}
}

func TestBodyTimeout(t *testing.T) {
	ended := make(chan error, 1)
	e := startEdge(t, Config{BodyTimeout: 50 * time.Millisecond}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		ended <- err
	}))))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		finish := stall(c, base)
		select {
		case err := <-ended:
			if err == nil {
				t.Error("the machine takes the part for the whole")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the machine waits for the rest")
		}
		waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
		if status, body := finish(); strings.HasSuffix(t.Name(), "h2") && (status != 408 || !strings.Contains(body, "nothing more of its body")) {
			t.Errorf("%d %s", status, body)
		}
	})
}

// TestBodyMayWait has a machine that is slower than the client may be.
func TestBodyMayWait(t *testing.T) {
	e := startEdge(t, Config{BodyTimeout: 2 * time.Second}, webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(5 * time.Second)
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}))))
	res, err := e.client(true).Post("https://app.test", "", bytes.NewReader(make([]byte, 16<<20)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != fmt.Sprint(16<<20, nil) {
		t.Errorf("%q, %v", got, err)
	}
}

// TestKeptBodies has room for one body of the two that come at once, here and through another node's router.
func TestKeptBodies(t *testing.T) {
	m := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if len(b) > 600 && r.Header.Get("Fly-Replay-Src") == "" && r.URL.Path == "/replay" {
			w.Header().Set("Fly-Replay", "instance=m1")
			return
		}
		fmt.Fprintf(w, "%x", sha256.Sum256(b))
	}))
	b := hostNode(t, Config{Region: "syd"}, webTable(m))
	for name, table := range map[string]Table{"here": webTable(m), "there": webTable(on(b, "b", "syd", m))} {
		e := startEdge(t, Config{Region: "fra", KeptBodies: 1000}, table)
		left := func() int64 { return e.keepable.left.Load() }
		eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
			first := stall(c, base)
			waitFor(t, name+": the first is kept", func() bool { return left() == 400 })
			second := stall(c, base)
			for _, finish := range []func() (int, string){second, first} {
				if status, got := finish(); status != 200 || got != fmt.Sprintf("%x", sha256.Sum256(pattern[:600])) {
					t.Errorf("%s: %d %s", name, status, got)
				}
			}
			waitFor(t, name+": nothing is kept", func() bool { return left() == 1000 })
			for _, chunked := range []bool{false, true} {
				var in io.Reader = bytes.NewReader(pattern)
				if chunked {
					in = struct{ io.Reader }{in}
				}
				res, err := c.Post(base+"/replay", "", in)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != 502 || !strings.Contains(string(got), "is kept already") {
					t.Errorf("%s: a body that is not kept is replayed: %d %s", name, res.StatusCode, got)
				}
			}
			waitFor(t, name+": nothing is kept", func() bool { return left() == 1000 })
		})
	}
}

func TestIdleTimeoutOfAPort(t *testing.T) {
	table := webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/part" {
			fmt.Fprint(w, "part")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})))
	ports := slices.Clone(webPorts)
	for i := range ports {
		ports[i].IdleTimeout = 100 * time.Millisecond
	}
	table.Apps[0].Services[0].Ports = ports
	e := startEdge(t, Config{}, table)
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		if res, body := get(t, c, base); res.StatusCode != 504 || !strings.Contains(body, "in time") {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		res, err := c.Get(base + "/part")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if b, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("a stream that fell silent ends well with %q", b)
		}
	})
}

func TestForceAndPrefer(t *testing.T) {
	named := func(name string) Machine {
		return machine(name, origin(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, name) }))
	}
	e := startEdge(t, Config{}, webTable(named("m1"), named("m2"), named("m3")))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		ask := func(header, id string) (int, string) {
			req, _ := http.NewRequest("GET", base, nil)
			req.Header.Set(header, id)
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			b, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(b)
		}
		for range 5 {
			if _, who := ask("Fly-Force-Instance-Id", "m2"); who != "m2" {
				t.Errorf("forced m2, got %q", who)
			}
			if _, who := ask("Fly-Prefer-Instance-Id", "m3"); who != "m3" {
				t.Errorf("preferred m3, got %q", who)
			}
		}
		if code, why := ask("Fly-Force-Instance-Id", "m9"); code != 503 || !strings.Contains(why, "m9") {
			t.Errorf("forced m9: %d %q", code, why)
		}
		if code, _ := ask("Fly-Prefer-Instance-Id", "m9"); code != 200 {
			t.Errorf("preferred m9: %d", code)
		}
	})
}
