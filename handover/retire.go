package handover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// tellEvery is how often the heir is told what is in flight here.
const tellEvery = 500 * time.Millisecond

// HandOver tells the heir that all is free which one process alone can have, gives
// it what it wants, and returns when it serves: Retire is next. If it fails, takes
// longer than Config.ReadyWithin or ctx ends, it is ended, and all is as before
// Willing but for what the caller let go of: TakeBack is next. Call it once.
func (s *Succession) HandOver(ctx context.Context) error {
	h := s.heir
	err := h.line.say(word{Say: sayGo})
	if err == nil {
		err = s.attend(ctx, h.line)
	}
	if err == nil {
		closeAll(h.files)
		return nil
	}
	if state := h.end(); hungUp(err) {
		return fmt.Errorf("it ended: %s", state)
	}
	return err
}

// attend gives the heir what it wants until it serves.
func (s *Succession) attend(ctx context.Context, l *line) error {
	defer context.AfterFunc(ctx, l.close)()
	late := time.AfterFunc(s.cfg.ReadyWithin, l.close)
	defer late.Stop()
	for {
		w, err := l.hear()
		switch {
		case err != nil && !late.Stop() && ctx.Err() == nil:
			return fmt.Errorf("it was not ready within %s", s.cfg.ReadyWithin)
		case err != nil:
			return err
		case w.Say == sayFailed:
			return errors.New(w.Err)
		case w.Say == sayReady:
			return nil
		case w.Say == sayWant:
			if err := s.give(l, w.ID); err != nil {
				return err
			}
		}
	}
}

func (s *Succession) give(l *line, what string) error {
	s.cfg.Giver.Give(what)
	return l.say(word{Say: sayGave, ID: what})
}

// Retire lets what is open here end while the heir serves: it returns when
// Giver.Drain does, whose time is Config.Grace, or less if ctx or the heir ends.
func (s *Succession) Retire(ctx context.Context) { s.retire(ctx, s.heir.line) }

func (s *Succession) retire(ctx context.Context, l *line) {
	defer l.close()
	s.mu.Lock()
	s.line = l
	s.mu.Unlock()
	close(s.settled)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Grace)
	defer cancel()
	go func() { // ends with the line
		s.hearHeir(l)
		time.AfterFunc(s.cfg.LastGrace, cancel) // who serves has ended, and so do we
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.cfg.Giver.Drain(ctx)
	}()
	s.tellBusy(l, ended)
}

// tellBusy tells the heir what is in flight here, until all has ended.
func (s *Succession) tellBusy(l *line, ended <-chan struct{}) {
	next := time.After(s.cfg.QuietAfter)
	for {
		select {
		case <-ended:
			return
		case <-next:
		}
		_ = l.say(word{Say: sayBusy, Busy: s.cfg.Giver.Busy()}) // it may have crashed
		next = time.After(tellEvery)
	}
}

// hearHeir takes answers until the line ends.
func (s *Succession) hearHeir(l *line) {
	for {
		w, err := l.hear()
		if err != nil {
			return
		}
		switch w.Say {
		case sayWoke:
			s.mu.Lock()
			if c := s.asked[w.ID]; c != nil {
				c <- w
				delete(s.asked, w.ID)
			}
			s.mu.Unlock()
		case sayWant:
			_ = s.give(l, w.ID) // it may have crashed
		}
	}
}

// Ask has the heir wake what has the id, for what is still here, and returns where
// it is then. It waits until there is an heir that serves. One id is asked for once
// at a time.
func (s *Succession) Ask(ctx context.Context, id string) (netip.Addr, error) {
	select {
	case <-s.settled:
	case <-ctx.Done():
		return netip.Addr{}, ctx.Err()
	}
	answer := make(chan word, 1)
	s.mu.Lock()
	l := s.line
	s.asked[id] = answer
	s.mu.Unlock()
	if err := l.say(word{Say: sayWake, ID: id}); err != nil {
		return netip.Addr{}, err
	}
	select {
	case w := <-answer:
		if w.Err != "" {
			return netip.Addr{}, errors.New(w.Err)
		}
		return w.Addr, nil
	case <-ctx.Done():
		return netip.Addr{}, ctx.Err()
	}
}
