package node

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"
)

func TestImageKeepers(t *testing.T) {
	able := []string{"n1", "n2", "n3", "n4"}
	for _, c := range []struct {
		name    string
		able    []string
		holders []string
		want    []string // among the keepers
		n       int
	}{
		{"nobody has it", able, nil, nil, 2},
		{"one has it", able, []string{"n3"}, []string{"n3"}, 2},
		{"enough have it", able, []string{"n1", "n4"}, []string{"n1", "n4"}, 2},
		{"who has it is down", able, []string{"n9"}, nil, 2},
		{"there is one node", able[:1], nil, []string{"n1"}, 1},
		{"there is none", nil, []string{"n1"}, nil, 0},
	} {
		holders := map[string]bool{}
		for _, h := range c.holders {
			holders[h] = true
		}
		got := imageKeepers(c.able, "shop@sha256:1", holders)
		backwards := slices.Clone(c.able)
		slices.Reverse(backwards)
		if again := imageKeepers(backwards, "shop@sha256:1", holders); len(got) != c.n || !slices.Equal(got, again) {
			t.Errorf("%s: %v, and %v on a node that knows them in another order", c.name, got, again)
		}
		for _, w := range c.want {
			if !slices.Contains(got, w) {
				t.Errorf("%s: %v without %s", c.name, got, w)
			}
		}
	}
	h := fnv.New64a()
	fmt.Fprint(h, "a\nb")
	if fnv1a(fnv1a(fnv1a(fnvBasis, "a"), "\n"), "b") != h.Sum64() {
		t.Error("fnv1a is something else")
	}
}

// BenchmarkImageKeepers is one image among a thousand nodes.
func BenchmarkImageKeepers(b *testing.B) {
	var able []string
	for i := range 1000 {
		able = append(able, fmt.Sprint("n", i))
	}
	for b.Loop() {
		imageKeepers(able, "registry.example.com/shop/web@sha256:0123456789abcdef", map[string]bool{"n7": true})
	}
}
