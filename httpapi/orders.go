package httpapi

import (
	"context"
	"sync"
	"time"
)

const (
	// atOnce is how many certificates are asked for at a time while nobody waits.
	atOnce = 4
	// maxOrders is how many names may wait for that.
	maxOrders = 256
	// obtainWait is how long one certificate may take.
	obtainWait = 20 * time.Second
)

// orders are the names that certificates are to be asked for while nobody waits.
type orders struct {
	queue chan string
	mu    sync.Mutex      // guards named
	named map[string]bool // in the queue, or being asked for
}

func newOrders() *orders {
	return &orders{queue: make(chan string, maxOrders), named: map[string]bool{}}
}

// add puts a name in line, once; false where the line is full. Then its first visitor is
// who asks.
func (o *orders) add(host string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.named[host] {
		return true
	}
	select {
	case o.queue <- host:
		o.named[host] = true
		return true
	default:
		return false
	}
}

func (o *orders) done(host string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.named, host)
}

// Run does what calls leave behind, until ctx ends: it asks for certificates.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() { s.order(ctx) })
	}
	wg.Wait()
	return nil
}

func (s *Server) order(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case host := <-s.orders.queue:
			s.obtain(ctx, host)
			s.orders.done(host)
		}
	}
}

func (s *Server) obtain(ctx context.Context, host string) {
	ctx, cancel := context.WithTimeout(ctx, obtainWait)
	defer cancel()
	if err := s.cfg.Certificates.Obtain(ctx, host); err != nil {
		s.cfg.Logger.Info("no certificate yet", "host", host, "error", err)
	}
}

// begin asks for a certificate while nobody waits. The first visitor would do so too.
func (s *Server) begin(host string) {
	if s.cfg.Certificates != nil && !s.orders.add(host) {
		s.cfg.Logger.Info("no certificate yet: too many names wait for theirs", "host", host)
	}
}
