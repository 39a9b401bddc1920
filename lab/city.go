//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/lab/resolver"
	"github.com/perigee-run/perigee/lab/upstream"
)

// city is the lab's own host in a city: a BGP speaker and a resolver.
type city struct {
	host     *Host
	router   *upstream.Server
	resolver *resolver.Resolver
	stop     context.CancelFunc
	running  sync.WaitGroup
}

const (
	ownPrefix = "net-"
	// ASN is that of the lab's routers, of those that are left to documentation.
	ASN = 64500
	// Domain is where the lab's resolvers know its hosts, "visitor-fra.lab".
	Domain = "lab"
)

func (h *Host) own() bool { return strings.HasPrefix(h.Name, ownPrefix) }

// openCity makes the city's host and starts what it does.
func (l *Lab) openCity(i int) (*city, error) {
	h, err := l.plug(ownPrefix+l.cfg.Cities[i], i, 1)
	if err != nil {
		return nil, err
	}
	c := &city{host: h}
	c.router = upstream.New(upstream.Config{ASN: ASN, ID: h.Addr4, Host: l.hostAt, Routes: l.fabric, Logger: l.cfg.Logger.With("city", h.City)})
	c.resolver = resolver.New(resolver.Config{Dial: h.space.Dial, Local: l.localName,
		Delay: func(a netip.Addr) time.Duration { return l.fabric.DelayTo(h.City, a) }})
	return c, c.start(l)
}

// start opens all ports before it serves any, so that a failure leaves nothing.
func (c *city) start(l *Lab) error {
	h := c.host
	bgp, err := h.Listen("tcp", ":179")
	if err != nil {
		return fmt.Errorf("cannot open BGP's port in %s: %w", h.City, err)
	}
	udp, err := h.ListenPacket("udp", ":53")
	if err != nil {
		return errors.Join(err, bgp.Close())
	}
	tcp, err := h.Listen("tcp", ":53")
	if err != nil {
		return errors.Join(err, bgp.Close(), udp.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.serve("BGP", l, func() error { return c.router.Serve(ctx, bgp) })
	c.serve("DNS", l, func() error { return c.resolver.Serve(ctx, udp, tcp) })
	return nil
}

func (c *city) serve(what string, l *Lab, run func() error) {
	c.running.Go(func() {
		if err := run(); err != nil && !errors.Is(err, net.ErrClosed) {
			l.cfg.Logger.Error("the city's service ended", "city", c.host.City, "service", what, "err", err)
		}
	})
}

// close waits for the services' end; the host goes with the others.
func (c *city) close() {
	if c.stop != nil {
		c.stop()
	}
	c.running.Wait()
}

// hostAt finds the host that has an address.
func (l *Lab) hostAt(a netip.Addr) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.Addr4 == a || h.Addr6 == a {
			return h.Name, true
		}
	}
	return "", false
}

func (l *Lab) localName(name string) []netip.Addr {
	host, ok := strings.CutSuffix(name, "."+Domain)
	if !ok {
		return nil
	}
	h, err := l.Host(host)
	if err != nil {
		return nil
	}
	return []netip.Addr{h.Addr4, h.Addr6}
}

// Router is where hosts of a city announce prefixes: a BGP speaker on port 179,
// of AS number ASN, that any host may connect to. Its addresses are the first of the
// city's networks; the city's resolver has the same.
func (l *Lab) Router(city string) (v4, v6 netip.Addr, err error) {
	h, err := l.Host(ownPrefix + city)
	if err != nil {
		return v4, v6, fmt.Errorf("cannot find city %q in the lab", city)
	}
	return h.Addr4, h.Addr6, nil
}

// Peers lists the hosts that speak BGP with their city's router.
func (l *Lab) Peers() []upstream.Peer {
	out := []upstream.Peer{}
	for _, c := range l.cities {
		out = append(out, c.router.Peers()...)
	}
	return out
}

// Delegate makes a zone's name servers known to the resolvers of all cities;
// without any the zone is gone.
func (l *Lab) Delegate(zone string, servers ...netip.AddrPort) error {
	for _, c := range l.cities {
		if err := c.resolver.Delegate(zone, servers...); err != nil {
			return err
		}
	}
	return nil
}
