package image

import (
	"sync"

	"github.com/perigee-run/perigee/image/manifest"
)

// tellEvery is how many bytes go by between two steps of progress.
const tellEvery = 1 << 20

// tracker adds up how far each layer is and tells of it, one call at a time.
type tracker struct {
	mu     sync.Mutex // guards layers and orders calls of tell
	layers []Progress
	told   []int64
	tell   func(Progress)
}

func newTracker(layers []manifest.Descriptor, tell func(Progress)) *tracker {
	t := &tracker{tell: tell, told: make([]int64, len(layers))}
	for i, d := range layers {
		p := Progress{Layer: d.Digest, Index: i, Layers: len(layers), Phase: PhaseWaiting, Total: d.Size}
		t.layers = append(t.layers, p)
		tell(p)
	}
	return t
}

// add notes n more bytes of a layer; another phase begins at zero. A download
// that is begun again does not count past the total.
func (t *tracker) add(i int, phase Phase, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.layers[i]
	if p.Phase != phase {
		p.Phase, p.Done, t.told[i] = phase, 0, -tellEvery
	}
	p.Done = min(p.Done+n, p.Total)
	if p.Done-t.told[i] >= tellEvery || p.Done == p.Total && t.told[i] != p.Total {
		t.told[i] = p.Done
		t.tell(*p)
	}
}

func (t *tracker) done(i int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &t.layers[i]
	p.Phase, p.Done = PhaseDone, p.Total
	t.tell(*p)
}
