//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/lab/control"
	"github.com/perigee-run/perigee/lab/space"
)

// served starts a lab's control socket and returns a client of it.
func served(t *testing.T, l *Lab) *control.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c := control.NewClient(l.cfg.Dir)
	for range 100 {
		if _, err := c.Status(t.Context()); err == nil {
			return c
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the lab does not answer")
	return nil
}

func TestServe(t *testing.T) {
	l := newLab(t, "iad", "fra")
	addHost(t, l, VisitorName("iad"), "iad")
	fra := addHost(t, l, "web", "fra")
	c := served(t, l)
	s, err := c.Status(t.Context())
	if err != nil || len(s.Cities) != 2 || len(s.Hosts) != 2 || s.RTT[0][1] < 50 {
		t.Fatalf("status %+v: %v", s, err)
	}
	var out strings.Builder
	cmd := exec.Command("hostname")
	cmd.Stdout = &out
	if err := space.Enter(s.Hosts[1].Pid, cmd); err != nil || out.String() != "web\n" {
		t.Errorf("entered %q: %v", out.String(), err)
	}
	for _, ch := range []control.Change{
		{Op: control.OpCut, A: "iad", B: "fra"}, {Op: control.OpMend, A: "iad", B: "fra"}, {Op: control.OpIsolate, A: "web"}, {Op: control.OpCutOneWay, A: "web", B: "iad"},
		{Op: control.OpLoss, A: "iad", B: "fra", Share: 0.5}, {Op: control.OpRTT, A: "iad", B: "fra", Delay: time.Second}, {Op: control.OpJitter, A: "iad", B: "fra", Delay: time.Second},
	} {
		if err := c.Change(t.Context(), ch); err != nil {
			t.Errorf("%+v: %v", ch, err)
		}
	}
	if s, _ := c.Status(t.Context()); len(s.Faults) != 9 {
		t.Errorf("faults %q", s.Faults)
	}
	if err := c.Change(t.Context(), control.Change{Op: control.OpHeal}); err != nil {
		t.Error(err)
	}
	if s, _ := c.Status(t.Context()); len(s.Faults) != 0 {
		t.Errorf("faults %q after healing", s.Faults)
	}
	for _, ch := range []control.Change{{Op: "frob"}, {Op: control.OpCut, A: "iad", B: "nobody"}} {
		if err := c.Change(t.Context(), ch); err == nil {
			t.Errorf("%+v was accepted", ch)
		}
	}
	testVisit(t, l, c, fra)
}

func testVisit(t *testing.T, l *Lab, c *control.Client, web *Host) {
	ln, err := web.Listen("tcp", netip.AddrPortFrom(web.Addr4, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })}
	go srv.Serve(ln)
	defer srv.Close()
	rtt := l.RTT("iad", "fra")
	v, err := c.Visit(t.Context(), control.VisitRequest{From: "iad", URL: "http://web.lab/"})
	if err != nil || v.Status != 200 || v.Bytes != 7 || v.From != VisitorName("iad") {
		t.Fatalf("visit %+v: %v", v, err)
	}
	if v.Lookup > rtt || v.Connect < rtt || v.FirstByte < 2*rtt {
		t.Errorf("visit is not of this distance, %s: %+v", rtt, v)
	}
	v, err = c.Visit(t.Context(), control.VisitRequest{From: "web", URL: "http://shop.example.com/", ConnectTo: web.Addr4.String()})
	if err != nil || v.Bytes != int64(len("shop.example.com")) {
		t.Errorf("visit %+v: %v", v, err)
	}
	for _, r := range []control.VisitRequest{{From: "syd", URL: "http://web.lab/"}, {From: "iad", URL: ":"}, {From: "iad", URL: "http://nobody.lab/"}, {From: "iad", URL: "http://web.lab:81/"}, {From: "iad", URL: "http://web.lab/", CA: "x"}} {
		if _, err := c.Visit(t.Context(), r); err == nil {
			t.Errorf("%+v succeeded", r)
		}
	}
}

func TestDown(t *testing.T) {
	l := newLab(t, "iad")
	c := control.NewClient(l.cfg.Dir)
	if err := c.Down(t.Context()); !errors.Is(err, control.ErrNoLab) {
		t.Errorf("want no lab, got %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Serve(t.Context()) }()
	for range 100 {
		if err := c.Down(t.Context()); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the lab did not end")
	}
	if _, err := os.Stat(l.path(control.Socket)); err == nil {
		t.Error("the socket is left")
	}
}
