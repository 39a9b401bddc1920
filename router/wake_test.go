package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sleeper is a machine room with machines that sleep: a wake starts a real server, after a delay.
type sleeper struct {
	t     *testing.T
	at    map[string]netip.AddrPort
	after time.Duration // until Wake returns
	slow  time.Duration // more, until the port answers
	serve http.HandlerFunc

	mu    sync.Mutex // guards what follows
	up    map[string]*http.Server
	wakes map[string]int
	busy  map[string]bool
	fail  map[string]error
}

func newSleeper(t *testing.T, ids ...string) *sleeper {
	s := &sleeper{t: t, at: map[string]netip.AddrPort{}, up: map[string]*http.Server{}, wakes: map[string]int{}, busy: map[string]bool{}, fail: map[string]error{}}
	s.serve = func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "awake") }
	for _, id := range ids {
		s.at[id] = freePort(t)
	}
	t.Cleanup(func() {
		for _, id := range ids {
			s.sleep(id)
		}
	})
	return s
}

func (s *sleeper) Wake(ctx context.Context, id string) (netip.Addr, error) {
	s.mu.Lock()
	s.wakes[id]++
	if s.busy[id] {
		s.t.Errorf("two wakes of %s at once", id)
	}
	s.busy[id] = true
	err, running := s.fail[id], s.up[id] != nil
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.busy[id] = false; s.mu.Unlock() }()
	if running {
		return s.at[id].Addr(), nil
	}
	if !pause(ctx, s.after) {
		return netip.Addr{}, ctx.Err()
	}
	if err == nil {
		time.AfterFunc(s.slow, func() { s.start(id) })
	}
	return s.at[id].Addr(), err
}

func (s *sleeper) start(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up[id] != nil {
		return
	}
	l, err := net.Listen("tcp", s.at[id].String())
	if err != nil {
		s.t.Error(err)
		return
	}
	s.up[id] = &http.Server{Handler: s.serve}
	go s.up[id].Serve(l)
}

func (s *sleeper) sleep(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up[id] != nil {
		s.up[id].Close()
		delete(s.up, id)
	}
}

func (s *sleeper) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wakes[id]
}

// table has the machines in one state; those that sleep have no address.
func (s *sleeper) table(state string, ids ...string) Table {
	var ms []Machine
	for _, id := range ids {
		m := machine(id, s.at[id])
		if m.State = state; state != StateStarted {
			m.Addr = netip.Addr{}
		}
		ms = append(ms, m)
	}
	t := webTable(ms...)
	t.Apps[0].Services[0].AutoStart = true
	return t
}

// many sends n requests at once and returns how often each status came.
func many(t *testing.T, c *http.Client, n int, url string) map[int]int {
	t.Helper()
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			res, err := c.Get(url)
			status := 0
			if err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				status = res.StatusCode
			} else {
				t.Log(err)
			}
			mu.Lock()
			got[status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	return got
}

func TestWake(t *testing.T) {
	for _, state := range []string{StatePaused, StateSuspended, StateStopped, StateStarting, StateSuspending} {
		t.Run(state, func(t *testing.T) {
			s := newSleeper(t, "m1")
			s.after, s.slow = 30*time.Millisecond, 30*time.Millisecond
			e := startEdge(t, Config{Waker: s}, s.table(state, "m1"))
			if got := many(t, e.client(false), 30, "http://app.test"); got[200] != 30 {
				t.Errorf("answers: %v", got)
			}
			if n := s.count("m1"); n != 1 {
				t.Errorf("%d wakes", n)
			}
			if got := many(t, e.client(true), 5, "https://app.test"); got[200] != 5 || s.count("m1") != 1 { // the table still says that it sleeps
				t.Errorf("afterwards: %v, %d wakes", got, s.count("m1"))
			}
			if st := e.Snapshot()["app"]; st.Wakes != 1 || st.Woken == 0 || st.WokenMax < 60*time.Millisecond || st.WokenTime < st.WokenMax {
				t.Errorf("counted %+v", st)
			}
		})
	}
}

