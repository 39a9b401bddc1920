package placement

import (
	"context"
	"errors"
	"testing"
	"time"
)

// TestAppLockIsShared: the lock is left when the last move leaves it, and nobody
// joins for ever.
func TestAppLockIsShared(t *testing.T) {
	at, held, taken := now, false, false
	locks := appLocks{now: func() time.Time { return at }, lock: func(context.Context, string) (func(), error) {
		if taken {
			return nil, errors.New("a deploy has it")
		}
		held = true
		return func() { held = false }, nil
	}}
	take := func(what string, want error) func() {
		t.Helper()
		leave, err := locks.take(t.Context(), "shop")
		if !errors.Is(err, want) {
			t.Fatalf("%s: %v, want %v", what, err, want)
		}
		return leave
	}
	first, second := take("first", nil), take("second", nil)
	first()
	first() // more than once does nothing more
	if !held {
		t.Fatal("the first to leave took the lock from the second")
	}
	at = at.Add(shareFor + time.Second)
	take("one that comes late", errWaits)
	second()
	if held {
		t.Fatal("the last has left, and the lock is held")
	}
	taken = true
	take("one that comes after a deploy", errWaits)
	taken = false
	take("one after that", nil)()
	last := take("one more", nil)
	locks.unused("shop", func() { t.Error("a lock that a move has is taken for left") })
	last()
	did := false
	if locks.unused("shop", func() { did = true }); !did {
		t.Error("a lock that no move has is not left")
	}
}
