package router

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestMachineThatVanishes has a machine end without a word, its network with it: a visitor in the middle of an answer
// must be told, not left waiting.
func TestMachineThatVanishes(t *testing.T) {
	at := rawOrigin(t, func(c net.Conn) {
		b := make([]byte, 4096)
		for { // never an answer, and no end until the other side makes one
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	})
	m := machine("m", at)
	e := startEdge(t, Config{}, webTable(m))
	eachWay(t, e, func(t *testing.T, c *http.Client, base string) {
		if err := e.SetTable(webTable(m)); err != nil {
			t.Fatal(err)
		}
		gone := m
		gone.State = StateStopped
		time.AfterFunc(300*time.Millisecond, func() { _ = e.SetTable(webTable(gone)) })
		began := time.Now()
		c.Timeout = 8 * time.Second
		res, err := c.Post(base+"/", "text/plain", strings.NewReader("not to be sent twice"))
		if err != nil {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusBadGateway && res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("answered %d", res.StatusCode)
		}
	})
}

// TestStaleTableCutsNobody has tables go on saying that a machine is suspended while it answers, woken, for long.
func TestStaleTableCutsNobody(t *testing.T) {
	s := newSleeper(t, "m1")
	s.serve = func(w http.ResponseWriter, r *http.Request) { time.Sleep(4 * severDelay) }
	e := startEdge(t, Config{Waker: s}, s.table(StateSuspended, "m1"))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(severDelay / 5):
				_ = e.SetTable(s.table(StateSuspended, "m1"))
			}
		}
	}()
	if res, _ := get(t, e.client(false), "http://app.test"); res.StatusCode != http.StatusOK {
		t.Errorf("answered %d", res.StatusCode)
	}
	close(stop)
	<-done
}
