package handover

import (
	"context"
	"sync"
	"time"
)

// takeBackTries is how often a process whose heir failed tries to be itself again,
// and takeBackPause how long it waits in between.
const (
	takeBackTries = 10
	takeBackPause = time.Second
)

// TakeBack begins anew in this process after HandOver failed, while what is open
// goes on here: begin gets all that the heir had, and is tried ten times at most,
// a second apart. Its last error is returned. When the new one is ready this one
// retires; former is done when that has ended.
func (s *Succession) TakeBack(ctx context.Context, former *sync.WaitGroup, begin func(*Heritage) error) error {
	for try := 1; ; try++ {
		h, ended, err := s.bequeath(ctx, former)
		if err != nil {
			return err
		}
		if err = begin(h); err == nil {
			return nil
		}
		h.Fail(err)
		<-ended
		if try == takeBackTries || ctx.Err() != nil {
			return err
		}
		s.cfg.Logger.Error("cannot go on in this process yet; trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(takeBackPause):
		}
	}
}

// bequeath makes this process its own heir. ended is closed when the former one has
// nothing left to do, or the next one failed.
func (s *Succession) bequeath(ctx context.Context, former *sync.WaitGroup) (h *Heritage, ended <-chan struct{}, err error) {
	files, err := duplicateAll(s.heir.files, duplicate)
	if err != nil {
		return nil, nil, err
	}
	l, other, err := lineHere()
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	done := make(chan struct{})
	former.Go(func() {
		defer close(done)
		defer l.close()
		if w, err := l.hear(); err != nil || w.Say != sayHello {
			return
		}
		err := l.say(word{Say: sayGo})
		if err == nil {
			err = s.attend(ctx, l)
		}
		if err == nil {
			closeAll(s.heir.files)
			s.retire(ctx, l)
		}
	})
	return newHeritage(other, files), done, nil
}
