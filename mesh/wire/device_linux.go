package wire

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// ErrNoNext means that there is no next key to use.
var ErrNoNext = errors.New("there is no next WireGuard key: make one with Rotate first")

// Device is this node's end of every link. Its methods may be called from any
// goroutine. It belongs to the network namespace that New was called in.
type Device struct {
	cfg     Config
	log     *slog.Logger
	file    keyFile
	backend backend
	link    link

	mu        sync.Mutex // guards what follows, and makes a change of the device one step
	key       PrivateKey
	keyed     time.Time // when the key was changed; sessions of before are gone
	peers     []target
	told      map[Key]netip.AddrPort // endpoint that the device was last told
	greetings map[Key]greeting       // of peers without a session

	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

// backend is WireGuard itself, in the kernel or in this process.
type backend interface {
	// kind is for the log.
	kind() string
	// set changes what the configuration names, all or, on error, some of it.
	set(wgtypes.Config) error
	// peers returns every peer, by key.
	peers() (map[Key]wgtypes.Peer, error)
	// close frees what the process holds; remove takes the device away too.
	close() error
	remove() error
}

// target is a peer with its endpoint looked up.
type target struct {
	Peer
	endpoint netip.AddrPort
}

// New makes the device, or takes over the one that an earlier process left in
// the kernel, with its links. It has the key of KeyFile, its address, and is up.
func New(cfg Config) (*Device, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	d := &Device{cfg: cfg, log: cfg.Logger, file: keyFile(cfg.KeyFile), told: map[Key]netip.AddrPort{}, greetings: map[Key]greeting{},
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	var err error
	if d.key, err = d.file.open(); err != nil {
		return nil, err
	}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("cannot make WireGuard device %q: %w", cfg.Device, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go d.follow(ctx)
	d.log.Info("WireGuard ready", "device", cfg.Device, "kind", d.backend.kind(), "port", cfg.Port, "key", d.key.Public())
	return d, nil
}

// open leaves nothing behind on error, but for a device of the kernel's that was there before.
func (d *Device) open() (err error) {
	if d.backend, err = openBackend(d.cfg); err != nil {
		return err
	}
	d.link, err = openLink(d.cfg)
	if err == nil {
		key, port := wgtypes.Key(d.key), d.cfg.Port
		err = d.backend.set(wgtypes.Config{PrivateKey: &key, ListenPort: &port})
	}
	if err == nil {
		err = d.link.up()
	}
	if err != nil {
		d.link.close()
		return errors.Join(err, d.backend.close())
	}
	return nil
}

// Close ends the device's work in this process. A device of the kernel stays, so
// that packets go on while the daemon is away; wireguard-go's ends.
func (d *Device) Close() error {
	d.stop()
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link.close()
	return d.backend.close()
}

// Remove ends the device for good; call it instead of Close.
func (d *Device) Remove() error {
	d.stop()
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	d.link.close()
	return d.backend.remove()
}

// TUN is the device of wireguard-go, for a process that takes over, which makes a
// duplicate of it Config.TUN after Close. Nil with the kernel's WireGuard, which
// needs none.
func (d *Device) TUN() *os.File {
	if u, ok := d.backend.(*userspace); ok {
		return u.tun.File()
	}
	return nil
}

// PublicKey returns the key that the device has now.
func (d *Device) PublicKey() Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.key.Public()
}

// KeyMade returns when the key that the device has now was made.
func (d *Device) KeyMade() (time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file.made()
}

// Knows reports whether the device lets the peer in by a key, its present or its
// next one.
func (d *Device) Knows(peer string, k Key) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !k.IsZero() && slices.ContainsFunc(d.peers, func(t target) bool { return t.Name == peer && slices.Contains(t.keys(), k) })
}

// NextKey returns the public half of the key that UseNext will use, zero if
// there is none.
func (d *Device) NextKey() Key {
	next, err := d.file.next().read()
	if err != nil {
		return Key{}
	}
	return next.Public()
}

// Rotate makes the next key and returns its public half, for the node to
// publish. Called again before UseNext it returns the same one.
func (d *Device) Rotate() (Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.file.next().open()
	if err != nil {
		return Key{}, err
	}
	return next.Public(), nil
}

// UseNext makes the next key the present one, first on disk, and greets all
// peers with it. Peers that do not know it yet are cut off until they do.
func (d *Device) UseNext() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.file.next().read()
	if errors.Is(err, os.ErrNotExist) {
		return ErrNoNext
	}
	if err != nil {
		return err
	}
	if err := os.Rename(string(d.file.next()), string(d.file)); err != nil {
		return fmt.Errorf("cannot change WireGuard key: %w", err)
	}
	key := wgtypes.Key(next)
	d.keyed = time.Now()
	if err := d.backend.set(wgtypes.Config{PrivateKey: &key}); err != nil {
		return fmt.Errorf("cannot change WireGuard key: %w", err)
	}
	d.key = next
	d.log.Info("WireGuard key changed", "device", d.cfg.Device, "key", next.Public())
	return d.greetAll()
}

// Status tells how every link does, in the order of SetPeers.
func (d *Device) Status() ([]Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	have, err := d.backend.peers()
	if err != nil {
		return nil, fmt.Errorf("cannot ask WireGuard device %q: %w", d.cfg.Device, err)
	}
	all := make([]Status, 0, len(d.peers))
	for _, t := range d.peers {
		key := t.active(have)
		p := have[key]
		s := Status{Name: t.Name, Key: key, Received: p.ReceiveBytes, Sent: p.TransmitBytes}
		if p.LastHandshakeTime.Unix() > 0 {
			s.LastHandshake = p.LastHandshakeTime
		}
		if p.Endpoint != nil {
			a := p.Endpoint.AddrPort()
			s.Endpoint = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		}
		all = append(all, s)
	}
	return all, nil
}
