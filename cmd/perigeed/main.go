// Command perigeed is the node: one process that hosts machines, routes
// requests to them, keeps the state and answers the API; see package node.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/perigee-run/perigee/build"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/perigee-run/perigee/node"
	"github.com/spf13/cobra"
)

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg node.Config
	var level string
	c := &cobra.Command{
		Use: "perigeed", Short: "Run a Perigee node", Version: version.Version, Args: cobra.NoArgs,
		Long:         "Run a Perigee node in the foreground. `perigee up` starts one in the background.",
		Example:      "  perigeed --data /var/lib/perigee --domain apps.example.com --acme-email me@example.com",
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("cannot use %q as --log-level: want debug, info, warn or error", level)
			}
			cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			slog.SetDefault(cfg.Logger)
			return run(cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Data, "data", "/var/lib/perigee", "directory of the node's whole state")
	f.StringVar(&cfg.Name, "name", "", "name of the node; it must not change (default: the host's name)")
	f.StringVar(&cfg.Region, "region", "", "city code of this server (default: the one it has or joined with, or local)")
	f.StringVar(&cfg.Domain, "domain", "perigee.localhost", "apps answer at <app>.<domain>")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:4280", "address of the API and of the built-in registry")
	f.StringVar(&cfg.Socket, "socket", "/run/perigee/api.sock", "unix socket of the API, for root, without a token")
	f.StringVar(&cfg.HTTP, "http", "", "address that answers for public port 80, or off (default: port 80 on all addresses)")
	f.StringVar(&cfg.HTTPS, "https", "", "address that answers for public port 443, or off (default: port 443 on all addresses)")
	f.StringVar(&cfg.ACMEEmail, "acme-email", "", "get certificates by ACME, with this contact")
	f.StringVar(&cfg.ACMEDirectory, "acme-directory", "", "ACME directory URL (default: Let's Encrypt)")
	f.StringVar(&cfg.ACMERoots, "acme-roots", "", "PEM file of a private ACME server's roots")
	f.StringSliceVar(&cfg.NATSServers, "nats", nil, "addresses of an outside NATS cluster with JetStream (default: embedded)")
	f.StringVar(&cfg.NATSCredentials, "nats-credentials", "", "credentials file for it")
	f.StringVar(&cfg.Sandbox, "sandbox", "", "path of perigee-sandbox (default: beside this program)")
	f.IntVar(&cfg.Pool, "pool", 2, "sandboxes made ahead of need; -1 for none")
	f.DurationVar(&cfg.PauseAfter, "pause-after", 0, "idle time until a machine is paused (default 1m)")
	f.DurationVar(&cfg.SinkAfter, "sink-after", 0, "time until a paused machine's memory goes to disk (default 5m)")
	f.DurationVar(&cfg.StopAfter, "stop-after", 0, "time until a paused machine is stopped where its app says so (default 5m)")
	f.StringSliceVar(&cfg.PlainHTTP, "plain-http", nil, "registries that are spoken to without TLS")
	f.StringVar(&cfg.NetworkPrefix, "network-prefix", "perigee", "name of our network devices and tables")
	f.Func("ipv6", "the /16 that private addresses come from (default fdaa::/16)", func(s string) (err error) {
		cfg.IPv6, err = netip.ParsePrefix(s)
		return err
	})
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.AddCommand(builderCommand(), joinCommand())
	return c
}

func run(cfg node.Config) error {
	// A node lives for months beside the machines that it serves: memory that a
	// burst needed should go back.
	debug.SetGCPercent(50)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Builder = []string{self, "builder"}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// builderCommand is the process that the node starts for builds.
func builderCommand() *cobra.Command {
	return &cobra.Command{
		Use: "builder CONFIG", Short: "Run the builder; the node does this", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := build.LoadServeConfig(args[0])
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return build.Serve(ctx, cfg)
		},
	}
}
