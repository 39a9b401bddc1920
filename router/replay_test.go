package router

import (
	"bufio"
	"bytes"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/router/http1"
)

// replaying is a machine that answers "id src failed body-length", or with a replay if the path says so.
func replaying(t *testing.T, id string) Machine {
	return machine(id, origin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		q := r.URL.Query()
		if only := q.Get("by"); q.Get("json") != "" && (only == "" || only == id) {
			w.Header().Set("Content-Type", "application/vnd.fly.replay+json; charset=utf-8")
			io.WriteString(w, q.Get("json"))
			return
		} else if q.Get("replay") != "" && (only == "" || only == id) {
			w.Header().Set("fly-replay", q.Get("replay"))
			w.WriteHeader(409)
			io.WriteString(w, "not for the visitor")
			return
		}
		fmt.Fprintf(w, "%s src=%q failed=%q %d", id, r.Header.Get("Fly-Replay-Src"), r.Header.Get("Fly-Replay-Failed"), len(b))
	}))
}

// replayWorld is an edge in iad with a machine of its own, one in fra and one in syd of app, and one of another app on a
// third node, of the same organization; and an app of a stranger's.
func replayWorld(t *testing.T) *edge {
	m1, m2, m3, o1, x1 := replaying(t, "m1"), replaying(t, "m2"), replaying(t, "m3"), replaying(t, "o1"), replaying(t, "x1")
	all := func(f, s, o, x Machine, here ...Machine) Table {
		tb := webTable(append(here, f, s)...)
		tb.Apps[0].Org = "us"
		other, stranger := webTable(o).Apps[0], webTable(x).Apps[0]
		other.Name, other.Org, other.Hosts = "other", "us", []string{"other.test"}
		stranger.Name, stranger.Org, stranger.Hosts = "stranger", "them", []string{"stranger.test"}
		tb.Apps = append(tb.Apps, other, stranger)
		return tb
	}
	b := hostNode(t, Config{Region: "fra"}, webTable(m2))
	c := hostNode(t, Config{Region: "syd"}, all(m3, machine("mx", m1.addr()), o1, x1))
	m1.Region = "iad"
	a := startEdge(t, Config{Region: "iad"}, all(on(b, "b", "fra", m2), on(c, "c", "syd", m3), on(c, "c", "syd", o1), on(c, "c", "syd", x1), m1))
	a.SetDistances(map[string]Distance{"b": far(90 * time.Millisecond), "c": far(200 * time.Millisecond)})
	return a
}

func (m Machine) addr() netip.AddrPort { return netip.AddrPortFrom(m.Addr, uint16(m.Port)) }

func TestReplay(t *testing.T) {
	a := replayWorld(t)
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		for _, tt := range []struct {
			query, want string
			status      int
		}{
			{"replay=region=fra%3Bstate=x y&by=m1", `m2 src="instance=m1;region=iad;t=`, 200},
			{"replay=region=fra%3Bstate=x y&by=m1", `;state=x y" failed="" `, 200},
			{"replay=region=gru,syd&by=m1", "m3 ", 200},
			{"replay=region=gru,any&by=m1", "loop", 502}, // it comes back to m1 each time
			{"replay=region=eu&by=m1", "m2 ", 200},
			{"replay=instance=m3&by=m1", "m3 ", 200},
			{"replay=prefer_instance=m3&by=m1", "m3 ", 200},
			{"replay=elsewhere=true&by=m1", "m2 ", 200},
			{"replay=app=other", "loop", 502},
			{"replay=app=other&by=m1", "o1 ", 200},
			{"replay=app=stranger&by=m1", "not of the same organization", 502},
			{"replay=app=nobody&by=m1", "not of the same organization", 502},
			{"replay=elsewhere=true", "loop", 502},
			{"replay=instance=m9&by=m1", `app "app" has no machine "m9" that takes requests`, 503},
			{"replay=region=zzz&by=m1", `app "app" has no machine in region "zzz" that takes requests`, 503},
			{"replay=nonsense&by=m1", "cannot read fly-replay", 502},
			{"json={\"region\":\"syd\",\"state\":\"s\"}&by=m1", `m3 src="instance=m1;region=iad;t=`, 200},
			{"json={\"region\":[\"syd\"],\"elsewhere\":true}&by=m1", "m3 ", 200},
			{"json={\"instance\":\"m2\"}&by=m1", "m2 ", 200},
			{"json={&by=m1", "cannot read the replay", 502},
		} {
			for _, size := range []int{0, 10, 300_000} {
				var in io.Reader
				if size > 0 {
					in = struct{ io.Reader }{bytes.NewReader(make([]byte, size))}
				}
				req, _ := http.NewRequest("POST", base+"/?"+strings.ReplaceAll(tt.query, " ", "%20"), in)
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(tt.query, err)
				}
				got, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if res.StatusCode != tt.status || !strings.Contains(html.UnescapeString(string(got)), tt.want) ||
					res.StatusCode == 200 && !strings.HasSuffix(string(got), fmt.Sprint(" ", size)) || res.Header.Get("Fly-Replay") != "" {
					t.Errorf("%s with %d: %d %s", tt.query, size, res.StatusCode, got)
				}
			}
		}
	})
}

