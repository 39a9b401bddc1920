package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// followEvery is how soon a peer's next key is noticed to be in use.
const followEvery = 50 * time.Millisecond

// lookupTimeout bounds the wait for names of endpoints, all together.
const lookupTimeout = 3 * time.Second

// SetPeers makes these the links, with a route to each prefix, and no others.
// Links that stay as they are go on undisturbed. A bad peer is left out and
// reported; the others are links all the same.
// A name of an endpoint that cannot be looked up is logged, and the link waits
// for the peer to call, or for the next SetPeers.
func (d *Device) SetPeers(ctx context.Context, peers []Peer) error {
	good, bad := goodPeers(d.PublicKey(), peers)
	targets := d.lookUp(ctx, good)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.peers = targets
	if err := d.apply(); err != nil {
		return errors.Join(bad, fmt.Errorf("cannot change WireGuard device %q: %w", d.cfg.Device, err))
	}
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return bad
}

func (d *Device) lookUp(ctx context.Context, peers []Peer) []target {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var all []target
	for _, p := range peers {
		p.Allowed = masked(p.Allowed)
		t := target{Peer: p}
		if p.Endpoint != "" {
			var err error
			if t.endpoint, err = resolve(ctx, p.Endpoint); err != nil {
				d.log.Warn("cannot find WireGuard peer", "peer", p.Name, "endpoint", p.Endpoint, "error", err)
			}
		}
		all = append(all, t)
	}
	return all
}

func masked(all []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range all {
		out = append(out, p.Masked())
	}
	return out
}

// resolve takes the first address of a name; addresses need no looking up.
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
	slices.SortFunc(addrs, netip.Addr.Compare) // the same one every time
	return netip.AddrPortFrom(addrs[0].Unmap(), uint16(n)), nil
}

// keys are the peer's, the present one first.
func (t target) keys() []Key {
	if t.Next.IsZero() {
		return []Key{t.Key}
	}
	return []Key{t.Key, t.Next}
}

// active is the key that the peer shook hands with last.
func (t target) active(have map[Key]wgtypes.Peer) Key {
	if !t.Next.IsZero() && have[t.Next].LastHandshakeTime.After(have[t.Key].LastHandshakeTime) {
		return t.Next
	}
	return t.Key
}

// apply brings the device to what the peers say.
func (d *Device) apply() error {
	have, err := d.backend.peers()
	if err != nil {
		return err
	}
	changes := d.changes(have)
	if len(changes) > 0 {
		if err := d.backend.set(wgtypes.Config{Peers: changes}); err != nil {
			clear(d.told)
			return err
		}
	}
	var routes []netip.Prefix
	for _, t := range d.peers {
		routes = append(routes, t.Allowed...)
	}
	return d.link.setRoutes(routes)
}

// changes is the difference between the device and what it should be. A peer
// that gets a prefix comes before the one that loses it: so the prefix moves,
// and is never nobody's.
func (d *Device) changes(have map[Key]wgtypes.Peer) []wgtypes.PeerConfig {
	var out, idle []wgtypes.PeerConfig
	wanted, room := map[Key]bool{}, greetRoom
	for _, t := range d.peers {
		active := t.active(have)
		for _, k := range t.keys() {
			wanted[k] = true
			old, known := have[k]
			switch {
			case k != active:
				delete(d.greetings, k)
				idle = append(idle, d.change(k, target{endpoint: t.endpoint}, old, known)...)
			case d.mustGreet(k, t, old) && (!known || room > 0):
				if known {
					room--
				}
				out = append(out, d.greeting(k, t, known)...)
			default:
				out = append(out, d.change(k, t, old, known)...)
			}
		}
	}
	for k := range have {
		if !wanted[k] {
			d.forget(k)
			idle = append(idle, wgtypes.PeerConfig{PublicKey: wgtypes.Key(k), Remove: true})
		}
	}
	return append(out, idle...)
}

func (d *Device) forget(k Key) {
	delete(d.told, k)
	delete(d.greetings, k)
}

// change is what one key of a peer lacks, if anything.
func (d *Device) change(k Key, t target, old wgtypes.Peer, known bool) []wgtypes.PeerConfig {
	c := wgtypes.PeerConfig{PublicKey: wgtypes.Key(k)}
	differs := !known
	if !sameAllowed(old.AllowedIPs, t.Allowed) {
		differs, c.ReplaceAllowedIPs, c.AllowedIPs = true, true, ipNets(t.Allowed)
	}
	if old.PersistentKeepaliveInterval != t.Keepalive {
		differs, c.PersistentKeepaliveInterval = true, &t.Keepalive
	}
	if t.endpoint.IsValid() && (!known || d.told[k] != t.endpoint) {
		differs, c.Endpoint = true, net.UDPAddrFromAddrPort(t.endpoint)
		d.told[k] = t.endpoint
	}
	if !differs {
		return nil
	}
	return []wgtypes.PeerConfig{c}
}

func sameAllowed(have []net.IPNet, want []netip.Prefix) bool {
	if len(have) != len(want) {
		return false
	}
	for _, n := range have {
		a, _ := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if !slices.Contains(want, netip.PrefixFrom(a.Unmap(), ones)) {
			return false
		}
	}
	return true
}

func ipNets(all []netip.Prefix) []net.IPNet {
	var out []net.IPNet
	for _, p := range all {
		out = append(out, net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return out
}

// follow looks after what changes by itself: peers that have begun to use their
// next key, and links that do not stand.
func (d *Device) follow(ctx context.Context) {
	defer close(d.done)
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-next.C:
		}
		next.Reset(d.look())
	}
}

// look does what is to be done and returns how soon to look again.
func (d *Device) look() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.backend.peers()
	if err == nil {
		if changes := d.changes(have); len(changes) > 0 {
			err = d.backend.set(wgtypes.Config{Peers: changes})
		}
	}
	if err != nil {
		d.log.Warn("cannot look after WireGuard peers", "error", err)
	}
	next, now := lookEvery, time.Now()
	for _, g := range d.greetings {
		next = min(next, g.nextLook(now))
	}
	if slices.ContainsFunc(d.peers, func(t target) bool { return !t.Next.IsZero() }) {
		next = 0
	}
	return max(next, followEvery)
}
