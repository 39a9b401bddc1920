package router

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestDrain has requests in flight finish, on kept connections too, while another node's router is served on.
func TestDrain(t *testing.T) {
	hang := make(chan struct{})
	var began atomic.Int32
	m := machine("m1", origin(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			began.Add(1)
			<-hang
		}
		fmt.Fprint(w, "done")
	}))
	b := hostNode(t, Config{}, webTable(m))
	a := startEdge(t, Config{}, webTable(on(b, "b", "fra", m)))
	idle := b.dial(80)
	defer idle.Close()
	fmt.Fprint(idle, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	in := bufio.NewReader(idle)
	if res, err := http.ReadResponse(in, nil); err != nil || res.Close {
		t.Fatal(res, err)
	} else {
		io.Copy(io.Discard, res.Body)
	}
	var wg sync.WaitGroup
	for _, h2 := range []bool{false, true} {
		client := b.client(h2)
		wg.Go(func() {
			res, got := get(t, client, "https://app.test/slow")
			if got != "done" || !h2 && !res.Close {
				t.Errorf("h2 %v: %q, close %v", h2, got, res.Close)
			}
		})
	}
	waitFor(t, "requests", func() bool { return began.Load() == 2 })
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { done <- b.Drain(ctx) }()
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection: %v", err)
	}
	if _, got := get(t, a.client(false), "http://app.test"); got != "done" {
		t.Error(got)
	}
	select {
	case err := <-done:
		t.Errorf("drained too soon: %v", err)
	default:
	}
	close(hang)
	wg.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b.Addr(80) != nil {
		t.Error("port 80 is still open")
	}
	b.Resume()
	for _, h2 := range []bool{false, true} {
		if _, got := get(t, b.client(h2), "https://app.test"); got != "done" {
			t.Error(got)
		}
	}
}

// TestHandOver has a new router take the listeners of an old one under load: no request may fail.
func TestHandOver(t *testing.T) {
	m := naming(t, "m1")
	old := hostNode(t, Config{}, webTable(m))
	at, host := old.at(80), old.host()
	files, err := old.Files()
	if err != nil {
		t.Fatal(err)
	}
	inherited := map[string]net.Listener{}
	for port, f := range files {
		if inherited[port], err = net.FileListener(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	far := startEdge(t, Config{}, webTable(on(old, "b", "fra", m)))
	var failed, total atomic.Int32
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				to, method, client := at, "GET", &http.Client{Transport: &http.Transport{DisableKeepAlives: i%2 == 0}}
				if i == 3 { // what other routers send must not be asked twice
					to, method = far.at(80), "POST"
				}
				req, _ := http.NewRequest(method, "http://"+to, strings.NewReader("body"))
				req.Host = "app.test"
				res, err := client.Do(req)
				total.Add(1)
				if err != nil || res.StatusCode != 200 {
					failed.Add(1)
					t.Log(err, res)
				}
				if err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				client.CloseIdleConnections()
			}
		})
	}
	more := func() { // requests are answered from here on
		want := total.Load() + 20
		waitFor(t, "requests go on", func() bool { return total.Load() >= want })
	}
	more()
	next := hostNode(t, Config{Inherited: inherited}, webTable(m))
	if next.at(80) != at || next.host() != host {
		t.Errorf("it listens on %s and %s", next.at(80), next.host())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := old.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	more()
	close(stop)
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d failed", failed.Load(), total.Load())
	}
}