// TestReplayBodyToTheEnd has an app whose answer says no length: its body ends with the connection.
func TestReplayBodyToTheEnd(t *testing.T) {
	for _, tt := range []struct {
		pad, status int
		cut         bool
		want        string
	}{
		{0, 200, false, "m2 "},
		{maxReplayJSON, 502, false, "longer than 16384 bytes"},
		{0, 502, true, "not whole"},
	} {
		m1 := machine("m1", rawOrigin(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n\r\n", http1.ReplayType)
			time.Sleep(20 * time.Millisecond)
			fmt.Fprintf(c, "{\"region\":\"fra\"%s}", strings.Repeat(" ", tt.pad))
			if tt.cut {
				time.Sleep(100 * time.Millisecond) // the bytes are read before the reset
				reset(c)
			}
		}))
		m2 := replaying(t, "m2")
		m1.Region, m2.Region = "iad", "fra"
		m2.Healthy = false // the first try is m1's
		a := startEdge(t, Config{Region: "iad"}, webTable(m1, m2))
		eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
			if res, got := get(t, client, base+"/"); res.StatusCode != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("%+v: %d %s", tt, res.StatusCode, got)
			}
		})
	}
}

func TestReplayLimits(t *testing.T) {
	a := replayWorld(t)
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		res, err := client.Post(base+"/?replay=region=fra&by=m1", "", bytes.NewReader(make([]byte, maxReplayBody+1)))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 502 || !strings.Contains(string(got), "longer than") {
			t.Errorf("too long a body: %d %s", res.StatusCode, got)
		}
		res, got2 := get(t, client, base+"/?replay=instance=m9;timeout=100ms;fallback=force_self&by=m1x")
		if res.StatusCode != 200 || !strings.HasPrefix(got2, "m1 ") {
			t.Errorf("%d %s", res.StatusCode, got2)
		}
	})
}

// TestReplayFallsBack has a target that nobody serves: the request comes back to the machine that asked.
func TestReplayFallsBack(t *testing.T) {
	m1 := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		if failed := r.Header.Get("Fly-Replay-Failed"); failed != "" {
			fmt.Fprint(w, "back ", failed)
			return
		}
		w.Header().Set("fly-replay", "instance=m9;fallback="+r.URL.Path[1:])
	}))
	a := startEdge(t, Config{}, webTable(m1))
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		for _, how := range []string{"force_self", "prefer_self"} {
			if res, got := get(t, client, base+"/"+how); got != "back status=503" {
				t.Errorf("%s: %d %s", how, res.StatusCode, got)
			}
		}
	})
}

