//go:build linux

package fabric

// item is a packet on its way.
type item struct {
	at    int64
	seq   uint64
	frame []byte
	to    *Port
}

func (a *item) before(b *item) bool { return a.at < b.at || (a.at == b.at && a.seq < b.seq) }

// heap orders packets by when they are due, then by when they came. It is
// written out because container/heap would allocate for every packet.
type heap struct {
	items []item
	seq   uint64
}

func (h *heap) push(i item) {
	h.seq++
	i.seq = h.seq
	h.items = append(h.items, i)
	s := h.items
	for c := len(s) - 1; c > 0; {
		p := (c - 1) / 2
		if !s[c].before(&s[p]) {
			return
		}
		s[c], s[p] = s[p], s[c]
		c = p
	}
}

func (h *heap) pop() item {
	s := h.items
	top, last := s[0], len(s)-1
	s[0], s[last] = s[last], item{}
	s = s[:last]
	h.items = s
	for p := 0; ; {
		c := 2*p + 1
		if c >= len(s) {
			return top
		}
		if c+1 < len(s) && s[c+1].before(&s[c]) {
			c++
		}
		if !s[c].before(&s[p]) {
			return top
		}
		s[c], s[p] = s[p], s[c]
		p = c
	}
}
