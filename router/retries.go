package router

import "sync/atomic"

// retries is how many requests of an app may still be sent twice because a node broke off: a fifth of its requests, and
// a few at once. So an outage does not double the load on what is left.
type retries struct {
	spent atomic.Int64 // in fifths of a retry, less what requests have earned
}

const (
	retryPrice = 5
	retryBurst = 50 * retryPrice
)

// earn notes a request.
func (b *retries) earn() {
	if b.spent.Load() > 0 {
		b.spent.Add(-1)
	}
}

// spend takes a retry, if there is one left.
func (b *retries) spend() bool {
	if b.spent.Load() >= retryBurst {
		return false
	}
	b.spent.Add(retryPrice)
	return true
}