func TestSticky(t *testing.T) {
	key := []byte("the same on all nodes")
	sticky := func(ms ...Machine) Table {
		x := webTable(ms...)
		x.Apps[0].Services[0].Ports = []Port{{Start: 80, Handlers: []string{HandlerHTTP}, Sticky: true}, {Start: 443, Handlers: []string{HandlerTLS, HandlerHTTP}, Sticky: true}}
		return x
	}
	m1, m2, m3 := naming(t, "m1"), naming(t, "m2"), naming(t, "m3")
	b := hostNode(t, Config{}, webTable(m3))
	table := sticky(m1, m2, on(b, "b", "", m3))
	a, other := startEdge(t, Config{StickyKey: key}, table), startEdge(t, Config{StickyKey: key}, table)
	stranger := startEdge(t, Config{}, table)
	cookie := func(res *http.Response) string {
		for _, c := range res.Cookies() {
			if c.Name == stickyCookie {
				return c.Value
			}
		}
		return ""
	}
	ask := func(client *http.Client, base, value string) (*http.Response, string) {
		req, _ := http.NewRequest("GET", base, nil)
		req.Header.Set("Fly-Prefer-Region", "nowhere")
		if value != "" {
			req.Header.Set("Cookie", "a=b; "+stickyCookie+"="+value+"; c=d")
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		return res, string(got)
	}
	eachWay(t, a, func(t *testing.T, client *http.Client, base string) {
		seen := map[string]string{}
		// One that was slow once is asked less for a while.
		for end, n := time.Now().Add(5*time.Second), 0; n < 30 || len(seen) < 2 && time.Now().Before(end); n++ {
			res, got := ask(client, base, "")
			if seen[got] = cookie(res); seen[got] == "" || strings.Contains(seen[got], got) {
				t.Fatalf("%s: cookie %q", got, res.Header["Set-Cookie"])
			}
		}
		if len(seen) < 2 {
			t.Fatalf("only %v answered", seen)
		}
		for id, value := range seen {
			for range 5 {
				if res, got := ask(client, base, value); got != id || cookie(res) != "" {
					t.Errorf("cookie of %s led to %s, set again: %q", id, got, cookie(res))
				}
				if res, got := ask(other.client(false), "http://app.test", value); got != id {
					t.Errorf("another edge took the cookie of %s to %s (%d)", id, got, res.StatusCode)
				}
			}
			if res, _ := ask(stranger.client(false), "http://app.test", value); cookie(res) == "" {
				t.Error("a cookie with another key was taken")
			}
		}
		if res, _ := ask(client, base, "m2"); cookie(res) == "" {
			t.Error("a machine's name was taken for a cookie")
		}
	})
}

func FuzzReplay(f *testing.F) {
	f.Add("region=iad,fra;state=x;timeout=5s;fallback=force_self")
	f.Add(`{"region":["iad"],"instance":"x","elsewhere":true,"timeout":"1s"}`)
	f.Add("app=other;elsewhere=true")
	f.Fuzz(func(t *testing.T, v string) {
		for _, parse := range []func() (*replay, error){func() (*replay, error) { return parseReplay(v) }, func() (*replay, error) { return parseReplayJSON([]byte(v)) }} {
			rp, err := parse()
			if err != nil {
				continue
			}
			if src := rp.source("iad", time.Now()); strings.ContainsAny(src, "\r\n\x00") {
				t.Errorf("%q makes %q", v, src)
			}
		}
	})
}

func FuzzOrder(f *testing.F) {
	f.Add([]byte("d8912 8080 443 -ia"))
	f.Add([]byte("full 3"))
	f.Fuzz(func(t *testing.T, v []byte) {
		if o, ok := parseOrder(v); ok {
			line := o.append(nil)
			again, ok := parseOrder(line[len("Perigee-Route: ") : len(line)-2])
			if !ok || !bytes.Equal(again.machine, o.machine) || again.port != o.port || again.public != o.public || again.flags != o.flags {
				t.Errorf("%q became %+v, then %+v", v, o, again)
			}
		}
		if code, n, ok := parseReport(v); ok && (code == "" || n < 0) {
			t.Errorf("%q: %q %d", v, code, n)
		}
	})
}
