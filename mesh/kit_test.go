package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// newNetwork makes a network that is gone after the test.
func newNetwork(t testing.TB, cfg Config) *Network {
	t.Helper()
	needHost(t)
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	n := openNetwork(t, cfg)
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func openNetwork(t testing.TB, cfg Config) *Network {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func acquire(t testing.TB, n *Network) *Slot {
	t.Helper()
	s, err := n.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func machineSlot(t testing.TB, n *Network, org, machine string) *Slot {
	t.Helper()
	s := acquire(t, n)
	if err := n.Assign(t.Context(), s, Identity{Org: org, App: "app", Machine: machine}); err != nil {
		t.Fatal(err)
	}
	return s
}

// place is somewhere to speak from: "" is the host.
type place string

func (p place) do(f func() error) error {
	if p == "" {
		return f()
	}
	return inNamespace(string(p), f)
}

func in(s *Slot) place { return place(s.NetnsPath) }

// serve answers every TCP connection to addr with the peer's address, and every
// UDP packet too.
func serve(t testing.TB, p place, addr netip.AddrPort) {
	t.Helper()
	go serveTCP(listenTCP(t, p, addr))
	go serveUDP(listenUDP(t, p, addr))
}

func listenTCP(t testing.TB, p place, addr netip.AddrPort) (l net.Listener) {
	t.Helper()
	err := p.do(func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func listenUDP(t testing.TB, p place, addr netip.AddrPort) (u net.PacketConn) {
	t.Helper()
	err := p.do(func() (err error) {
		u, err = net.ListenPacket("udp", addr.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, c.RemoteAddr())
		c.Close()
	}
}

func serveUDP(u net.PacketConn) {
	buf := make([]byte, 64)
	for {
		_, from, err := u.ReadFrom(buf)
		if err != nil {
			return
		}
		u.WriteTo([]byte(from.String()), from)
	}
}

// patient is for what should work, brief for what should not. A link whose first
// handshake is lost stands after five seconds and a little.
const (
	patient = 15 * time.Second
	brief   = 250 * time.Millisecond
)

// call connects, and returns the address that the other end saw.
func call(p place, network string, to netip.AddrPort, from netip.Addr, timeout time.Duration) (netip.Addr, error) {
	d := net.Dialer{Timeout: timeout}
	if from.IsValid() && network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	} else if from.IsValid() {
		d.LocalAddr = &net.UDPAddr{IP: from.AsSlice()}
	}
	var c net.Conn
	err := p.do(func() (err error) {
		c, err = d.Dial(network, to.String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if network == "udp" {
		c.Write([]byte("who am I"))
	}
	buf := make([]byte, 128)
	k, err := c.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return netip.Addr{}, err
	}
	seen, err := netip.ParseAddrPort(string(buf[:k]))
	return seen.Addr().Unmap(), err
}

// internet is a namespace behind the host with the two addresses.
type internet struct {
	place
	v4, v6       netip.Addr
	host4, host6 netip.Addr
}

// newInternet joins a namespace to the host by a veth pair with public addresses.
func newInternet(t testing.TB) internet {
	t.Helper()
	needHost(t)
	path := filepath.Join(t.TempDir(), "inet")
	net := internet{place(path), netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8::2"),
		netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")}
	host, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	n := &Network{host: host}
	slot := &Slot{HostDevice: "wan0", MTU: 1500, IPv4: net.v4}
	err = makeNamespace(path, func() error {
		if err := n.addPair(slot); err != nil {
			return err
		}
		return configureEnd("eth0", net.v4, net.v6)
	})
	t.Cleanup(func() { n.deleteDevice("wan0"); removeNamespace(path) })
	if err == nil {
		err = configureEnd("wan0", net.host4, net.host6)
	}
	if err != nil {
		t.Fatal(err)
	}
	return net
}

func configureEnd(dev string, v4, v6 netip.Addr) error {
	return withHandle(func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		if err := bringUp(h, l, true); err != nil {
			return err
		}
		if err := addAddr(h, l, ipNet(netip.PrefixFrom(v4, 24))); err != nil {
			return err
		}
		if err := addAddr(h, l, ipNet(netip.PrefixFrom(v6, 64))); err != nil {
			return err
		}
		// ND needs a link-local address, unless neighbours are told.
		return addAddr(h, l, ipNet(netip.PrefixFrom(netip.MustParseAddr(strings.Replace(v6.String(), "2001:db8::", "fe80::b", 1)), 64)))
	})
}

// becomes gives the internet one more address, routed there by the host.
func becomes(t testing.TB, inet internet, a netip.Addr) {
	t.Helper()
	err := inet.do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			return addAddr(h, l, hostNet(a))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	wan, err := netlink.LinkByName("wan0")
	if err != nil {
		t.Fatal(err)
	}
	gw := inet.v4
	if a.Is6() {
		gw = inet.v6
	}
	if err := netlink.RouteReplace(&netlink.Route{LinkIndex: wan.Attrs().Index, Dst: hostNet(a), Gw: gw.AsSlice()}); err != nil {
		t.Fatal(err)
	}
}

// routeHome lets the internet try to reach machines directly.
func routeHome(t testing.TB, inet internet, n *Network) {
	t.Helper()
	err := inet.do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(n.Pool()), Gw: inet.host4.AsSlice()}); err != nil {
				return err
			}
			return h.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(n.cfg.IPv6), Gw: inet.host6.AsSlice()})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func addGuestAddr(t testing.TB, s *Slot, a netip.Addr) {
	t.Helper()
	err := in(s).do(func() error {
		return withHandle(func(h *netlink.Handle) error {
			l, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			return addAddr(h, l, hostNet(a))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, testPort) }
