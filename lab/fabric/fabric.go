//go:build linux

package fabric

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says which cities there are. The zero value of every field but Cities
// is useful.
type Config struct {
	// Cities are codes that package region knows. Required.
	Cities []string
	// Converge is how long news of a route takes to every city. Default: as long
	// as a packet takes there.
	Converge time.Duration
	// Reroute is how long the cities' routers take to notice that a city is cut
	// off, or is back. Default 300 ms.
	Reroute time.Duration
	// QueueBytes is how much may be on its way to one host; what comes then is
	// dropped. Default 64 MiB.
	QueueBytes int
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Fabric is the network. Its methods may be called from anywhere.
type Fabric struct {
	cfg    Config
	cities []string
	view   atomic.Pointer[view]
	engine *engine

	mu sync.Mutex // guards what follows
	// ports and names hold the hosts; next numbers them.
	ports       []*Port
	names       map[string]*Port
	next        int
	rules       rules
	heard       []map[netip.Prefix][]*Port // by city
	words       map[origin]word
	unreachable map[pair]bool
	closed      bool
}

// Port is where a host is plugged in.
type Port struct {
	// Name is the host's, City where it stands, Addrs what it is reached by.
	Name, City string
	Addrs      []netip.Addr

	id, city int
	fd       int
	gone     atomic.Bool
	// queued and last belong to the engine's thread: bytes on their way to this
	// port, and when the latest packet from here to each other port arrives.
	queued int
	last   map[int]int64
}

func (p *Port) place() place { return place{p.Name, p.City} }

// New makes a network without hosts and starts its thread.
func New(cfg Config) (*Fabric, error) {
	if err := CheckCities(cfg.Cities); err != nil {
		return nil, err
	}
	if cfg.Reroute == 0 {
		cfg.Reroute = 300 * time.Millisecond
	}
	if cfg.QueueBytes == 0 {
		cfg.QueueBytes = 64 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	f := &Fabric{cfg: cfg, cities: slices.Clone(cfg.Cities), names: map[string]*Port{}, rules: newRules(), words: map[origin]word{}, unreachable: map[pair]bool{}}
	for range f.cities {
		f.heard = append(f.heard, map[netip.Prefix][]*Port{})
	}
	f.rebuild()
	var err error
	f.engine, err = startEngine(f)
	return f, err
}

// Close ends the thread and closes every port's device.
func (f *Fabric) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.engine.stop()
}

// Plug adds a host, whose packets come out of fd, a TUN device with a virtio
// header (see OpenTUN). The fabric closes fd, also when it fails.
func (f *Fabric) Plug(name, city string, addrs []netip.Addr, fd int) (*Port, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := slices.Index(f.cities, city)
	if err := f.mayPlug(name, city, at, addrs); err != nil {
		closeFD(fd)
		return nil, err
	}
	p := &Port{Name: name, City: city, Addrs: addrs, id: f.next, city: at, fd: fd, last: map[int]int64{}}
	f.next++
	f.ports, f.names[name] = append(f.ports, p), p
	f.rebuild()
	return p, f.engine.add(p)
}

func (f *Fabric) mayPlug(name, city string, at int, addrs []netip.Addr) error {
	switch {
	case f.closed:
		return fmt.Errorf("cannot add host %q: the network is closed", name)
	case at < 0:
		return fmt.Errorf("cannot add host %q in city %q: the lab has %s", name, city, strings.Join(f.cities, ", "))
	case f.names[name] != nil || slices.Contains(f.cities, name) || name == World || name == "":
		return fmt.Errorf("cannot add host %q: the name is taken: choose another", name)
	}
	for _, a := range addrs {
		if p, ok := f.view.Load().ports[a]; ok {
			return fmt.Errorf("cannot add host %q: host %q has its address %s", name, p.Name, a)
		}
	}
	return nil
}

// Unplug takes a host away, with what it announced.
func (f *Fabric) Unplug(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.names[name]
	if !ok {
		return
	}
	for o := range f.words {
		if o.host == p {
			delete(f.words, o)
		}
	}
	for i := range f.cities {
		for prefix := range f.heard[i] {
			f.hear(i, origin{p, prefix}, false)
		}
	}
	delete(f.names, name)
	f.ports = slices.DeleteFunc(f.ports, func(q *Port) bool { return q == p })
	f.rebuild()
	f.engine.remove(p)
}

// known makes sure that a name is a city, a host or the world.
func (f *Fabric) known(names ...string) error {
	for _, n := range names {
		if f.names[n] == nil && !slices.Contains(f.cities, n) && n != World {
			return f.unknown(n)
		}
	}
	return nil
}

func (f *Fabric) unknown(name string) error {
	return NotFound{fmt.Sprintf("cannot find %q in the lab: its cities are %s; its hosts %s", name, strings.Join(f.cities, ", "), strings.Join(f.hostNames(), ", "))}
}

func (f *Fabric) hostNames() []string {
	var out []string
	for _, p := range f.ports {
		out = append(out, p.Name)
	}
	return out
}
