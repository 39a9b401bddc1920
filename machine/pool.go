package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/mesh"
)

// pair is a network slot and the sandbox prepared in it, "" if none was.
type pair struct {
	slot    *mesh.Slot
	sandbox string
}

// pool keeps pairs ready, so that a start is only the start. It is filled when
// no start is under way, for an app that begins wants the processors.
type pool struct {
	host *Host
	kick chan struct{} // holds one token when there may be something to do

	mu    sync.Mutex // guards what follows
	ready []pair
}

const poolPrefix = "pool."

func newPool(h *Host) *pool { return &pool{host: h, kick: make(chan struct{}, 1)} }

// take returns a ready pair, or a bare slot if there is none.
func (p *pool) take(ctx context.Context) (pair, error) {
	p.mu.Lock()
	if n := len(p.ready); n > 0 {
		out := p.ready[n-1]
		p.ready = p.ready[:n-1]
		p.mu.Unlock()
		return out, nil
	}
	p.mu.Unlock()
	slot, err := p.host.cfg.Networks.Acquire(ctx)
	return pair{slot: slot}, err
}

// refill asks for the pool to be filled up soon.
func (p *pool) refill() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}

// run fills the pool up whenever something was taken, until the host closes.
func (p *pool) run() {
	h := p.host
	for p.settle() {
		if p.size() >= h.cfg.Pool {
			select {
			case <-p.kick:
			case <-h.ctx.Done():
				return
			}
			continue
		}
		if err := p.add(); err != nil && h.ctx.Err() == nil {
			h.log.Warn("cannot prepare a sandbox ahead of need", "error", err)
			pause(h.ctx, 5*time.Second)
		}
	}
}

// settle waits until starts have been over for a while; false when the host closes.
func (p *pool) settle() bool {
	h := p.host
	for {
		quiet := time.Since(time.Unix(0, h.latest.Load()))
		if h.starting.Load() == 0 && quiet >= h.cfg.PoolDelay {
			return h.ctx.Err() == nil
		}
		if !pause(h.ctx, max(h.cfg.PoolDelay-quiet, 5*time.Millisecond)) {
			return false
		}
	}
}

func (p *pool) add() error {
	h := p.host
	slot, err := h.cfg.Networks.Acquire(h.ctx)
	if err != nil {
		return err
	}
	out := pair{slot: slot, sandbox: poolPrefix + ulid.Make().String()}
	if err := h.cfg.Sandbox.Prepare(h.ctx, out.sandbox, slot.NetnsPath); err != nil {
		p.discard(out)
		return err
	}
	p.mu.Lock()
	p.ready = append(p.ready, out)
	p.mu.Unlock()
	return nil
}

// drain removes what was prepared.
func (p *pool) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.ready {
		p.discard(x)
	}
	p.ready = nil
}

func (p *pool) discard(x pair) {
	ctx, cancel := p.host.cleanup()
	defer cancel()
	err := p.host.cfg.Sandbox.Destroy(ctx, x.sandbox)
	if err = errors.Join(err, p.host.cfg.Networks.Release(ctx, x.slot)); err != nil {
		p.host.log.Warn("cannot remove a prepared sandbox", "sandbox", x.sandbox, "error", err)
	}
}

// pause waits; false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
