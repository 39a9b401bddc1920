// Package dial reaches the mesh from a program, with no root and no network
// device: WireGuard and a TCP/IP stack in this process. It is for `perigee proxy`
// and the like; a node's own device is package wire. It builds on every system.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/perigee-run/perigee/mesh/wire"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// Config is one WireGuard peer, as a file for wg-quick has it. All but MTU are required.
type Config struct {
	// PrivateKey is ours.
	PrivateKey wire.PrivateKey
	// Address is ours in the mesh.
	Address netip.Addr
	// DNS is the resolver that answers names.
	DNS netip.Addr
	// Gateway is the key of the node where we enter.
	Gateway wire.Key
	// Endpoint is "host:port" of that node.
	Endpoint string
	// Allowed is what is reached through it.
	Allowed []netip.Prefix
	// MTU of the tunnel. Default [wire.DefaultMTU].
	MTU int
}

// Net is a way into the mesh. Its methods may be called from any goroutine.
type Net struct {
	dev *device.Device
	net *netstack.Net
	cfg Config
}

// Open starts WireGuard in this process. It does not wait for an answer of the
// gateway: the first connection does.
func Open(ctx context.Context, cfg Config) (*Net, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("cannot enter the mesh: %w", err)
	}
	endpoint, err := resolve(ctx, cfg.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("cannot find the gateway %q: %w", cfg.Endpoint, err)
	}
	tun, stack, err := netstack.CreateNetTUN([]netip.Addr{cfg.Address}, []netip.Addr{cfg.DNS}, cfg.MTU)
	if err != nil {
		return nil, fmt.Errorf("cannot make a network in this process: %w", err)
	}
	dev := device.NewDevice(tun, conn.NewDefaultBind(), &device.Logger{Verbosef: device.DiscardLogf, Errorf: device.DiscardLogf})
	if err := errors.Join(dev.IpcSet(cfg.uapi(endpoint)), dev.Up()); err != nil {
		dev.Close()
		return nil, fmt.Errorf("cannot start WireGuard: %w", err)
	}
	return &Net{dev, stack, cfg}, nil
}

func (c *Config) check() error {
	if c.MTU == 0 {
		c.MTU = wire.DefaultMTU
	}
	switch {
	case c.PrivateKey == wire.PrivateKey{} || c.Gateway.IsZero():
		return errors.New("want our private key and the gateway's public key")
	case !c.Address.IsValid() || !c.DNS.IsValid() || len(c.Allowed) == 0:
		return errors.New("want an address, a resolver and at least one prefix")
	case c.MTU < 1280 || c.MTU > 65535:
		return fmt.Errorf("want an MTU of 1280 to 65535 bytes, not %d", c.MTU)
	}
	return wire.CheckEndpoint(c.Endpoint)
}

func (c Config) uapi(endpoint netip.AddrPort) string {
	s := fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=%s\npersistent_keepalive_interval=25\n", c.PrivateKey[:], c.Gateway[:], endpoint)
	for _, p := range c.Allowed {
		s += fmt.Sprintf("allowed_ip=%s\n", p.Masked())
	}
	return s
}

func resolve(ctx context.Context, endpoint string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(endpoint); err == nil {
		return a, nil
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(n)), nil
}

// DialContext connects to an address or a name of the mesh; networks are those
// of package net: tcp and udp.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := n.net.DialContext(ctx, network, address)
	if err != nil {
		return nil, n.explain(fmt.Errorf("cannot reach %s in the mesh: %w", address, err))
	}
	return c, nil
}

// LookupHost asks the mesh's resolver for the addresses of a name.
func (n *Net) LookupHost(ctx context.Context, name string) ([]string, error) {
	addrs, err := n.net.LookupContextHost(ctx, name)
	if err != nil {
		return nil, n.explain(fmt.Errorf("cannot find %s in the mesh: %w", name, err))
	}
	return addrs, nil
}

// ErrSilent is part of an error when the gateway has never answered.
var ErrSilent = errors.New("the gateway does not answer")

// explain says so if there is no link at all.
func (n *Net) explain(err error) error {
	if n.LastHandshake().IsZero() {
		return fmt.Errorf("%w: %w at UDP %s: check that a firewall lets it pass", err, ErrSilent, n.cfg.Endpoint)
	}
	return err
}

// LastHandshake is when the gateway was last heard of, zero if never.
func (n *Net) LastHandshake() time.Time {
	text, err := n.dev.IpcGet()
	if err != nil {
		return time.Time{}
	}
	return lastHandshake(text)
}

// Close ends every connection.
func (n *Net) Close() error {
	n.dev.Close()
	return nil
}
