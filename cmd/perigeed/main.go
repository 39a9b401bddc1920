// Command perigeed is the node: one process that hosts machines, routes
// requests to them, keeps the state and answers the API; see package node.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/perigee-run/perigee/build"
	"github.com/perigee-run/perigee/internal/exit"
	"github.com/perigee-run/perigee/internal/version"
	"github.com/perigee-run/perigee/node"
	"github.com/spf13/cobra"
)

// exitRemoved is the exit code of a node that was removed from its cloud, so that
// a service manager does not start it again and again: sysexits.h's EX_CONFIG.
const exitRemoved = 78

func main() {
	err := command().Execute()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "Error:", err)
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	var c coded
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, node.ErrRemoved):
		return exitRemoved
	}
	return exit.Failure
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
	f.StringVar(&cfg.Domain, "domain", "", "apps answer at <app>.<domain> (default: the one it has, or perigee.localhost)")
	f.StringVar(&cfg.SecretsIdentity, "secrets-identity", "", "file of age identities that open the wrapped key of the secrets")
	f.StringVar(&cfg.OIDCIssuer, "oidc-issuer", "", "https URL of the API that machines' identity tokens name (default: https:// and the domain)")
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:4280", "address of the API and of the built-in registry")
	f.StringVar(&cfg.Socket, "socket", "/run/perigee/api.sock", "unix socket of the API, for root, without a token")
	f.StringVar(&cfg.HTTP, "http", "", "address that answers for public port 80, or off (default: port 80 on all addresses)")
	f.StringVar(&cfg.HTTPS, "https", "", "address that answers for public port 443, or off (default: port 443 on all addresses)")
	f.StringVar(&cfg.ACMEEmail, "acme-email", "", "get certificates by ACME, with this contact")
	f.StringVar(&cfg.ACMEDirectory, "acme-directory", "", "ACME directory URL (default: Let's Encrypt)")
	f.StringVar(&cfg.ACMERoots, "acme-roots", "", "PEM file of a private ACME server's roots")
	f.BoolVar(&cfg.Alone, "alone", false, "keep the node to itself: no ports for other nodes, none can join")
	f.StringVar(&cfg.Address, "address", "", "host at which other nodes reach this one (default: the one it has, or the server's own address)")
	f.StringSliceVar(&cfg.Public, "public", nil, "addresses at which clients reach this node's router (default: --address)")
	f.StringSliceVar(&cfg.Roles, "roles", nil, "what the node does: host, edge, state, build (default: those it joined with, or all)")
	f.IntVar(&cfg.Members, "members", 0, "nodes that keep the replicated state once there are enough: 1, 3 or 5 (default 3)")
	f.IntVar(&cfg.PeerPort, "peer-port", 0, "TCP port of calls between nodes (default 4281)")
	f.IntVar(&cfg.StatePort, "state-port", 0, "TCP port of the state's clients (default 4282)")
	f.IntVar(&cfg.RoutePort, "route-port", 0, "TCP port between nodes that keep the state (default 4283)")
	f.IntVar(&cfg.WireGuardPort, "wireguard-port", 0, "UDP port of the mesh (default 51820)")
	f.DurationVar(&cfg.RotateAfter, "wireguard-rotate", 0, "age at which the node's WireGuard key is replaced; negative: never (default 720h)")
	f.Float64Var(&cfg.APIRate, "api-rate", 10, "how many times a second each change of the API may be called on one machine or app over TCP, five times as often for looks; 0 for any number")
	f.DurationVar(&cfg.DeadAfter, "dead-after", 0, "how long a node is not heard of until its machines are made anew elsewhere (default 1m)")
	f.DurationVar(&cfg.DrainWait, "drain-wait", 0, "how long an edge that drains lets in who has not heard of it (default: 30s with DNS, else 5s after its routes are withdrawn)")
	f.StringVar(&cfg.DNS.Listen, "dns-listen", "", "HOST:PORT to answer for the domain at, as its DNS server (default: nowhere)")
	f.StringArrayVar(&cfg.DNS.NameServers, "dns-nameserver", nil, "NAME=ADDRESS[,ADDRESS] of a server of the domain, as the registrar has it; repeated")
	f.StringVar(&cfg.DNS.Prefixes, "dns-prefixes", "", "file of lines 'prefix region' that tells where clients are")
	f.StringVar(&cfg.DNS.MMDB, "dns-mmdb", "", "MMDB file with the coordinates of addresses")
	f.StringVar(&cfg.Anycast.Prefixes, "anycast", "", "addresses that all edges announce by BGP: 192.0.2.1/32,2001:db8::1/128")
	f.StringVar(&cfg.Anycast.ASN, "bgp-asn", "", "our autonomous system's number")
	f.StringArrayVar(&cfg.Anycast.Neighbors, "bgp-neighbor", nil, "ADDRESS,ASN[,password-file=FILE][,multihop=N][,ttl-security] of a router to announce to; repeated")
	f.StringSliceVar(&cfg.Anycast.Pools, "ip-pool", nil, "prefixes that apps' own addresses are taken from")
	f.StringSliceVar(&cfg.NATSServers, "nats", nil, "addresses of an outside NATS cluster with JetStream (default: embedded)")
	f.IntVar(&cfg.NATSReplicas, "nats-replicas", 0, "how many of its servers keep each record (default: as many as --nats names, at most 3)")
	f.StringVar(&cfg.NATSCredentials, "nats-credentials", "", "credentials file for it")
	f.StringVar(&cfg.Sandbox, "sandbox", "", "path of perigee-sandbox (default: beside this program)")
	f.IntVar(&cfg.Pool, "pool", 2, "sandboxes made ahead of need; -1 for none")
	f.DurationVar(&cfg.PauseAfter, "pause-after", 0, "idle time until a machine is paused (default 1m)")
	f.DurationVar(&cfg.SinkAfter, "sink-after", 0, "time until a paused machine's memory goes to disk (default 5m)")
	f.DurationVar(&cfg.StopAfter, "stop-after", 0, "time until a paused machine is stopped where its app says so (default 5m)")
	f.StringVar(&cfg.Snapshots.Dir, "snapshot-dir", "", "folder for snapshots of volumes (default: snapshots in the data directory)")
	f.StringVar(&cfg.Snapshots.S3.Endpoint, "snapshot-s3-endpoint", "", "URL of an S3 server, to keep snapshots of volumes in a bucket instead")
	f.StringVar(&cfg.Snapshots.S3.Bucket, "snapshot-s3-bucket", "", "bucket for snapshots of volumes")
	f.StringVar(&cfg.Snapshots.S3.Prefix, "snapshot-s3-prefix", "", "what the names of all objects in the bucket begin with")
	f.StringVar(&cfg.Snapshots.S3.Region, "snapshot-s3-region", "", "region of the bucket, as its server calls it (default: it is asked for)")
	f.StringVar(&cfg.Snapshots.Credentials, "snapshot-s3-credentials", "", "file of mode 0600 with aws_access_key_id and aws_secret_access_key (default: the environment's AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")
	f.StringSliceVar(&cfg.PlainHTTP, "plain-http", nil, "registries that are spoken to without TLS")
	f.DurationVar(&cfg.UpgradeGrace, "upgrade-grace", 0, "how long open connections may go on after an upgrade (default 10m)")
	f.StringVar(&cfg.NetworkPrefix, "network-prefix", "perigee", "name of our network devices and tables")
	f.Func("ipv6", "the /16 that private addresses come from (default fdaa::/16)", func(s string) (err error) {
		cfg.IPv6, err = netip.ParsePrefix(s)
		return err
	})
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.AddCommand(builderCommand(), joinCommand(), secretsCommand())
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
	cfg.Builder, cfg.Program = []string{self, "builder"}, self
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	upgrade := make(chan os.Signal, 1)
	signal.Notify(upgrade, syscall.SIGUSR2)
	cfg.UpgradeOn = upgrade
	return node.Serve(ctx, cfg)
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
