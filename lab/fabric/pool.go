//go:build linux

package fabric

const (
	smallSize = 2 << 10
	bigSize   = 66 << 10 // a whole burst of TCP with its header
)

// pool keeps buffers of two sizes for the engine's thread, so that a busy
// network makes no garbage and an idle one keeps little.
type pool struct{ smalls, bigs [][]byte }

const (
	keepSmall = 1024
	keepBig   = 128
)

func (p *pool) big() []byte { return take(&p.bigs, bigSize) }

// fit moves what was read into a buffer of its size.
func (p *pool) fit(buf []byte, n int) []byte {
	if n > smallSize {
		return buf[:n]
	}
	s := take(&p.smalls, smallSize)[:n]
	copy(s, buf[:n])
	p.put(buf)
	return s
}

func (p *pool) put(b []byte) {
	switch {
	case cap(b) == bigSize && len(p.bigs) < keepBig:
		p.bigs = append(p.bigs, b[:bigSize])
	case cap(b) == smallSize && len(p.smalls) < keepSmall:
		p.smalls = append(p.smalls, b[:smallSize])
	}
}

func take(from *[][]byte, size int) []byte {
	if n := len(*from); n > 0 {
		b := (*from)[n-1]
		*from = (*from)[:n-1]
		return b
	}
	return make([]byte, size)
}
