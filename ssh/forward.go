package ssh

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"

	"github.com/perigee-run/perigee/api"
	gossh "golang.org/x/crypto/ssh"
)

// forward joins the client to a port of the machine. Other hosts are refused: a
// certificate opens one machine, not what it can reach.
func (c *connection) forward(ctx context.Context, offer gossh.NewChannel) {
	host, port, ok := target(offer.ExtraData())
	if !ok {
		_ = offer.Reject(gossh.ConnectionFailed, "perigee: that is no host and port")
		return
	}
	if !c.own(host) {
		_ = offer.Reject(gossh.Prohibited, fmt.Sprintf("perigee: forwards lead to machine %s itself, as localhost:%d, and not to %q", c.machine.ID, port, api.Clip(host)))
		return
	}
	far, err := c.reach(ctx, port)
	if err != nil {
		_ = offer.Reject(gossh.ConnectionFailed, "perigee: "+err.Error())
		return
	}
	defer far.Close()
	near, requests, err := offer.Accept()
	if err != nil {
		return
	}
	go gossh.DiscardRequests(requests)
	c.forwards.Do(func() { c.server.cfg.Noted(c.machine, c.grant) })
	defer c.note(ctx, fmt.Sprintf("forward to port %d", port))(0)
	stop := context.AfterFunc(ctx, func() { far.Close(); near.Close() })
	defer stop()
	join(near, far)
}

// target reads where a forward is to lead.
func target(b []byte) (host string, port int, ok bool) {
	var to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := gossh.Unmarshal(b, &to); err != nil || to.Port == 0 || to.Port > 65535 {
		return "", 0, false
	}
	return to.Host, int(to.Port), true
}

// own reports whether a host name means the machine.
func (c *connection) own(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "localhost" || holds(Names(c.machine.App, c.machine.ID), host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && (a.IsLoopback() || a.IsUnspecified())
}

// reach connects to a port of the machine.
func (c *connection) reach(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if err := c.server.cfg.Machines.Enter(ctx, c.machine.ID); err != nil {
		return nil, err
	}
	return c.server.cfg.Machines.Dial(ctx, c.machine.ID, port)
}

// join copies both ways until both have ended, and passes each end on.
func join(near gossh.Channel, far io.ReadWriteCloser) {
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(far, near)
		if half, ok := far.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(near, far)
	_ = near.CloseWrite()
	near.Close()
	up.Wait()
}
