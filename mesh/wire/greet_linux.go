package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// WireGuard shakes hands when it has something to send, and again every five
// seconds. A greeting that reaches a node before it knows the greeter is lost for
// as long. Worse are two that cross: each end drops its own handshake for the
// other's, whose answer it then refuses; and since the next try comes five
// seconds after that answer, the ends stay in step and may cross for minutes.
// So a device greets anew, sooner, and of two that cross one does so at once.
const (
	// crossing is longer than a round trip on earth: who hears a peer later than
	// that after greeting it, hears no greeting that crossed.
	crossing = 500 * time.Millisecond
	// crossPause is how long what may be an answered greeting is given. The next
	// one must not reach the peer together with the answer of the last, which
	// WireGuard would mix up.
	crossPause = 150 * time.Millisecond
	// greetAgain is how long the end with the smaller key waits for its greeting
	// to be answered; the other end waits twice as long, so that they get out of
	// step. After every fourth greeting both wait longer, up to greetAtLast.
	greetAgain  = time.Second
	greetAtLast = 5 * time.Second
	greetSoon   = 4
	// greetRoom is how many are greeted anew in one look, so that with followEvery between
	// looks it is a thousand a second when all peers are silent at once.
	greetRoom = 50
	// sessionLife is after how long WireGuard takes no more packets.
	sessionLife = 180 * time.Second
	// lookEvery is how soon a session that has ended is noticed.
	lookEvery = 10 * time.Second
)

// greeting is what is done about a peer without a session.
type greeting struct {
	at, due time.Time // of the last one, and of the next
	count   int
	heard   bool  // a word of the peer was taken into account
	bytes   int64 // received from the peer before
}

// mustGreet reports whether it is time to greet a peer.
func (d *Device) mustGreet(k Key, t target, p wgtypes.Peer) bool {
	if t.Keepalive == 0 || !t.endpoint.IsValid() || d.session(p) {
		delete(d.greetings, k)
		return false
	}
	now := time.Now()
	g, waits := d.greetings[k]
	switch {
	case !waits:
		g = greeting{due: now, bytes: p.ReceiveBytes}
	case !g.heard && p.ReceiveBytes != g.bytes: // it greets us
		g.heard, g.due = true, now.Add(greetAgain)
		if d.first(k) && now.Sub(g.at) < crossing {
			g.due = now.Add(crossPause)
		}
	}
	d.greetings[k] = g
	return !now.Before(g.due)
}

// nextLook is how soon there is something to be done about a peer.
func (g greeting) nextLook(now time.Time) time.Duration {
	if !g.heard && g.count <= greetSoon && now.Sub(g.at) < crossing {
		return 0
	}
	return g.due.Sub(now)
}

// session reports whether packets can pass.
func (d *Device) session(p wgtypes.Peer) bool {
	return p.LastHandshakeTime.After(d.keyed) && time.Since(p.LastHandshakeTime) < sessionLife
}

// first reports whether this end is the one that greets when both do.
func (d *Device) first(k Key) bool {
	own := d.key.Public()
	return bytes.Compare(own[:], k[:]) < 0
}

// greeting makes the peer anew. Nothing else has WireGuard shake hands before its
// five seconds are over; a keepalive that is switched on has it do so at once.
func (d *Device) greeting(k Key, t target, known bool) (out []wgtypes.PeerConfig) {
	d.greeted(k, false)
	if known {
		out = append(out, wgtypes.PeerConfig{PublicKey: wgtypes.Key(k), Remove: true})
	}
	d.told[k] = t.endpoint
	return append(out, wgtypes.PeerConfig{
		PublicKey: wgtypes.Key(k), Endpoint: net.UDPAddrFromAddrPort(t.endpoint),
		PersistentKeepaliveInterval: &t.Keepalive, ReplaceAllowedIPs: true, AllowedIPs: ipNets(t.Allowed),
	})
}

// greeted notes a greeting and when the next one is due. Deaf is one after which
// what comes from the peer need not be a greeting: it may be of a session that
// this end has left.
func (d *Device) greeted(k Key, deaf bool) {
	wait := greetAgain
	if !d.first(k) {
		wait *= 2
	}
	n, now := d.greetings[k].count, time.Now()
	wait = min(wait<<min(n/greetSoon, 4), greetAtLast)
	d.greetings[k] = greeting{at: now, due: now.Add(wait + rand.N(wait/4)), count: n + 1, heard: deaf}
}

// greetAll shakes hands with every peer at once, without an end to what still
// arrives by the sessions of before.
func (d *Device) greetAll() error {
	off, on := time.Duration(0), 25*time.Second
	var stop, start, restore []wgtypes.PeerConfig
	for _, t := range d.peers {
		for _, k := range t.keys() {
			d.greeted(k, true)
			p := wgtypes.PeerConfig{PublicKey: wgtypes.Key(k), UpdateOnly: true}
			p.PersistentKeepaliveInterval = &off
			stop = append(stop, p)
			p.PersistentKeepaliveInterval = &on
			start = append(start, p)
			p.PersistentKeepaliveInterval = &t.Keepalive
			if k != t.Key {
				p.PersistentKeepaliveInterval = &off
			}
			restore = append(restore, p)
		}
	}
	for _, peers := range [][]wgtypes.PeerConfig{stop, start, restore} {
		if err := d.backend.set(wgtypes.Config{Peers: peers}); err != nil {
			return fmt.Errorf("cannot greet WireGuard peers with the new key: %w", err)
		}
	}
	return nil
}
