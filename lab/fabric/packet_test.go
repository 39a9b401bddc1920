//go:build linux

package fabric

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// FuzzEndpoints feeds the parser what any host may send.
func FuzzEndpoints(f *testing.F) {
	v4 := make([]byte, 20)
	v4[0] = 0x45
	v6 := make([]byte, 40)
	v6[0] = 0x60
	f.Add(v4)
	f.Add(v6)
	f.Add([]byte{})
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		src, dst, ok := endpoints(b)
		if ok != src.IsValid() || ok != dst.IsValid() {
			t.Errorf("%v: %s to %s", ok, src, dst)
		}
		v := &view{ports: map[netip.Addr]*Port{}, anycast: []table{{best: map[netip.Prefix]*Port{}}}}
		if ok && v.find(0, dst) != nil {
			t.Error("found a host in an empty network")
		}
	})
}

func TestHeapIsInOrder(t *testing.T) {
	var h heap
	for i := range 2000 {
		h.push(item{at: rand.Int64N(50), frame: []byte{byte(i)}})
	}
	last := item{at: -1}
	for len(h.items) > 0 {
		i := h.pop()
		if i.before(&last) {
			t.Fatalf("%d/%d after %d/%d", i.at, i.seq, last.at, last.seq)
		}
		last = i
	}
}

func TestRules(t *testing.T) {
	r := newRules()
	iad, fra, syd := place{"a", "iad"}, place{"b", "fra"}, place{"c", "syd"}
	r.delay[pair{"iad", "fra"}], r.delay[pair{"a", "fra"}] = time.Second, time.Minute
	if d := r.path(iad, fra).delay; d != time.Minute {
		t.Errorf("the more exact rule does not win: %s", d)
	}
	r.loss[pair{World, "fra"}], r.loss[pair{"syd", "fra"}] = 0.5, 0.1
	if l := r.path(syd, fra).loss; l != 0.1 {
		t.Errorf("loss %v, want that of the cities", l)
	}
	if l := r.path(iad, fra).loss; l != 0.5 {
		t.Errorf("loss %v, want that from the world", l)
	}
	if r.path(place{"d", "fra"}, fra).loss != 0 {
		t.Error("what stays in the city met the world")
	}
	r.cuts[pair{"fra", World}] = true
	if !r.path(fra, iad).cut || r.path(iad, fra).cut || r.path(fra, place{"d", "fra"}).cut {
		t.Error("a one-way cut is wrong")
	}
}

func TestTableTakesTheLongestPrefix(t *testing.T) {
	tb := table{best: map[netip.Prefix]*Port{}}
	wide, narrow := &Port{Name: "wide"}, &Port{Name: "narrow"}
	tb.add(netip.MustParsePrefix("192.0.2.0/24"), wide)
	tb.add(netip.MustParsePrefix("192.0.2.9/32"), narrow)
	tb.add(netip.MustParsePrefix("2001:db8:a::/48"), wide)
	v := &view{anycast: []table{tb}}
	for a, want := range map[string]*Port{"192.0.2.8": wide, "192.0.2.9": narrow, "2001:db8:a::1": wide, "2001:db8:b::1": nil, "198.51.100.1": nil} {
		if got := v.find(0, netip.MustParseAddr(a)); got != want {
			t.Errorf("%s goes to %+v", a, got)
		}
	}
	if !slices.Equal(tb.bits4, []int{32, 24}) {
		t.Error(tb.bits4)
	}
}
