package fleet

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Visit is a place for one connection at a machine's SSH server.
type Visit interface {
	// Serve speaks SSH on conn until it ends, and closes it. It gives the place up.
	Serve(ctx context.Context, conn net.Conn) error
	// Leave gives the place up without a connection. It may be called again.
	Leave()
}

// SSH asks for a place at a machine's SSH server, at the node that owns it. ctx
// bounds the place, not only the question.
func (f *Fleet) SSH(ctx context.Context, id string) (Visit, error) {
	p, remote := f.find(ctx, id)
	if !remote {
		return f.cfg.SSH(ctx, id)
	}
	v := &visitThere{fleet: f, place: p, what: "machine \"" + id + "\""}
	client, err := f.cfg.Peers.Client(p.node)
	if err != nil {
		return nil, f.fault(ctx, p.node, v.what, errors.New(err.Error())) // whatever its code, it is not the node's answer
	}
	if name := CallerOf(ctx).Name; name != "" {
		client = client.With(api.CallerHeader, name)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	patience := time.AfterFunc(4*f.cfg.Patience, func() { cancel(errSilent) })
	defer patience.Stop()
	if v.far, err = client.SSH(ctx, p.app, id); err != nil {
		cancel(nil)
		return nil, f.fault(context.WithoutCancel(ctx), p.node, v.what, err)
	}
	v.leave = sync.OnceFunc(func() { v.far.Close(); cancel(nil) })
	return v, nil
}

// visitThere is a place at another node's SSH server.
type visitThere struct {
	fleet *Fleet
	place place
	what  string
	far   net.Conn
	leave func()
}

// Leave implements Visit.
func (v *visitThere) Leave() { v.leave() }

// Serve carries bytes between the client and the other node until either ends, or
// the other node does not answer any more.
func (v *visitThere) Serve(ctx context.Context, conn net.Conn) error {
	defer v.Leave()
	defer conn.Close()
	return v.fleet.ask(ctx, v.place.node, v.what, func(ctx context.Context, _ *api.Client) error {
		stop := context.AfterFunc(ctx, func() { conn.Close(); v.far.Close() })
		defer stop()
		join(conn, v.far)
		return ctx.Err()
	})
}

// join copies both ways until one of the two has ended.
func join(a, b net.Conn) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(a, b)
		a.Close()
		b.Close()
	})
	_, _ = io.Copy(b, a)
	a.Close()
	b.Close()
	back.Wait()
}
