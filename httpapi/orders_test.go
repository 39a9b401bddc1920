package httpapi

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// slowOrders is an authority that never answers, and counts who waits for it.
type slowOrders struct {
	mu      sync.Mutex // guards what follows
	waiting int
	asked   map[string]int
	came    chan struct{}
}

func (*slowOrders) Peek(context.Context, string) (*x509.Certificate, string) { return nil, "" }
func (*slowOrders) Addresses(string) []netip.Addr                            { return nil }

func (o *slowOrders) Obtain(ctx context.Context, host string) error {
	o.mu.Lock()
	o.waiting++
	o.asked[host]++
	o.mu.Unlock()
	o.came <- struct{}{}
	<-ctx.Done()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting--
	return ctx.Err()
}

// TestOrdersHaveAnOwner: however many names are added, few certificates are asked for
// at a time, none twice, and all of that ends with the server.
func TestOrdersHaveAnOwner(t *testing.T) {
	o := &slowOrders{asked: map[string]int{}, came: make(chan struct{}, 2*maxOrders)}
	s := &Server{cfg: Config{Certificates: o, Logger: slog.New(slog.DiscardHandler)}, orders: newOrders()}
	for i := range 2 * maxOrders { // more than there is room for: nobody waits
		s.begin(fmt.Sprintf("h%d.example.com", i/2))
	}
	s.begin("late.example.com")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for range atOnce {
		<-o.came
	}
	select {
	case <-o.came:
		t.Errorf("more than %d at a time", atOnce)
	case <-time.After(20 * time.Millisecond):
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for host, n := range o.asked {
		if n > 1 {
			t.Errorf("%s was asked for %d times", host, n)
		}
	}
	if o.waiting != 0 {
		t.Errorf("%d are still asked for", o.waiting)
	}
}
