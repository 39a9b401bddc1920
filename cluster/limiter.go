package cluster

import (
	"net"
	"sync"
	"time"
)

const (
	limitWindow  = time.Minute
	limitPerHost = 10  // joins from one host that failed
	limitAll     = 300 // joins from all hosts that failed
	limitAtOnce  = 32  // joins under way
)

// limiter counts joins that failed, so that nobody tries tokens for long. Joins
// that succeed are not counted: many nodes may stand behind one address.
type limiter struct {
	now   func() time.Time
	slots chan struct{} // one for each join under way

	mu    sync.Mutex // guards what follows
	began time.Time  // of the window
	fails map[string]int
	total int
}

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, slots: make(chan struct{}, limitAtOnce), fails: map[string]int{}}
}

// wait is how long the host has to wait; zero lets it in.
func (l *limiter) wait(remote string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn()
	if l.fails[limitKey(remote)] < limitPerHost {
		return 0
	}
	return l.rest()
}

// waitAll is how long those have to wait whose token nobody knows, when many have
// failed. Others are let in: nobody shuts out all by failing often.
func (l *limiter) waitAll() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn()
	if l.total < limitAll {
		return 0
	}
	return l.rest()
}

// rest is what is left of the window.
func (l *limiter) rest() time.Duration {
	return max(time.Second, l.began.Add(limitWindow).Sub(l.now()).Round(time.Second))
}

// enter takes a place among the joins under way; leave gives it back.
func (l *limiter) enter() (leave func(), ok bool) {
	select {
	case l.slots <- struct{}{}:
		return func() { <-l.slots }, true
	default:
		return nil, false
	}
}

func (l *limiter) failed(remote string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.turn()
	l.fails[limitKey(remote)]++
	l.total++
}

// turn begins a new window when the old one is over.
func (l *limiter) turn() {
	if age := l.now().Sub(l.began); age < 0 || age >= limitWindow {
		l.began, l.total = l.now(), 0
		clear(l.fails)
	}
}

// limitKey is the host, or for IPv6 its /64: one customer has all of it.
func limitKey(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	ip := net.ParseIP(host)
	if ip == nil || ip.To4() != nil {
		return host
	}
	return ip.Mask(net.CIDRMask(64, 128)).String()
}
