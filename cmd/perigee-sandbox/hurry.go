package main

import (
	"bytes"
	"os"
	"sync"
)

// rcuExpedited makes the kernel wait for readers with interrupts instead of
// patience: joining control groups, making and leaving namespaces and mounts
// take a fraction of the time, at some cost to every processor.
const rcuExpedited = "/sys/kernel/rcu_expedited"

// hurry turns it on while at least one start is under way. Who finds it on
// leaves it alone: it is the owner's wish, or another supervisor's.
type hurry struct {
	mark  string     // a file that is there while the setting is ours
	mu    sync.Mutex // guards the rest
	users int
	ours  bool
}

// recover undoes what a killed supervisor left on.
func (h *hurry) recover() {
	if _, err := os.Stat(h.mark); err == nil {
		h.ours = true
		h.off()
	}
}

// begin returns the function that ends this use.
func (h *hurry) begin() func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users++; h.users == 1 {
		h.on()
	}
	return sync.OnceFunc(h.end)
}

func (h *hurry) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.users == 0 {
		h.off()
	}
}

func (h *hurry) on() {
	if was, err := os.ReadFile(rcuExpedited); err != nil || string(bytes.TrimSpace(was)) != "0" {
		return
	}
	if os.WriteFile(h.mark, nil, 0o600) == nil {
		h.ours = os.WriteFile(rcuExpedited, []byte("1"), 0) == nil
	}
}

func (h *hurry) off() {
	if h.ours {
		h.ours = false
		_ = os.WriteFile(rcuExpedited, []byte("0"), 0)
		_ = os.Remove(h.mark)
	}
}
