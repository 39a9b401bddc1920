//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/perigee-run/perigee/lab/fabric"
	"github.com/perigee-run/perigee/lab/space"
)

// device is every host's way to the lab's internet; mtu is the internet's.
const (
	device = "lab0"
	mtu    = 1500
)

// Host is a computer in a city. Its methods may be called from anywhere.
type Host struct {
	// Name and City say which it is and where.
	Name, City string
	// Addr4 and Addr6 are what it is reached by.
	Addr4, Addr6 netip.Addr

	lab   *Lab
	space *space.Space
	city  int
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// AddHost puts a new host into a city. Its resolver is the city's.
func (l *Lab) AddHost(name, city string) (*Host, error) {
	at := slices.Index(l.cfg.Cities, city)
	switch {
	case !hostName.MatchString(name):
		return nil, fmt.Errorf("cannot add host %q: want a name of lower-case letters, digits and hyphens", name)
	case at < 0:
		return nil, fmt.Errorf("cannot add host %q in city %q: the lab has no such city", name, city)
	}
	l.mu.Lock()
	n := l.numbers[at]
	l.numbers[at]++
	l.mu.Unlock()
	return l.plug(name, at, n)
}

// plug makes a host of a number and joins it to the switch.
func (l *Lab) plug(name string, city, n int) (*Host, error) {
	h := &Host{Name: name, City: l.cfg.Cities[city], Addr4: addr4(city, n), Addr6: addr6(city, n), lab: l, city: city}
	conf := l.path("resolv", name)
	if err := writeResolvConf(conf, addr4(city, 1)); err != nil {
		return nil, err
	}
	var err error
	h.space, err = space.New(space.Config{Hostname: name, ResolvConf: conf})
	if err != nil {
		return nil, fmt.Errorf("cannot add host %q: %w", name, err)
	}
	if err := h.join(); err != nil {
		h.space.Close()
		return nil, err
	}
	return h, l.register(h)
}

func (h *Host) join() error {
	fd := -1
	err := h.space.Do(func() (err error) {
		fd, err = fabric.OpenTUN(device)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := h.lab.fabric.Plug(h.Name, h.City, []netip.Addr{h.Addr4, h.Addr6}, fd); err != nil {
		return err
	}
	err = h.space.Configure(device, mtu, []netip.Prefix{netip.PrefixFrom(h.Addr4, 16), netip.PrefixFrom(h.Addr6, 48)})
	if err != nil {
		h.lab.fabric.Unplug(h.Name)
	}
	return err
}

func (l *Lab) register(h *Host) error {
	l.mu.Lock()
	if !l.closed {
		l.hosts = append(l.hosts, h)
		l.mu.Unlock()
		return l.save()
	}
	l.mu.Unlock()
	h.shut()
	return errors.New("cannot add a host: the lab is closed")
}

func (h *Host) shut() {
	h.lab.fabric.Unplug(h.Name)
	h.space.Close()
	os.Remove(h.lab.path("resolv", h.Name))
}

// Remove takes the host away and ends all that runs on it.
func (h *Host) Remove() {
	l := h.lab
	l.mu.Lock()
	l.hosts = slices.DeleteFunc(l.hosts, func(o *Host) bool { return o == h })
	l.mu.Unlock()
	h.shut()
	_ = l.save()
}

// Command prepares a program to run on the host. The process is a child of this
// one, and ends with the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *space.Cmd {
	return h.space.Command(ctx, name, args...)
}

// Crash ends all processes of the host at once, as a power failure does, but
// what this process opened there stays.
func (h *Host) Crash() error {
	// Process 1 is spared by the kernel, and so is the one that kills, until its
	// own end.
	if err := h.Command(context.Background(), "/bin/sh", "-c", "kill -9 -1").Run(); err != nil {
		return fmt.Errorf("cannot crash host %q: %w", h.Name, err)
	}
	return nil
}

// Do runs f on a thread that is in the host's namespaces; what it opens stays
// there. One at a time, so f must not wait for long.
func (h *Host) Do(f func() error) error { return h.space.Do(f) }

// Pid is that of the host's process 1, as seen from outside.
func (h *Host) Pid() int { return h.space.Pid() }

// AddAddr makes the host answer for one more address: that of a service which it
// announces.
func (h *Host) AddAddr(a netip.Addr) error { return h.space.AddAddr(a) }

// Listen accepts connections at an address of the host.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	return h.space.Listen(network, addr)
}

// ListenPacket receives datagrams at an address of the host.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	return h.space.ListenPacket(network, addr)
}

// HTTPClient makes requests from the host, as its programs would: names are
// asked of the city's resolver. It keeps no connections, so that each request
// takes the way that the network has at that moment.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true, ForceAttemptHTTP2: true}}
}

// writeResolvConf lets programs ask the city's resolver, and notice soon that an
// answer was lost.
func writeResolvConf(path string, server netip.Addr) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot make the lab's directory: %w", err)
	}
	if err := os.WriteFile(path, []byte("nameserver "+server.String()+"\noptions timeout:2 attempts:3\n"), 0o644); err != nil {
		return fmt.Errorf("cannot write resolv.conf: %w", err)
	}
	return nil
}
