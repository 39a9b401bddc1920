package zone

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// limiter counts the UDP answers to each network of clients. It has a fixed
// number of buckets that networks share by chance, so that forged addresses
// cannot make it grow.
type limiter struct {
	rate float64 // answers a second, and the burst
	now  func() time.Time
	seed maphash.Seed

	buckets [4096]bucket
}

type bucket struct {
	mu    sync.Mutex // guards what follows
	spent float64    // answers in the last moments, shrinking by rate
	at    time.Time
	over  uint64 // questions beyond the limit
}

// verdict is what becomes of a question.
type verdict int

const (
	answerIt verdict = iota
	byTCP            // answered with the truncation bit alone
	silence
)

func newLimiter(rate int) *limiter {
	return &limiter{rate: float64(rate), now: time.Now, seed: maphash.MakeSeed()}
}

func (l *limiter) judge(from netip.Addr) verdict {
	b := &l.buckets[maphash.Comparable(l.seed, network(from))%uint64(len(l.buckets))]
	now := l.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spent = max(0, b.spent-now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.spent+1 <= l.rate {
		b.spent++
		return answerIt
	}
	b.over++
	if b.over%2 == 1 {
		return byTCP
	}
	return silence
}

// network is what is counted together: who can forge one address of it can
// forge the others.
func network(a netip.Addr) netip.Prefix {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}
