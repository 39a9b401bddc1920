package region

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCitiesAreSorted(t *testing.T) {
	if !slices.IsSortedFunc(cities, func(a, b City) int { return strings.Compare(a.Code, b.Code) }) {
		t.Error("cities are not sorted by code, so Lookup misses some")
	}
	for _, c := range cities {
		if got, ok := Lookup(c.Code); !ok || got != c {
			t.Errorf("Lookup(%q) = %v, %v", c.Code, got, ok)
		}
	}
	if _, ok := Lookup("local"); ok {
		t.Error("found a city that is none")
	}
}

// Round trips as published by operators, in milliseconds; the estimate must be
// within a third.
func TestRTT(t *testing.T) {
	for _, c := range []struct {
		a, b string
		ms   float64
	}{
		{"iad", "fra", 92}, {"iad", "syd", 205}, {"iad", "lax", 60}, {"lhr", "fra", 14}, {"gru", "iad", 115},
		{"nrt", "lax", 100}, {"syd", "nrt", 115}, {"sin", "nrt", 70},
	} {
		a, _ := Lookup(c.a)
		b, _ := Lookup(c.b)
		got := float64(RTT(a, b)) / float64(time.Millisecond)
		if got < c.ms*0.66 || got > c.ms*1.34 {
			t.Errorf("%s to %s: %.1f ms, published %.0f ms", c.a, c.b, got, c.ms)
		}
		if RTT(a, b) != RTT(b, a) {
			t.Errorf("%s to %s is not %s to %s", c.a, c.b, c.b, c.a)
		}
	}
}
