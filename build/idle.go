//go:build linux

package build

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// idle calls done once no call has been running for a while. It lives in the builder process, so that the builder
// ends even when the daemon that started it is gone.
type idle struct {
	after time.Duration
	done  func()

	mu      sync.Mutex // guards what follows
	running int
	over    bool
	timer   *time.Timer
}

func newIdle(after time.Duration, done func()) *idle {
	i := &idle{after: after, done: done}
	i.timer = time.AfterFunc(after, i.expire)
	return i
}

func (i *idle) expire() {
	i.mu.Lock()
	if i.running > 0 || i.over {
		i.mu.Unlock()
		return
	}
	i.over = true
	i.mu.Unlock()
	i.done()
}

// begin refuses calls that come while the builder is already on its way out; the caller starts a new one.
func (i *idle) begin() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over {
		return status.Error(codes.Unavailable, "the builder is idle and ends")
	}
	i.running++
	i.timer.Stop()
	return nil
}

func (i *idle) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running--
	if i.running == 0 && !i.over {
		i.timer.Reset(i.after)
	}
}

func (i *idle) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
	i.timer.Stop()
}

func (i *idle) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := i.begin(); err != nil {
		return nil, err
	}
	defer i.end()
	return handler(ctx, req)
}

func (i *idle) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := i.begin(); err != nil {
		return err
	}
	defer i.end()
	return handler(srv, ss)
}