// TestWakeAfterTable checks that tables which lag behind cost a call of the waker at most.
func TestWakeAfterTable(t *testing.T) {
	s := newSleeper(t, "m1")
	e := startEdge(t, Config{Waker: s}, s.table(StateSuspended, "m1"))
	c := e.client(false)
	for _, state := range []string{StateSuspended, StateSuspended, StateStarted, StateStarted} {
		if err := e.SetTable(s.table(state, "m1")); err != nil {
			t.Fatal(err)
		}
		if got := many(t, c, 3, "http://app.test"); got[200] != 3 {
			t.Errorf("%s: %v", state, got)
		}
	}
	s.sleep("m1") // and nobody tells the router
	if got := many(t, c, 10, "http://app.test"); got[200] != 10 {
		t.Errorf("asleep though the table says started: %v", got)
	}
}

func TestWakeFails(t *testing.T) {
	s := newSleeper(t, "m1", "m2")
	s.fail["m1"] = errors.New("its disk is gone")
	e := startEdge(t, Config{Waker: s}, s.table(StateSuspended, "m1", "m2"))
	if got := many(t, e.client(false), 10, "http://app.test"); got[200] != 10 {
		t.Errorf("with a second machine: %v", got)
	}
	s.sleep("m2")
	s.fail["m2"] = errors.New("its memory is gone")
	if err := e.SetTable(s.table(StateSuspended, "m1")); err != nil {
		t.Fatal(err)
	}
	for _, h2 := range []bool{false, true} {
		res, body := get(t, e.client(h2), "https://app.test")
		if res.StatusCode != 503 || !strings.Contains(body, "its disk is gone") || res.Header.Get("Retry-After") == "" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
	}
	if n := e.Snapshot()["app"].WakeErrors; n == 0 {
		t.Error("no failed wakes counted")
	}
	if n, _ := e.Activity("m1"); n != 0 {
		t.Errorf("%d in flight to a machine that never woke", n)
	}
}

// TestWakeNeverListens has a machine that wakes, and whose port stays closed; then one that dies while it is dialed.
func TestWakeNeverListens(t *testing.T) {
	s := newSleeper(t, "m1")
	s.slow = time.Hour
	e := startEdge(t, Config{Waker: s, WakeTimeout: 300 * time.Millisecond}, s.table(StateStopped, "m1"))
	res, body := get(t, e.client(false), "http://app.test")
	if res.StatusCode != 503 || !strings.Contains(body, "did not answer within") {
		t.Errorf("%d %q", res.StatusCode, body)
	}

	s2 := newSleeper(t, "m1")
	s2.slow = time.Hour
	e2 := startEdge(t, Config{Waker: s2}, s2.table(StateStopped, "m1"))
	time.AfterFunc(100*time.Millisecond, func() {
		s2.mu.Lock()
		s2.fail["m1"] = errors.New("exit code 1")
		s2.mu.Unlock()
	})
	res, body = get(t, e2.client(false), "http://app.test")
	if res.StatusCode != 503 || !strings.Contains(body, "exit code 1") {
		t.Errorf("%d %q", res.StatusCode, body)
	}
}

// TestClientLeavesDuringWake checks that a wake goes on without its client, and that nothing stays counted.
func TestClientLeavesDuringWake(t *testing.T) {
	s := newSleeper(t, "m1")
	s.after = 200 * time.Millisecond
	e := startEdge(t, Config{Waker: s}, s.table(StateSuspended, "m1"))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		s.sleep("m1")
		if err := e.SetTable(s.table(StateSuspended, "m1")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", base, nil)
		if res, err := c.Do(req); err == nil {
			res.Body.Close()
			t.Error("answered in time")
		}
		waitFor(t, "nothing in flight", func() bool { n, _ := e.Activity("m1"); return n == 0 })
		waitFor(t, "the machine to be up", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.up["m1"] != nil })
	})
}

// TestSoftLimit checks that load wakes another machine, without a request waiting for it.
func TestSoftLimit(t *testing.T) {
	s := newSleeper(t, "m2")
	s.after = 50 * time.Millisecond
	release := make(chan struct{})
	m1 := origin(t, func(w http.ResponseWriter, r *http.Request) { <-release; fmt.Fprint(w, "m1") })
	table := s.table(StateSuspended, "m2")
	svc := &table.Apps[0].Services[0]
	svc.Machines = append(svc.Machines, machine("m1", m1))
	svc.Concurrency = Concurrency{Type: "requests", Soft: 2}
	e := startEdge(t, Config{Waker: s}, table)
	done := make(chan map[int]int, 1)
	c := e.client(false)
	go func() { done <- many(t, c, 3, "http://app.test") }()
	waitFor(t, "m2 to wake", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.up["m2"] != nil })
	waitFor(t, "all three to be at m1", func() bool { n, _ := e.Activity("m1"); return n == 3 })
	if _, body := get(t, c, "http://app.test"); body != "awake" {
		t.Errorf("the fourth went to %q", body)
	}
	close(release)
	if got := <-done; got[200] != 3 {
		t.Errorf("%v", got)
	}
}

