package fleet_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/logs"
)

// say puts a line into the node's own log.
func (n *node) say(t testing.TB, machine, text string) {
	t.Helper()
	err := n.log.Append(t.Context(), logs.Line{Time: time.Now(), App: "shop", Region: "fra", Machine: machine, Source: "app", Text: text})
	if err != nil {
		t.Fatal(err)
	}
}

// heard collects what a reader is told.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) add(l api.LogLine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, l.Text)
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.lines)
}

func (h *heard) has(part string) bool {
	return slices.ContainsFunc(h.all(), func(s string) bool { return strings.Contains(s, part) })
}

func read(ctx context.Context, t *testing.T, n *node, q api.LogQuery) *heard {
	t.Helper()
	h := &heard{}
	for l, err := range n.Logs(ctx, "shop", q) {
		if err != nil {
			t.Fatal(err)
		}
		h.add(l)
	}
	return h
}

// follow reads in the background until the test ends.
func follow(t *testing.T, n *node, q api.LogQuery) *heard {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h, done := &heard{}, make(chan struct{})
	q.Follow = true
	go func() {
		defer close(done)
		for l, err := range n.Logs(ctx, "shop", q) {
			if err != nil {
				return
			}
			h.add(l)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

func TestLinesOfAllNodes(t *testing.T) {
	c := newCloud(t, "n1", "n2", "n3")
	c.app(t, "shop")
	n1 := c.nodes[0]
	for i := range 12 {
		c.nodes[i%3].say(t, fmt.Sprint("m", i%3), fmt.Sprint("line ", i))
		time.Sleep(time.Millisecond)
	}
	want := []string{"line 7", "line 8", "line 9", "line 10", "line 11"}
	for _, n := range c.nodes {
		if got := read(t.Context(), t, n, api.LogQuery{Lines: 5}).all(); !slices.Equal(got, want) {
			t.Errorf("%s gives %q", n.name, got)
		}
	}
	if got := read(t.Context(), t, n1, api.LogQuery{Machine: "m1"}).all(); !slices.Equal(got, []string{"line 1", "line 4", "line 7", "line 10"}) {
		t.Errorf("of one machine: %q", got)
	}
	if got := read(t.Context(), t, n1, api.LogQuery{Lines: -1}).all(); len(got) != 0 {
		t.Errorf("none were wanted: %q", got)
	}
	h := follow(t, n1, api.LogQuery{Lines: 2})
	eventually(t, "the past lines are told", func() bool { return len(h.all()) == 2 })
	for i := range 9 {
		c.nodes[i%3].say(t, fmt.Sprint("m", i%3), fmt.Sprint("new ", i))
	}
	eventually(t, "the new lines are told", func() bool { return len(h.all()) == 11 })
	if got := h.all(); !slices.Equal(got[:2], want[3:]) {
		t.Errorf("told %q", got)
	}
	if err := n1.fleet.Forget(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		if got := read(t.Context(), t, n, api.LogQuery{}).all(); len(got) != 0 {
			t.Errorf("%s still has %q", n.name, got)
		}
	}
}

// TestPastLinesAreBounded: of more than is held, the latest are given, and it is
// said.
func TestPastLinesAreBounded(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	for i := range 100 {
		c.nodes[i%2].say(t, fmt.Sprint("m", i%2), fmt.Sprint("line ", i))
	}
	n1 := c.nodes[0]
	some := must[*fleet.Lines](t)(fleet.NewLines(fleet.LinesConfig{Self: "n1", Local: tail{n1.log}, Peers: fleet.Over(n1), Nodes: n1, Patience: time.Minute, Memory: 40 * 207}))
	var got []string
	for l, err := range some.Logs(t.Context(), "shop", api.LogQuery{Since: time.Now().Add(-time.Hour)}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Text)
	}
	if n := len(got); n < 20 || n > 42 || !strings.Contains(got[0], "more than can be put in order") || got[n-1] != "line 99" {
		t.Errorf("%d lines: %q", n, got)
	}
	if all := read(t.Context(), t, n1, api.LogQuery{Since: time.Now().Add(-time.Hour)}).all(); len(all) != 100 || all[0] != "line 0" {
		t.Errorf("with room for all: %d lines: %q", len(all), all)
	}
}

// A node that goes away is a line that says so, and not the end; what it said
// meanwhile is told when it is back, once.
func TestLinesSurviveANode(t *testing.T) {
	for _, how := range []string{"refused", "silent"} {
		t.Run(how, func(t *testing.T) {
			c := newCloud(t, "n1", "n2")
			c.app(t, "shop")
			n1, n2 := c.nodes[0], c.nodes[1]
			n2.say(t, "m2", "before")
			h := follow(t, n1, api.LogQuery{})
			eventually(t, "the past line is told", func() bool { return h.has("before") })
			n2.cut.set(how)
			eventually(t, "the silence is told", func() bool { return h.has(`node "n2" does not answer`) })
			n1.say(t, "m1", "meanwhile here")
			n2.say(t, "m2", "meanwhile there")
			eventually(t, "other lines go on", func() bool { return h.has("meanwhile here") })
			began := time.Now()
			past := read(t.Context(), t, n1, api.LogQuery{})
			if !past.has("meanwhile here") || !past.has(`node "n2" does not answer`) && !past.has(`node "n2" takes long`) {
				t.Errorf("past lines: %q", past.all())
			}
			if took := time.Since(began); took > 2*patience {
				t.Errorf("past lines took %s", took)
			}
			n2.cut.set("")
			eventually(t, "the line from the cut is told", func() bool { return h.has("meanwhile there") && h.has("answers again") })
			n2.say(t, "m2", "after")
			eventually(t, "new lines go on", func() bool { return h.has("after") })
			counts := map[string]int{}
			for _, l := range h.all() {
				counts[l]++
			}
			for _, l := range []string{"before", "meanwhile here", "meanwhile there", "after", `node "n2" answers again`} {
				if counts[l] != 1 {
					t.Errorf("%q was told %d times: %q", l, counts[l], h.all())
				}
			}
		})
	}
}

// An image that was pushed to one node runs on another, through that node's real
// registry over mutual TLS.
func TestImageComesFromAPeer(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	img := must[v1.Image](t)(random.Image(100_000, 1))
	ref := must[name.Reference](t)(name.ParseReference(strings.TrimPrefix(n1.peer.URL, "https://") + "/team/app:v1"))
	if err := remote.Write(ref, img, remote.WithTransport(n2.clients["n1"].Transport)); err != nil {
		t.Skipf("the kit cannot push: %v", err)
	}
	digest := must[v1.Hash](t)(img.Digest())
	c.placeOn("n2")
	want := "registry.test/team/app@" + digest.String()
	_, err := n1.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: want}, SkipLaunch: true})
	// A random image has no command: that it is found out shows that it is there.
	if _, ok := n2.images.Get(want); !ok {
		t.Errorf("the image is not on n2: %v", err)
	}
}
