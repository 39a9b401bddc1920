package anycast

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// Neighbor is a router that is told.
type Neighbor struct {
	// Address and ASN are the router's.
	Address netip.Addr
	ASN     uint32
	// Password signs every TCP segment (RFC 2385). Default: none.
	Password string
	// PasswordFile holds the password instead.
	PasswordFile string
	// MultiHop is the most routers on the way, for a neighbor of another AS that is
	// not on the same link. Default 1: it is. Not together with TTLSecurity.
	MultiHop int
	// TTLSecurity takes only packets that come from the same link (RFC 5082). The
	// neighbor must have it too.
	TTLSecurity bool
	// Port is the router's. Default 179.
	Port uint16
}

// Config says who we are, whom to tell and what. ASN, RouterID, Neighbors and
// Prefixes are required.
type Config struct {
	// ASN is our autonomous system's number.
	ASN uint32
	// RouterID is any IPv4 address, or number written so, that no other BGP speaker
	// in the network has.
	RouterID netip.Addr
	// Neighbors are the routers to tell.
	Neighbors []Neighbor
	// Prefixes are what may be announced; nothing else ever is.
	Prefixes []netip.Prefix
	// Communities go with every announcement: "64512:100", or "64512:1:2" for a
	// large one. Default: none.
	Communities []string
	// GracefulShutdown marks the prefixes for DrainWait before a drain withdraws them.
	GracefulShutdown bool
	// DrainWait is how long. Default 10 s.
	DrainWait time.Duration
	// MinInterval is the least time between two announcements of a prefix that was
	// withdrawn in between: routers punish who flaps. Withdrawals never wait.
	// Default 30 s.
	MinInterval time.Duration
	// HoldTime is how long a neighbor may hear nothing before it takes us for dead;
	// a third of it is the time between our signs of life. The neighbor may choose
	// a shorter one. Default 9 s, from 3 s.
	HoldTime time.Duration
	// LocalAddr is the address to connect from. Default: the kernel's choice.
	LocalAddr netip.Addr
	// NextHop4 and NextHop6 are where routers send packets for prefixes of the
	// family, if no neighbor's session is of that family. Default: an address of
	// the interface to the neighbor.
	NextHop4, NextHop6 netip.Addr
	// Listen is the port to take neighbors' connections on as well. Default: none,
	// we connect to them.
	Listen uint16
	// MaxReceived is how many prefixes of a family a neighbor may send, all of which
	// are dropped, before it is disconnected for RetryAfter. Default 1000.
	MaxReceived uint32
	// RetryAfter is how long. Default 5 min.
	RetryAfter time.Duration
	// NoLocalRoutes leaves it to the operator to have the kernel take in packets
	// for the prefixes.
	NoLocalRoutes bool
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

func (c *Config) setDefaults() error {
	c.Neighbors, c.Prefixes = slices.Clone(c.Neighbors), slices.Clone(c.Prefixes)
	setDefault(&c.DrainWait, 10*time.Second)
	setDefault(&c.MinInterval, 30*time.Second)
	setDefault(&c.HoldTime, 9*time.Second)
	setDefault(&c.MaxReceived, 1000)
	setDefault(&c.RetryAfter, 5*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, check := range []func() error{c.checkSelf, c.checkNeighbors, c.checkPrefixes, c.checkTimes} {
		if err := check(); err != nil {
			return err
		}
	}
	_, err := parseCommunities(c.Communities)
	return err
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

func (c *Config) checkSelf() error {
	if err := checkASN(c.ASN); err != nil {
		return fmt.Errorf("cannot announce addresses: our own %w", err)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		return fmt.Errorf("cannot announce addresses: router id %q is not an IPv4 address; use one of this server's, or any that no other router has", text(c.RouterID))
	}
	if len(c.Neighbors) == 0 || len(c.Prefixes) == 0 {
		return errors.New("cannot announce addresses: at least one neighbor and one prefix are needed")
	}
	if c.NextHop4.IsValid() && !c.NextHop4.Is4() || c.NextHop6.IsValid() && !c.NextHop6.Is6() {
		return fmt.Errorf("cannot announce addresses: next hops %s and %s must be an IPv4 and an IPv6 address", text(c.NextHop4), text(c.NextHop6))
	}
	return nil
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func checkASN(n uint32) error {
	switch n {
	case 0:
		return errors.New("AS number is missing")
	case 23456, 65535, 4294967295:
		return fmt.Errorf("AS number %d is reserved; private ones are 64512 to 65534 and 4200000000 to 4294967294", n)
	}
	return nil
}

func (c *Config) checkNeighbors() error {
	seen := map[netip.Addr]bool{}
	for i := range c.Neighbors {
		n := &c.Neighbors[i]
		if err := n.check(c); err != nil {
			return fmt.Errorf("cannot use BGP neighbor %q: %w", text(n.Address), err)
		}
		if seen[n.Address] {
			return fmt.Errorf("cannot use BGP neighbor %q: it is given twice", n.Address)
		}
		seen[n.Address] = true
	}
	return nil
}

func (n *Neighbor) check(c *Config) error {
	if !n.Address.IsValid() || n.Address.IsUnspecified() || n.Address.Is4In6() || n.Address.Zone() != "" {
		return errors.New("want its IPv4 or IPv6 address, without an interface")
	}
	if err := checkASN(n.ASN); err != nil {
		return fmt.Errorf("its %w", err)
	}
	if n.MultiHop < 0 || n.MultiHop > 255 {
		return fmt.Errorf("%d hops are not 1 to 255", n.MultiHop)
	}
	if n.MultiHop > 1 && (n.TTLSecurity || n.ASN == c.ASN) {
		return errors.New("hops are counted only to another AS and without TTL security: TTL security is for neighbors on the same link, and inside an AS any number of hops is right")
	}
	if c.LocalAddr.IsValid() && c.LocalAddr.Is4() != n.Address.Is4() {
		return fmt.Errorf("the local address %s is of the other family", c.LocalAddr)
	}
	return n.readPassword()
}

// maxPassword is TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

func (n *Neighbor) readPassword() error {
	if n.PasswordFile != "" {
		if n.Password != "" {
			return errors.New("give its password or a file, not both")
		}
		b, err := os.ReadFile(n.PasswordFile)
		if err != nil {
			return fmt.Errorf("cannot read its password: %w", err)
		}
		if n.Password = strings.TrimRight(string(b), "\r\n"); n.Password == "" {
			return fmt.Errorf("its password file %q is empty", n.PasswordFile)
		}
	}
	if len(n.Password) > maxPassword {
		return fmt.Errorf("its password has %d bytes; the most is %d", len(n.Password), maxPassword)
	}
	return nil
}

func (c *Config) checkPrefixes() error {
	seen := map[netip.Prefix]bool{}
	for _, p := range c.Prefixes {
		if err := checkPrefix(p); err != nil {
			return err
		}
		if seen[p] {
			return fmt.Errorf("cannot announce %s twice", p)
		}
		seen[p] = true
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	a := p.Addr()
	least := 8
	if a.Is6() {
		least = 16
	}
	switch {
	case !p.IsValid() || a.Is4In6():
		return errors.New("cannot announce an invalid prefix; want 192.0.2.1/32 or 2001:db8::/48")
	case p != p.Masked():
		return fmt.Errorf("cannot announce %s: it has bits beyond its length; want %s", p, p.Masked())
	case p.Bits() < least:
		return fmt.Errorf("cannot announce %s: so large a network cannot be yours; the largest is /%d", p, least)
	case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified():
		return fmt.Errorf("cannot announce %s: nobody routes such addresses", p)
	}
	return nil
}

func (c *Config) checkTimes() error {
	switch {
	case c.HoldTime < 3*time.Second || c.HoldTime > time.Hour:
		return fmt.Errorf("cannot announce addresses: hold time %s is not 3 s to 1 h", c.HoldTime)
	case c.DrainWait < 0 || c.MinInterval < 0 || c.RetryAfter < 0:
		return errors.New("cannot announce addresses: a time is negative")
	}
	return nil
}
