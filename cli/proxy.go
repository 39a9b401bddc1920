package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/mesh/wire"
	"github.com/perigee-run/perigee/mesh/wire/dial"
	"github.com/spf13/cobra"
)

// proxyTTL ends a peer whose command was killed before it could remove it.
const proxyTTL = 24 * time.Hour

// enterTimeout is how long the gateway may take to answer.
const enterTimeout = 15 * time.Second

func proxyCmd(e *env) *cobra.Command {
	bind, machine := "127.0.0.1", ""
	c := &cobra.Command{Use: "proxy LOCAL[:REMOTE]", Short: "Forward a local port to an app in the private network", Args: exactArgs("LOCAL[:REMOTE]"),
		Long: `Forward a local TCP port to a port of an app's machines, which need not be public.
It goes through WireGuard in this process, as a peer of the app's org that is
removed at the end, or after a day. It needs no root, and wakes a machine where
all sleep.`,
		Example: "  perigee proxy 5432 -a db\n  perigee proxy 8080:80 -a web",
		RunE: func(c *cobra.Command, args []string) error {
			local, remote, err := parsePorts(args[0])
			if err != nil {
				return err
			}
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			return e.proxy(c.Context(), client, forward{app: app, machine: machine, local: net.JoinHostPort(bind, local), port: remote})
		}}
	c.Flags().StringVar(&bind, "bind", bind, "local address to listen on")
	c.Flags().StringVarP(&machine, "machine", "m", "", "only this machine (default: any that is started)")
	return c
}

// parsePorts reads 8080:80, or 5432 for both.
func parsePorts(s string) (local, remote string, err error) {
	local, remote, both := strings.Cut(s, ":")
	if !both {
		remote = local
	}
	for i, p := range []string{local, remote} {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 && i == 1 {
			return "", "", usagef("%q is not LOCAL:REMOTE: want two ports, as 8080:80, or one for both", s)
		}
	}
	return local, remote, nil
}

// forward is what one proxy command does.
type forward struct{ app, machine, local, port string }

// target is the name of the other end in the private network.
func (f forward) target() string {
	if f.machine != "" {
		return net.JoinHostPort(f.machine+".vm."+f.app+".internal", f.port)
	}
	return net.JoinHostPort(f.app+".internal", f.port)
}

func (e *env) proxy(ctx context.Context, client *api.Client, f forward) error {
	app, err := client.GetApp(ctx, f.app)
	if err != nil {
		return e.explain(err)
	}
	if f.machine != "" {
		if _, err := client.GetMachine(ctx, f.app, f.machine); err != nil {
			return e.explain(err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", f.local)
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	defer l.Close()
	mesh, leave, err := e.enter(ctx, client, app.Organization.Slug)
	if err != nil {
		return err
	}
	defer leave()
	way := tunnel{mesh, client, f}
	if err := way.rouse(ctx); err != nil {
		fmt.Fprintln(e.Err, e.paint(yellow, "Warning:"), plainText(err.Error()))
	}
	fmt.Fprintf(e.Err, "Forwarding %s to %s. Press Ctrl-C to end.\n", l.Addr(), f.target())
	return e.serveProxy(ctx, l, way)
}

// tunnel leads to the app through the private network, and wakes it.
type tunnel struct {
	mesh   *dial.Net
	client *api.Client
	forward
}

// dial connects. Machines that sleep have no name in .internal: one is woken, and
// its name comes a moment later.
func (t tunnel) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, enterTimeout)
	defer cancel()
	host := strings.TrimSuffix(t.target(), ":"+t.port)
	for {
		if _, err := t.mesh.LookupHost(ctx, host); err == nil {
			return t.mesh.DialContext(ctx, "tcp", t.target())
		}
		if err := t.rouse(ctx); err != nil {
			return nil, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot find %s: a machine runs, but has no name yet", host)
		}
	}
}

// rouse wakes a machine if none runs, and says what to do where none sleeps
// either.
func (t tunnel) rouse(ctx context.Context) error {
	machines, err := t.client.ListMachines(ctx, t.app)
	if err != nil {
		return err
	}
	sleeper := ""
	for _, m := range machines {
		switch {
		case t.machine != "" && m.ID != t.machine:
		case m.State == api.StateStarted:
			return nil
		case m.State == api.StatePaused || m.State == api.StateSuspended:
			sleeper = m.ID
		}
	}
	if sleeper == "" {
		return fmt.Errorf("no machine of app %s runs or sleeps: perigee machine start ID --app %s starts one", t.app, t.app)
	}
	return t.client.StartMachine(ctx, t.app, sleeper)
}

// enter makes a peer for this command and enters the org's network with it;
// leave undoes both.
func (e *env) enter(ctx context.Context, client *api.Client, org string) (*dial.Net, func(), error) {
	key, err := wire.NewKey()
	if err != nil {
		return nil, nil, err
	}
	name := "proxy-" + strings.ToLower(rand.Text()[:12])
	peer, err := client.CreateWireGuardPeer(ctx, org, api.CreateWireGuardPeerRequest{Name: name, PublicKey: key.Public().String(), TTL: int(proxyTTL.Seconds())})
	if err != nil {
		return nil, nil, e.explain(err)
	}
	remove := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = client.DeleteWireGuardPeer(ctx, org, name) // else it expires
	}
	n, err := connectPeer(ctx, peer, key)
	if err != nil {
		remove()
		return nil, nil, err
	}
	return n, func() { n.Close(); remove() }, nil
}

func connectPeer(ctx context.Context, p api.WireGuardPeer, key wire.PrivateKey) (*dial.Net, error) {
	c, err := peerClient(p)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, enterTimeout)
	defer cancel()
	n, err := dial.Open(ctx, dial.Config{PrivateKey: key, Address: c.Address, DNS: c.DNS, Gateway: c.Gateway, Endpoint: c.Endpoint, Allowed: c.Allowed})
	if err != nil {
		return nil, err
	}
	if err := n.Ready(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// serveProxy forwards connections until ctx ends, and waits for them to end.
func (e *env) serveProxy(ctx context.Context, l net.Listener, way tunnel) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot accept connections: %w", err)
		}
		conns.Go(func() {
			if err := forwardConn(ctx, c, way); err != nil {
				fmt.Fprintln(e.Err, e.paint(yellow, "Warning:"), plainText(err.Error()))
			}
		})
	}
}

func forwardConn(ctx context.Context, near net.Conn, way tunnel) error {
	defer near.Close()
	far, err := way.dial(ctx)
	if err != nil {
		return err
	}
	defer far.Close()
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	var up sync.WaitGroup
	up.Go(func() { pipe(far, near) })
	pipe(near, far)
	up.Wait()
	return nil
}

// pipe copies until the end of one direction and passes the end on.
func pipe(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		dst.Close()
		src.Close()
	}
}
