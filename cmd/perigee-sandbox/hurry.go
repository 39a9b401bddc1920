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

// hurry turns it on while at least one start is under way.
type hurry struct {
	mu    sync.Mutex // guards the rest
	users int
	was   []byte
}

// begin returns the function that ends this use.
func (h *hurry) begin() func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users++; h.users == 1 {
		h.was, _ = os.ReadFile(rcuExpedited)
		_ = os.WriteFile(rcuExpedited, []byte("1"), 0)
	}
	return sync.OnceFunc(h.end)
}

func (h *hurry) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.users--; h.users == 0 && len(h.was) > 0 {
		_ = os.WriteFile(rcuExpedited, bytes.TrimSpace(h.was), 0)
	}
}
