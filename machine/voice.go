package machine

import (
	"sync"
	"time"
)

// voice carries the platform's own lines to the console in order, so that no
// operation waits for a log.
type voice struct {
	mu      sync.Mutex // guards what follows
	lines   []line
	talking bool
}

type line struct{ app, machine, text string }

// say adds a line of the platform's own to what the machine says.
func (m *machine) say(text string) {
	h, v := m.host, &m.host.voice
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lines = append(v.lines, line{m.now().rec.App, m.id, text})
	if !v.talking {
		v.talking = h.spawn(h.talk)
	}
}

// talk hands the lines on until there are none.
func (h *Host) talk() {
	for {
		h.voice.mu.Lock()
		lines := h.voice.lines
		h.voice.lines = nil
		if len(lines) == 0 {
			h.voice.talking = false
			h.voice.mu.Unlock()
			return
		}
		h.voice.mu.Unlock()
		for _, l := range lines {
			h.cfg.Console.Say(l.app, l.machine, l.text)
		}
	}
}

// listen follows the life's console, once the former life's has been read to
// its end.
func (m *machine) listen(l *life) {
	defer close(l.followed)
	if l.former != nil {
		<-l.former
	}
	m.host.cfg.Console.Follow(m.now().rec.App, m.id, m.host.consoleFile(m.id))
}

// unlisten reads the life's console to its end in the background.
func (m *machine) unlisten(l *life) {
	read := make(chan struct{})
	m.read = read
	ok := m.host.spawn(func() {
		defer close(read)
		<-l.followed
		m.host.cfg.Console.Unfollow(m.id)
	})
	if !ok {
		close(read) // the rest stays in the file for the next run
	}
}

// awaitRead returns when the console has been read to its end, or soon enough.
func (m *machine) awaitRead() {
	if m.read == nil {
		return
	}
	select {
	case <-m.read:
	case <-time.After(5 * time.Second):
	}
}
