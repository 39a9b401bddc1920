//go:build linux

package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/perigee-run/perigee/lab/control"
)

// Dial connects from the host over tcp or udp. A name is asked of the host's
// resolver; its addresses are tried one after the other.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.dial(ctx, network, addr, func() {})
}

// timedDial writes down when the name was found and the connection was there.
func (h *Host) timedDial(v *control.Visit, to string, began time.Time) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if _, port, err := net.SplitHostPort(addr); err == nil && to != "" {
			addr = net.JoinHostPort(to, port)
		}
		c, err := h.dial(ctx, network, addr, func() { v.Lookup = time.Since(began) })
		if err == nil {
			v.Connect, v.Remote = time.Since(began), c.RemoteAddr().String()
		}
		return c, err
	}
}

func (h *Host) dial(ctx context.Context, network, addr string, found func()) (net.Conn, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return h.space.Dial(ctx, network, addr)
	}
	addrs, err := h.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	found()
	for _, a := range addrs {
		if !wants(network, a) {
			continue
		}
		var c net.Conn
		if c, err = h.space.Dial(ctx, network, net.JoinHostPort(a.String(), port)); err == nil {
			return c, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("cannot connect to %q over %s: the name has no such address", name, network)
	}
	return nil, err
}

func wants(network string, a netip.Addr) bool {
	return !strings.HasSuffix(network, "4") && !strings.HasSuffix(network, "6") || strings.HasSuffix(network, "4") == a.Is4()
}

// Lookup asks the host's resolver for the addresses of a name, IPv4 first.
func (h *Host) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		server, err := h.nameserver()
		if err != nil {
			return nil, err
		}
		return h.space.Dial(ctx, network, netip.AddrPortFrom(server, 53).String())
	}}
	v4, err4 := r.LookupNetIP(ctx, "ip4", name+".")
	v6, err6 := r.LookupNetIP(ctx, "ip6", name+".")
	if err4 != nil && err6 != nil {
		return nil, err4
	}
	return append(v4, v6...), nil
}

func (h *Host) nameserver() (netip.Addr, error) {
	b, err := os.ReadFile(h.lab.path("resolv", h.Name))
	if err != nil {
		return netip.Addr{}, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return netip.ParseAddr(f[1])
		}
	}
	return netip.Addr{}, fmt.Errorf("cannot ask for names on host %q: its resolv.conf names no server", h.Name)
}
