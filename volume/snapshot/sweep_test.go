package snapshot

import (
	"slices"
	"strings"
	"testing"
)

func TestChunkOf(t *testing.T) {
	id := chunkID{1, 2, 3, 31: 4}
	if got, ok := chunkOf(chunkName("vol_1", id)); !ok || got != id {
		t.Errorf("%x, %v", got, ok)
	}
	for _, name := range []string{"", "x", "chunks/vol_1/ab/short", "chunks/vol_1/" + strings.Repeat("z", 64), strings.Repeat("a", 65) + "/"} {
		if id, ok := chunkOf(name); ok {
			t.Errorf("%q is chunk %x", name, id)
		}
	}
}

// TestShorts: who begins like one that is needed stays, all others go.
func TestShorts(t *testing.T) {
	all := shorts{short(chunkID{9}), short(chunkID{1}), short(chunkID{5})}
	slices.Sort(all)
	for id, want := range map[chunkID]bool{{1}: true, {5}: true, {9}: true, {5, 31: 1}: true, {5, 7: 1}: false, {2}: false, {}: false} {
		if all.has(id) != want {
			t.Errorf("%x: %v", id, !want)
		}
	}
}