// TestHardLimit checks that no machine is ever given more than its limit, and that the rest wait or are told.
func TestHardLimit(t *testing.T) {
	var now, most atomic.Int32
	slow := func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(5 * time.Millisecond)
		now.Add(-1)
	}
	table := webTable(machine("m1", origin(t, slow)))
	table.Apps[0].Services[0].Concurrency.Hard = 3
	e := startEdge(t, Config{}, table)
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		if got := many(t, c, 60, base); got[200] != 60 {
			t.Errorf("%v", got)
		}
	})
	if n := most.Load(); n != 3 {
		t.Errorf("%d at once, the limit is 3", n)
	}

	release := make(chan struct{})
	block := webTable(machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) { <-release })))
	block.Apps[0].Services[0].Concurrency.Hard = 1
	e = startEdge(t, Config{QueueTimeout: 100 * time.Millisecond, QueueLength: 2}, block)
	done := make(chan map[int]int, 1)
	go func() { done <- many(t, e.client(false), 1, "http://app.test") }()
	waitFor(t, "the first", func() bool { n, _ := e.Activity("m1"); return n == 1 })
	got := many(t, e.client(true), 6, "https://app.test")
	res, body := get(t, e.client(true), "https://app.test")
	if got[503] != 6 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "limit") {
		t.Errorf("%v, %q", got, body)
	}
	close(release)
	if got := <-done; got[200] != 1 {
		t.Errorf("the first: %v", got)
	}
}

// TestQueueSeesNewMachines checks that waiting requests go to a machine that a new table brings.
func TestQueueSeesNewMachines(t *testing.T) {
	release := make(chan struct{})
	full := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) { <-release }))
	table := webTable(full)
	table.Apps[0].Services[0].Concurrency.Hard = 1
	e := startEdge(t, Config{}, table)
	done := make(chan map[int]int, 1)
	go func() { done <- many(t, e.client(false), 4, "http://app.test") }()
	waitFor(t, "one in flight and three in the queue", func() bool {
		n, _ := e.Activity("m1")
		return n == 1 && e.queues[queueKey{"app", 8080}].waiting.Load() == 3
	})
	more := webTable(full, machine("m2", origin(t, func(w http.ResponseWriter, r *http.Request) {})))
	more.Apps[0].Services[0].Concurrency.Hard = 1
	if err := e.SetTable(more); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the queue to empty", func() bool { return e.queues[queueKey{"app", 8080}].waiting.Load() == 0 })
	close(release)
	if got := <-done; got[200] != 4 {
		t.Errorf("%v", got)
	}
}

func TestQuiesce(t *testing.T) {
	s := newSleeper(t, "m1")
	s.start("m1")
	e := startEdge(t, Config{Waker: s}, s.table(StateStarted, "m1"))
	c := e.client(false)
	get(t, c, "http://app.test")
	waitFor(t, "nothing in flight", func() bool { n, last := e.Activity("m1"); return n == 0 && time.Since(last) < time.Minute })

	// Cancelled: the request waits and then goes straight through.
	h := e.quiesce("m1")
	if _, ok := e.Quiesce("m1"); ok {
		t.Error("shut twice")
	}
	done := make(chan map[int]int, 1)
	go func() { done <- many(t, c, 5, "http://app.test") }()
	<-h.Wanted()
	select {
	case got := <-done:
		t.Fatalf("answered through a shut door: %v", got)
	case <-time.After(30 * time.Millisecond):
	}
	h.Cancel()
	if got := <-done; got[200] != 5 || s.count("m1") != 0 {
		t.Errorf("%v, %d wakes", got, s.count("m1"))
	}
	h.Commit() // too late, and harmless

	// Committed: the request wakes it, though the table says that it runs.
	h = e.quiesce("m1")
	go func() { done <- many(t, c, 5, "http://app.test") }()
	<-h.Wanted()
	s.sleep("m1")
	if err := e.SetTable(s.table(StateStarted, "m1")); err != nil { // an old one
		t.Fatal(err)
	}
	h.Commit()
	if got := <-done; got[200] != 5 || s.count("m1") != 1 {
		t.Errorf("%v, %d wakes", got, s.count("m1"))
	}
}

