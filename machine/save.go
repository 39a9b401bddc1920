package machine

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
)

// saver writes a machine's records in order, the latest only. The machine's mu
// guards it.
type saver struct {
	want, done uint64        // changes made, changes on disk
	tries      uint64        // writes that ended, well or not
	running    bool          // a goroutine writes
	closed     bool          // nothing is to be written any more
	err        error         // of the latest write
	moved      chan struct{} // closed and replaced when a write ends
}

const saveTimeout = 10 * time.Second

// save begins to write the present record; mu is held.
func (m *machine) save() {
	s := &m.saver
	if s.want++; s.running || s.closed {
		return
	}
	s.running = m.host.spawn(m.saveAll)
}

// saveAll writes until the disk has what memory has. A write that fails is
// tried again, for a node that forgets is worse than one that is slow.
func (m *machine) saveAll() {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		more, err := m.saveOnce()
		if !more {
			return
		}
		if err == nil {
			wait = 50 * time.Millisecond
			continue
		}
		m.host.log.Error("cannot write machine record", "machine", m.id, "error", err)
		select {
		case <-time.After(wait):
		case <-m.host.ctx.Done():
			m.stopSaving()
			return
		}
	}
}

func (m *machine) saveOnce() (more bool, err error) {
	m.mu.Lock()
	s, rec, upTo := &m.saver, m.now().rec, m.saver.want
	if s.done == s.want || s.closed {
		m.stopSavingLocked()
		m.mu.Unlock()
		return false, nil
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(m.host.ctx), saveTimeout)
	_, err = m.host.cfg.Records.Put(ctx, rec.key(), rec)
	cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	s.tries++
	if s.err = err; err == nil {
		s.done = upTo
	}
	m.saveMoved()
	return true, err
}

func (m *machine) stopSaving() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopSavingLocked()
}

func (m *machine) stopSavingLocked() {
	m.saver.running = false
	m.saveMoved()
}

func (m *machine) saveMoved() {
	close(m.saver.moved)
	m.saver.moved = make(chan struct{})
}

// sync returns when all changes made so far are on disk, or the error of the
// first write after this call that failed.
func (m *machine) sync(ctx context.Context) error {
	m.mu.Lock()
	upTo, tries := m.saver.want, m.saver.tries
	for {
		s := &m.saver
		failed := s.err != nil && s.tries > tries
		done, running, err, moved := s.done >= upTo, s.running, s.err, s.moved
		m.mu.Unlock()
		switch {
		case done:
			return nil
		case failed, !running:
			return api.Errorf(api.CodeInternal, "cannot write down the state of machine %q: %v", m.id, err)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
	}
}

// forget removes the record for good: later changes are not written.
func (m *machine) forget(ctx context.Context) error {
	m.mu.Lock()
	m.saver.closed = true
	for m.saver.running {
		moved := m.saver.moved
		m.mu.Unlock()
		<-moved
		m.mu.Lock()
	}
	m.mu.Unlock()
	return m.host.cfg.Records.Delete(ctx, m.now().rec.key())
}
