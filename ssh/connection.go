package ssh

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/perigee-run/perigee/machine"
	gossh "golang.org/x/crypto/ssh"
)

// tries is how many keys a client may offer: agents hold many.
const tries = 20

// connection is one client at one machine.
type connection struct {
	server  *Server
	machine Machine
	conn    *gossh.ServerConn
	grant   Grant

	forwards sync.Once // the first is told of; ssh -L opens one for each connection
	channels atomic.Int32
	work     sync.WaitGroup // sessions and forwards
}

func (c *connection) serve(ctx context.Context, raw net.Conn) error {
	cfg, err := c.config(ctx)
	if err != nil {
		return err
	}
	_ = raw.SetDeadline(time.Now().Add(c.server.cfg.Grace))
	conn, channels, requests, err := gossh.NewServerConn(raw, cfg)
	if err != nil {
		return err
	}
	_ = raw.SetDeadline(time.Time{})
	c.conn, c.grant = conn, conn.Permissions.ExtraData[grantKey{}].(Grant)
	defer c.work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go gossh.DiscardRequests(requests) // nothing is opened at the client's end
	c.work.Go(func() { c.lookAfter(ctx) })
	for ch := range channels {
		c.open(ctx, ch)
	}
	return nil
}

type grantKey struct{}

// config is made for every connection: it holds the certificate of the machine.
func (c *connection) config(ctx context.Context) (*gossh.ServerConfig, error) {
	plain, certified, err := c.server.cfg.Authority.host(c.machine, time.Now())
	if err != nil {
		return nil, err
	}
	told := false
	cfg := &gossh.ServerConfig{ServerVersion: "SSH-2.0-Perigee", MaxAuthTries: tries,
		PublicKeyCallback: func(meta gossh.ConnMetadata, key gossh.PublicKey) (*gossh.Permissions, error) {
			g, err := c.server.letIn(ctx, key, meta.User(), c.machine)
			switch {
			case err == nil:
				return &gossh.Permissions{ExtraData: map[any]any{grantKey{}: g}}, nil
			case errors.Is(err, errNoCertificate) && told:
				return nil, err // an agent offers many keys
			}
			told = true
			return nil, &gossh.BannerError{Err: err, Message: "perigee: " + err.Error() + "\r\n"}
		}}
	cfg.AddHostKey(certified)
	cfg.AddHostKey(plain) // for clients that know no certificates
	return cfg, nil
}

// letIn decides about a key.
func (s *Server) letIn(ctx context.Context, key gossh.PublicKey, user string, m Machine) (Grant, error) {
	g, err := s.cfg.Authority.Check(key, user, m, time.Now())
	if err == nil {
		err = s.permit(ctx, g)
	}
	return g, err
}

// permit refuses a grant whose token is not good any more.
func (s *Server) permit(ctx context.Context, g Grant) error {
	if err := g.ended(time.Now()); err != nil {
		return err
	}
	return s.cfg.Permit(ctx, g)
}

// lookAfter ends the connection when the client says nothing any more, or its
// grant ends.
func (c *connection) lookAfter(ctx context.Context) {
	beat := c.server.cfg.Beat
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(beat):
		}
		if err := c.server.permit(ctx, c.grant); err != nil && ctx.Err() == nil {
			c.server.cfg.Logger.Info("SSH connection ended: its token is not good any more", "machine", c.machine.ID, "who", c.grant.Who, "why", err)
			c.conn.Close()
			return
		}
		patience := time.AfterFunc(2*beat, func() { c.conn.Close() })
		_, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil)
		patience.Stop()
		if err != nil {
			return
		}
	}
}

// open answers a channel in a goroutine of its own.
func (c *connection) open(ctx context.Context, ch gossh.NewChannel) {
	serve := map[string]func(context.Context, gossh.NewChannel){"session": c.session, "direct-tcpip": c.forward}[ch.ChannelType()]
	switch {
	case serve == nil:
		_ = ch.Reject(gossh.UnknownChannelType, "perigee: a machine has sessions and forwards (ssh -L) only")
		return
	case c.channels.Add(1) > int32(c.server.cfg.Channels):
		c.channels.Add(-1)
		_ = ch.Reject(gossh.ResourceShortage, "perigee: too many sessions and forwards on one connection")
		return
	}
	c.work.Go(func() {
		defer c.channels.Add(-1)
		if err := c.server.permit(ctx, c.grant); err != nil {
			_ = ch.Reject(gossh.Prohibited, "perigee: "+err.Error())
			return
		}
		serve(ctx, ch)
	})
}

// note writes down that somebody does something, and with what it returns how that
// ended.
func (c *connection) note(ctx context.Context, did string) (ended func(exitCode int)) {
	return c.server.cfg.Machines.NoteSession(ctx, c.machine.ID, machine.Session{Who: c.grant.Who, User: c.conn.User(), Did: did})
}
