package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// DefaultMTU lets a packet over IPv6 pass where 1500 bytes do: 80 are
// WireGuard's.
const DefaultMTU = 1420

// DefaultPort is WireGuard's.
const DefaultPort = 51820

// Config says what the device is. Device, KeyFile and Address are required.
type Config struct {
	// Device is the name of the network device, at most 15 bytes.
	Device string
	// KeyFile holds the private key, mode 0600, made at the first start. Beside it
	// is the next one, with ".next" after the name, while a rotation is under way.
	KeyFile string
	// Port is the UDP port to listen on. Default [DefaultPort].
	Port int
	// Address is the node's own in the mesh, given to the device.
	Address netip.Prefix
	// MTU of the device. Default [DefaultMTU].
	MTU int
	// Userspace uses wireguard-go also where the kernel has WireGuard.
	Userspace bool
	// TUN is the device of wireguard-go, as another process of ours had it: its
	// addresses and routes are kept, and what is sent meanwhile waits. New takes it
	// over. Default: a new one.
	TUN *os.File
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

var deviceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)

func (c *Config) setDefaults() error {
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !deviceForm.MatchString(c.Device):
		return fmt.Errorf("cannot use %q as device name: want 1 to 15 letters, digits, dots, hyphens and underscores", c.Device)
	case !filepath.IsAbs(c.KeyFile):
		return fmt.Errorf("cannot use %q as key file: want an absolute path", c.KeyFile)
	case !c.Address.IsValid():
		return errors.New("cannot make WireGuard device: it needs an address")
	case c.Port < 1 || c.Port > 65535:
		return fmt.Errorf("cannot use %d as port: want 1 to 65535", c.Port)
	case c.MTU < 1280 || c.MTU > 65535:
		return fmt.Errorf("cannot use %d as MTU: want 1280 to 65535 bytes", c.MTU)
	}
	return nil
}

// Peer is one link: to a node or to a laptop.
type Peer struct {
	// Name is for logs and [Status].
	Name string
	// Key is the peer's public key.
	Key Key
	// Next is the key that it is about to use, zero if there is none.
	Next Key
	// Endpoint is "host:port", the host an IP address or a name. "" waits for the
	// peer to call, as laptops do. A peer that calls from elsewhere is answered there.
	Endpoint string
	// Allowed is where the peer may speak from and what is sent to it.
	Allowed []netip.Prefix
	// Keepalive is how often an idle link says a word, so that what is between
	// keeps it open. With it a device that starts, or changes its key, also greets
	// the peer at once, who would else learn of it after 15 s, and again until a
	// session stands. Default: never.
	Keepalive time.Duration
}

// Status is how a link does.
type Status struct {
	Name string
	// Key that is in use.
	Key Key
	// Endpoint that packets go to, invalid if the peer has not called yet.
	Endpoint netip.AddrPort
	// LastHandshake is zero before the first; an active link has one every two minutes.
	LastHandshake time.Time
	// Received and Sent count bytes.
	Received, Sent int64
}

// goodPeers leaves out, and reports, what would make the device refuse, or take
// packets wrongly. Of two peers that claim one key or prefix the first is good.
func goodPeers(own Key, peers []Peer) ([]Peer, error) {
	taken := claims{map[Key]string{own: "this node's"}, map[netip.Prefix]string{}}
	var good []Peer
	var errs []error
	for _, p := range peers {
		err := p.check()
		if err == nil {
			err = taken.claim(p)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot use WireGuard peer %q: %w", p.Name, err))
			continue
		}
		good = append(good, p)
	}
	return good, errors.Join(errs...)
}

// claims say whose a key or a prefix is.
type claims struct {
	keys     map[Key]string
	prefixes map[netip.Prefix]string
}

// claim takes all of a peer's or nothing.
func (c claims) claim(p Peer) error {
	for _, k := range []Key{p.Key, p.Next} {
		if other, taken := c.keys[k]; taken && !k.IsZero() {
			return fmt.Errorf("its key is %s", other)
		}
	}
	for _, a := range p.Allowed {
		if other, taken := c.prefixes[a.Masked()]; taken {
			return fmt.Errorf("%s is %s", a, other)
		}
	}
	whose := fmt.Sprintf("that of peer %q", p.Name)
	c.keys[p.Key], c.keys[p.Next] = whose, whose
	for _, a := range p.Allowed {
		c.prefixes[a.Masked()] = whose
	}
	return nil
}

func (p Peer) check() error {
	if p.Key.IsZero() {
		return errors.New("it has no key")
	}
	for _, a := range p.Allowed {
		if !a.IsValid() || a.Bits() == 0 {
			return fmt.Errorf("want prefixes of the mesh, not %s", a)
		}
	}
	if p.Keepalive < 0 || p.Keepalive > 65535*time.Second {
		return fmt.Errorf("want a keepalive up to 65535 s, not %s", p.Keepalive)
	}
	if p.Endpoint == "" {
		return nil
	}
	return CheckEndpoint(p.Endpoint)
}
