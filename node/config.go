package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/handover"
)

// Config says what the node is and where it keeps its state. The zero value of
// every field but Data is useful.
type Config struct {
	// Data is the directory of the node's whole state. Required.
	Data string
	// Name of the node, part of its machines' addresses: it is kept in the data
	// directory and cannot change. Default: the host's name at the first start.
	Name string
	// Region is the city code of the node. Default "local".
	Region string
	// Domain: apps answer at <app>.<Domain>. It is kept in the data directory, and
	// nodes that join get it. Default: the kept one, or "perigee.localhost".
	Domain string
	// OIDCIssuer is the address that machines' identity tokens are signed with and at
	// which others find the keys: an https URL that leads to the API. Default: https://
	// and Domain.
	OIDCIssuer string
	// SecretsIdentity is a file of age identities that open secrets.key, where that is
	// wrapped. Default: it is not.
	SecretsIdentity string
	// Listen is the API's and the built-in registry's TCP address. Default
	// "127.0.0.1:4280".
	Listen string
	// Socket is the API's unix socket, for root alone and without a token.
	// Default Data/api.sock.
	Socket string
	// HTTP and HTTPS are the addresses that answer for the public ports 80 and
	// 443. Default: those ports on all addresses; "off" opens none.
	HTTP, HTTPS string
	// ACMEEmail turns on certificates by ACME, with this contact; without it, and
	// without ACMEDirectory, a local CA signs.
	ACMEEmail string
	// ACMEDirectory is the directory URL. Default: Let's Encrypt.
	ACMEDirectory string
	// ACMERoots is a PEM file of the ACME server's own roots, for private ones.
	ACMERoots string
	// Alone keeps the node to itself: it opens no ports for other nodes and none
	// can join it.
	Alone bool
	// Address is the host at which other nodes reach this one. Default: the address
	// from which this server reaches the Internet.
	Address string
	// PeerPort, StatePort and RoutePort (TCP) and WireGuardPort (UDP) are for other
	// nodes. Default 4281, 4282, 4283 and 51820.
	PeerPort, StatePort, RoutePort, WireGuardPort int
	// RotateAfter is how old the node's WireGuard key becomes; negative is for ever.
	// Default 30 days.
	RotateAfter time.Duration
	// Roles of the node: host, edge, state, build. Default: all.
	Roles []string
	// Members is how many nodes keep the replicated state once there are enough:
	// 1, 3 or 5. Default 3.
	Members int
	// NATSServers are the addresses of an outside NATS cluster. Default: embedded.
	NATSServers []string
	// NATSReplicas is how many of its servers keep each record. Default: as many as
	// NATSServers names, three at most.
	NATSReplicas int
	// NATSCredentials is the credentials file for it.
	NATSCredentials string
	// Sandbox is the path of perigee-sandbox. Default: beside this program.
	Sandbox string
	// Builder is the command that runs the builder process. Required for builds.
	Builder []string
	// Pool is how many sandboxes wait for a start. Default 2; -1 none.
	Pool int
	// PauseAfter, SinkAfter and StopAfter say when idle machines sleep: paused
	// (default 1 minute), their memory on disk (default 5 more minutes), and
	// stopped where the configuration says "stop" (default 5 more minutes).
	PauseAfter, SinkAfter, StopAfter time.Duration
	// APIRate is how often each change may be called on one thing over TCP, in calls a
	// second; 0 is without bound.
	APIRate float64
	// DeadAfter is how long a node must not be heard of until its machines are made
	// anew elsewhere. Default one minute.
	DeadAfter time.Duration
	// Public are the addresses at which clients reach this node's router, for the
	// DNS server. Default: Address.
	Public []string
	// DNS and Anycast lead clients to the nearest edge.
	DNS     DNS
	Anycast Anycast
	// DrainWait is how long an edge that drains lets in who has not heard of it.
	// Default: 30 s where a node of the cloud answers for the domain by DNS, which is
	// its TTL and a little; 5 s after the routes are withdrawn where there is BGP
	// alone. Before those are withdrawn they are marked for as long, 10 s by default.
	DrainWait time.Duration
	// Snapshots says where the volumes' snapshots are kept. Default: in the data
	// directory.
	Snapshots Snapshots
	// PlainHTTP lists registries that are spoken to without TLS.
	PlainHTTP []string
	// NetworkPrefix names devices and tables; two nodes on one server need two.
	// Default "perigee".
	NetworkPrefix string
	// IPv6 is the /16 that private addresses come from; two nodes on one server
	// need two. Default fdaa::/16.
	IPv6 netip.Prefix
	// Program is the path of this program: an upgrade starts what is there then.
	Program string
	// UpgradeOn asks for an upgrade, as SIGUSR2 does. Default: nothing does.
	UpgradeOn <-chan os.Signal
	// UpgradeGrace is how long connections may go on in the former process after an
	// upgrade. Default 10 minutes.
	UpgradeGrace time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	heritage *handover.Heritage // of the node whose place this one takes
	since    time.Time          // when this process became the node; zero: now
	fault    string             // why an upgrade has failed
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
var regionName = regexp.MustCompile(`^[a-z][a-z0-9]{1,15}$`)
var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (c *Config) defaults() error {
	if c.Data == "" {
		return errors.New("cannot make node: no data directory is given")
	}
	abs, err := filepath.Abs(c.Data)
	if err != nil {
		return err
	}
	c.Data = abs
	c.Listen, c.Socket = or(c.Listen, "127.0.0.1:4280"), or(c.Socket, filepath.Join(c.Data, "api.sock"))
	c.NetworkPrefix = or(c.NetworkPrefix, "perigee")
	if c.DeadAfter == 0 {
		c.DeadAfter = time.Minute
	}
	if c.RotateAfter == 0 {
		c.RotateAfter = 30 * 24 * time.Hour
	}
	if c.UpgradeGrace == 0 {
		c.UpgradeGrace = 10 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if !c.IPv6.IsValid() {
		c.IPv6 = netip.MustParsePrefix("fdaa::/16")
	}
	if c.Sandbox == "" {
		if c.Sandbox, err = beside("perigee-sandbox"); err != nil {
			return err
		}
	}
	return c.check()
}

func (c *Config) check() error {
	switch {
	case c.Region != "" && !regionName.MatchString(c.Region):
		return fmt.Errorf("cannot use %q as region: want 2 to 16 lower-case letters and digits, such as fra", c.Region)
	case c.Domain != "" && !domainName.MatchString(c.Domain):
		return fmt.Errorf("cannot use %q as domain: want a name such as apps.example.com", c.Domain)
	}
	if c.Pool < -1 || c.Pool > 64 {
		return fmt.Errorf("cannot use %d as --pool: want -1 (none) to 64", c.Pool)
	}
	for flag, d := range map[string]time.Duration{"pause-after": c.PauseAfter, "stop-after": c.StopAfter} {
		if d < 0 {
			return fmt.Errorf("cannot use %s as --%s: want a positive time, such as 1m", d, flag)
		}
	}
	for flag, addr := range map[string]string{"listen": c.Listen, "http": c.HTTP, "https": c.HTTPS} {
		if addr == "" || addr == "off" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("cannot use %q as --%s: want HOST:PORT, such as 127.0.0.1:8080", addr, flag)
		}
	}
	return nil
}

// listenMap is the router's map from public ports to addresses.
func (c *Config) listenMap() map[int]string {
	m := map[int]string{}
	if c.HTTP != "" {
		m[80] = c.HTTP
	}
	if c.HTTPS != "" {
		m[443] = c.HTTPS
	}
	return m
}

// publicPort is where a public port is really found: what follows it is shown
// in addresses that people open.
func (c *Config) publicPort(port int) string {
	addr := c.listenMap()[port]
	if addr == "" {
		return fmt.Sprint(port)
	}
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// hostPorts are the ports of the router, which machines may reach too: an app
// can call another by its public name.
func (c *Config) hostPorts() []uint16 {
	var out []uint16
	for _, public := range []int{80, 443} {
		if p, err := strconv.ParseUint(c.publicPort(public), 10, 16); err == nil {
			out = append(out, uint16(p))
		}
	}
	return out
}

// beside finds a program in the folder of this one.
func beside(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	p := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(p); err != nil {
		return "", fmt.Errorf("cannot find %s beside %s; name it with --sandbox, or build it with make build", name, self)
	}
	return p, nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
