package router

import "sync/atomic"

// allowance is how many bytes of bodies may be kept for another try, for all requests together.
type allowance struct{ left atomic.Int64 }

func (a *allowance) take(n int64) bool {
	if a.left.Add(-n) >= 0 {
		return true
	}
	a.left.Add(n)
	return false
}

// keeping is one request's part of the allowance. One goroutine at a time uses it.
type keeping struct {
	of    *allowance
	n     int64 // taken
	asked bool  // whole has been called
	small bool  // what it said
}

// whole reserves a body of known length, and says whether there was room for it. It decides once.
func (k *keeping) whole(length int64) bool {
	if !k.asked {
		k.asked = true
		k.small = length == 0 || length <= maxReplayBody && k.of.take(length)
		if k.small {
			k.n = length
		}
	}
	return k.small
}

// more reserves the next n bytes of a body, unless it is reserved as a whole.
func (k *keeping) more(n int) bool {
	if k.small {
		return true
	}
	if k.n+int64(n) > maxReplayBody || !k.of.take(int64(n)) {
		return false
	}
	k.n += int64(n)
	return true
}

// less gives back n bytes of what more has reserved.
func (k *keeping) less(n int) {
	if !k.small {
		k.n -= int64(n)
		k.of.left.Add(int64(n))
	}
}

// release gives all back.
func (k *keeping) release() {
	if k.n > 0 {
		k.of.left.Add(k.n)
		k.n = 0
	}
}