// quiesce shuts a door as soon as the last request has left: a client has its answer a moment before that.
func (e *edge) quiesce(id string) (h *Hold) {
	e.t.Helper()
	waitFor(e.t, "the machine to be idle", func() bool { var ok bool; h, ok = e.Quiesce(id); return ok })
	return h
}

func TestQuiescePrefersOthers(t *testing.T) {
	s := newSleeper(t, "m1", "m2")
	s.start("m1")
	s.start("m2")
	e := startEdge(t, Config{Waker: s}, s.table(StateStarted, "m1", "m2"))
	h := e.quiesce("m1")
	if got := many(t, e.client(false), 20, "http://app.test"); got[200] != 20 {
		t.Errorf("%v", got)
	}
	select {
	case <-h.Wanted():
		t.Error("wanted, though another machine runs")
	default:
	}
	h.Commit()
	if h, ok := e.Quiesce("never heard of"); !ok {
		t.Error("an unknown machine is busy")
	} else {
		h.Cancel()
	}
}

// TestSleepStorm puts a machine to sleep again and again while clients want it, by the rules that Quiesce states: no
// request may fail, and none may reach it while it sleeps.
func TestSleepStorm(t *testing.T) {
	s := newSleeper(t, "m1")
	var frozen atomic.Bool
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		if frozen.Load() {
			t.Error("a request reached the machine while it slept")
		}
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, "awake")
	}
	s.start("m1")
	e := startEdge(t, Config{Waker: thawing{s, &frozen}}, s.table(StateStarted, "m1"))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var answered, failed atomic.Int32
	for i := range 4 {
		c, base := e.client(i%2 == 0), "https://app.test"
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				res, err := c.Post(base, "text/plain", strings.NewReader("x")) // nothing that may be repeated
				if err != nil || res.StatusCode != 200 {
					failed.Add(1)
					t.Log(err, res)
				}
				if err == nil {
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				answered.Add(1)
				time.Sleep(time.Duration(n%5) * time.Millisecond)
			}
		})
	}
	sleeps := 0
	for range 400 {
		h, ok := e.Quiesce("m1")
		if !ok {
			time.Sleep(time.Millisecond)
			continue
		}
		frozen.Store(true)
		sleeps++
		if sleeps%3 == 0 {
			frozen.Store(false)
			h.Cancel()
		} else {
			h.Commit()
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	if failed.Load() > 0 || sleeps == 0 {
		t.Errorf("%d of %d requests failed, %d sleeps", failed.Load(), answered.Load(), sleeps)
	}
}

// thawing is a waker whose machine sleeps by a flag.
type thawing struct {
	*sleeper
	frozen *atomic.Bool
}

func (w thawing) Wake(ctx context.Context, id string) (netip.Addr, error) {
	w.frozen.Store(false)
	return w.at[id].Addr(), nil
}

// TestSilentMachine has a machine that the table takes for a running one, and that swallows every attempt to connect.
func TestSilentMachine(t *testing.T) {
	s := newSleeper(t, "m1")
	var woken atomic.Bool
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if !woken.Load() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	e := startEdge(t, Config{Waker: wakerFunc(func(ctx context.Context, id string) (netip.Addr, error) {
		woken.Store(true)
		return s.Wake(ctx, id)
	}), Dial: dial}, s.table(StateStarted, "m1"))
	start := time.Now()
	if res, body := get(t, e.client(false), "http://app.test"); res.StatusCode != 200 || time.Since(start) > 5*time.Second {
		t.Errorf("%d %q after %v", res.StatusCode, body, time.Since(start))
	}
}

type wakerFunc func(context.Context, string) (netip.Addr, error)

func (f wakerFunc) Wake(ctx context.Context, id string) (netip.Addr, error) { return f(ctx, id) }
