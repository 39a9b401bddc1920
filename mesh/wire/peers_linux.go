package wire

import (
	"bytes"
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

// yieldFor is how long the device with the larger key waits to be greeted before
// it greets. When both greet at once, WireGuard may take seconds to sort it out.
const yieldFor = time.Second

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
	wanted := map[Key]bool{}
	for _, t := range d.peers {
		active := t.active(have)
		for _, k := range t.keys() {
			wanted[k] = true
			c, differs := d.change(t, k, k == active, have)
			switch {
			case differs && k == active:
				out = append(out, c)
			case differs:
				idle = append(idle, c)
			}
		}
	}
	for k := range have {
		if !wanted[k] {
			delete(d.told, k)
			delete(d.met, k)
			idle = append(idle, wgtypes.PeerConfig{PublicKey: wgtypes.Key(k), Remove: true})
		}
	}
	return append(out, idle...)
}

// change is what one key of a peer lacks; one that is not in use yet is allowed nothing.
func (d *Device) change(t target, k Key, active bool, have map[Key]wgtypes.Peer) (wgtypes.PeerConfig, bool) {
	old, known := have[k]
	allowed, keepalive := t.Allowed, t.Keepalive
	switch {
	case !active:
		allowed, keepalive = nil, 0
	case d.yields(k, old):
		keepalive = 0
	}
	c := wgtypes.PeerConfig{PublicKey: wgtypes.Key(k)}
	differs := !known
	if !sameAllowed(old.AllowedIPs, allowed) {
		differs, c.ReplaceAllowedIPs, c.AllowedIPs = true, true, ipNets(allowed)
	}
	if old.PersistentKeepaliveInterval != keepalive {
		differs, c.PersistentKeepaliveInterval = true, &keepalive
	}
	if t.endpoint.IsValid() && (!known || d.told[k] != t.endpoint) {
		differs, c.Endpoint = true, net.UDPAddrFromAddrPort(t.endpoint)
		d.told[k] = t.endpoint
	}
	return c, differs
}

// yields reports whether the peer with a key is to greet first.
func (d *Device) yields(k Key, p wgtypes.Peer) bool {
	if d.met[k].IsZero() {
		d.met[k] = time.Now()
	}
	own := d.key.Public()
	return bytes.Compare(own[:], k[:]) > 0 && p.LastHandshakeTime.Unix() <= 0 && time.Since(d.met[k]) < yieldFor
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

// followKeys looks for peers that have begun to use their next key, or have not
// greeted as they should, while there are any of which that may be.
func (d *Device) followKeys(ctx context.Context) {
	defer close(d.done)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		ticks := tick.C
		if !d.unsettled() {
			ticks = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-ticks:
			d.follow()
		}
	}
}

func (d *Device) unsettled() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.peers, func(t target) bool {
		return !t.Next.IsZero() || t.Keepalive > 0 && time.Since(d.met[t.Key]) < yieldFor+2*followEvery
	})
}

func (d *Device) follow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.backend.peers()
	if err == nil {
		if changes := d.changes(have); len(changes) > 0 {
			err = d.backend.set(wgtypes.Config{Peers: changes})
		}
	}
	if err != nil {
		d.log.Warn("cannot follow the keys of WireGuard peers", "error", err)
	}
}
