package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/internal/exit"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/spf13/cobra"
)

// coded is an error that ends the program with a code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// joinCommand makes the data directory that of a node of a cloud. It ends as
// perigee join does, which runs it.
func joinCommand() *cobra.Command {
	cfg := cluster.JoinConfig{Version: version.Version}
	c := &cobra.Command{
		Use: "join ADDRESS", Short: "Make this server a node of a cloud", Args: joinArgs,
		Long: `Make this server a node of the cloud at ADDRESS: any node of it, HOST or
HOST:PORT (default 4281). Afterwards start perigeed with the same --data.
A join that was cut off is completed by the same command.`,
		Example: "  perigeed join 203.0.113.7 --token perigee1-… --region fra",
		RunE: func(c *cobra.Command, args []string) error {
			cfg.Address = args[0]
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return join(ctx, cfg, c.InOrStdin(), c.OutOrStdout())
		},
	}
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(err, c.CommandPath()+" --help lists the flags") })
	f := c.Flags()
	f.StringVar(&cfg.Token, "token", os.Getenv("PERIGEE_JOIN_TOKEN"), "what perigee node token printed; - reads it from standard input (env PERIGEE_JOIN_TOKEN)")
	f.Lookup("token").DefValue = ""
	f.StringVar(&cfg.Dir, "data", "/var/lib/perigee", "directory of the node's whole state")
	f.StringVar(&cfg.Name, "name", "", "name of the node; it must not change (default: the host's name)")
	f.StringVar(&cfg.Region, "region", "", "city code of this server (default: the token's, or local)")
	f.StringSliceVar(&cfg.Roles, "roles", nil, "what the node does: host, edge, state, build (default: the token's, or all)")
	f.StringVar(&cfg.Advertise, "address", "", "host at which other nodes reach this one (default: the address from which it reaches ADDRESS)")
	f.IntVar(&cfg.PeerPort, "peer-port", cluster.DefaultPeerPort, "port of calls between nodes")
	f.IntVar(&cfg.StatePort, "state-port", cluster.DefaultStatePort, "port of the state's clients")
	f.IntVar(&cfg.RoutePort, "route-port", cluster.DefaultRoutePort, "port between nodes that keep the state")
	f.IntVar(&cfg.WireGuardPort, "wireguard-port", cluster.DefaultWireGuardPort, "port of the mesh")
	return c
}

func join(ctx context.Context, cfg cluster.JoinConfig, in io.Reader, out io.Writer) error {
	if cfg.Token == "-" {
		line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("cannot read the join token: %w", err)
		}
		cfg.Token = strings.TrimSpace(line)
	}
	n, err := cluster.Join(ctx, cfg)
	if err != nil {
		return withHint(err)
	}
	_, err = fmt.Fprintf(out, "joined as node %s in region %s; start it with perigeed --data %s\n", n.Name, n.Region, cfg.Dir)
	return err
}

// withHint adds what to do about an error, and what it means for scripts.
func withHint(err error) error {
	code := exit.Of(err)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Hint != "" {
		err = fmt.Errorf("%w\nhint: %s", err, refused.Hint)
	}
	return coded{err, code}
}

func usage(err error, hint string) error {
	return coded{fmt.Errorf("%w\nhint: %s", err, hint), exit.Usage}
}

func joinArgs(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return usage(fmt.Errorf("%s needs ADDRESS", c.CommandPath()), "usage: "+c.UseLine())
	case len(args) > 1:
		return usage(fmt.Errorf("%s takes 1 argument, not %d", c.CommandPath(), len(args)), "usage: "+c.UseLine())
	}
	return nil
}
