package placement

import (
	"context"
	"errors"
	"sync"
	"time"
)

// shareFor is how long moves join one that has the app's lock. Then it gets
// free, so that a deploy which waits has its turn.
const shareFor = 5 * time.Second

// errWaits says that the lock of the app is another's now.
var errWaits = errors.New("the app is being worked on")

// appLocks lets moves of one app share its lock: the first takes it, the last
// leaves it. They do not harm each other, and each on its own would leave the
// lock under the others' feet, since it is this node's.
type appLocks struct {
	lock func(ctx context.Context, app string) (unlock func(), err error)
	now  func() time.Time
	apps sync.Map // app → *appLock
}

type appLock struct {
	mu     sync.Mutex // held while the lock is taken or left; guards what follows
	users  int
	since  time.Time
	unlock func()
}

// take fails with errWaits if the app's lock cannot be had now.
func (l *appLocks) take(ctx context.Context, app string) (leave func(), err error) {
	v, _ := l.apps.LoadOrStore(app, &appLock{})
	a := v.(*appLock)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users > 0 && l.now().Sub(a.since) > shareFor {
		return nil, errWaits
	}
	if a.users == 0 {
		if a.unlock, err = l.lock(ctx, app); err != nil {
			return nil, errors.Join(errWaits, err)
		}
		a.since = l.now()
	}
	a.users++
	return sync.OnceFunc(a.leave), nil
}

// unused does it while no move has the app's lock or gets it.
func (l *appLocks) unused(app string, do func()) {
	v, _ := l.apps.LoadOrStore(app, &appLock{})
	a := v.(*appLock)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == 0 {
		do()
	}
}

func (a *appLock) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users--; a.users == 0 {
		a.unlock()
	}
}
