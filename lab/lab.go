//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/perigee-run/perigee/lab/fabric"
)

// World is the name that stands for everything else in cuts and losses.
const World = fabric.World

// Lab is a running lab. Its methods may be called from anywhere.
type Lab struct {
	cfg    Config
	fabric *fabric.Fabric
	lock   *os.File
	cities []*city
	began  time.Time

	closing  sync.Once
	closeErr error

	mu      sync.Mutex // guards what follows
	hosts   []*Host
	nodes   []*Node
	numbers []int // the next host's, by city
	// nodeCount numbers all nodes ever started; groups are the names of their
	// control groups.
	nodeCount int
	groups    []string
	closed    bool
}

// New makes a lab of cities without hosts. What a lab before it left in Dir,
// because it was killed, goes. ctx ends only the making: Close ends the lab.
func New(ctx context.Context, cfg Config) (*Lab, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	l := &Lab{cfg: cfg, numbers: slices.Repeat([]int{firstHost}, len(cfg.Cities)), began: time.Now()}
	var err error
	if l.lock, err = claim(cfg.Dir); err != nil {
		return nil, err
	}
	if err := l.build(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context) (err error) {
	if err := sweep(l.cfg.Dir, l.cfg.Keep); err != nil {
		return err
	}
	l.fabric, err = fabric.New(fabric.Config{Cities: l.cfg.Cities, Converge: l.cfg.Converge, Reroute: l.cfg.Reroute, Logger: l.cfg.Logger})
	if err != nil {
		return err
	}
	for i := range l.cfg.Cities {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := l.openCity(i)
		if err != nil {
			return err
		}
		l.cities = append(l.cities, c)
	}
	return errors.Join(l.writePlaces(), l.save())
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.cfg.Dir}, elem...)...)
}

// Close ends every node, every process and every host of the lab, and removes
// its files, but for the nodes' data if Keep says so. Closing again does nothing.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closeErr = l.close() })
	return l.closeErr
}

func (l *Lab) close() error {
	l.mu.Lock()
	l.closed = true
	hosts, nodes := l.hosts, l.nodes
	l.hosts, l.nodes = nil, nil
	l.mu.Unlock()
	for _, n := range nodes {
		n.end()
	}
	for _, c := range l.cities {
		c.close()
	}
	shutAll(hosts)
	if l.fabric != nil {
		l.fabric.Close()
	}
	return errors.Join(sweep(l.cfg.Dir, l.cfg.Keep), release(l.lock, l.cfg.Dir))
}

// shutAll waits for all at once: the kernel takes its time over namespaces.
func shutAll(hosts []*Host) {
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(h.shut)
	}
	wg.Wait()
}

// Cities are the lab's, in the order they were named.
func (l *Lab) Cities() []string { return slices.Clone(l.cfg.Cities) }

// Hosts are those that were added and are still there.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.hosts), func(h *Host) bool { return h.own() })
}

// Host finds one by its name.
func (l *Lab) Host(name string) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fabric.NotFound{Words: fmt.Sprintf("cannot find city or host %q in the lab: perigee lab status lists them", name)}
}

// Cut lets nothing pass between two cities or hosts; World is everything else.
func (l *Lab) Cut(a, b string) error { return l.fabric.Cut(a, b) }

// CutOneWay lets nothing pass in one direction.
func (l *Lab) CutOneWay(from, to string) error { return l.fabric.CutOneWay(from, to) }

// Isolate cuts a city or a host off from the world; what is inside goes on.
func (l *Lab) Isolate(name string) error { return l.fabric.Isolate(name) }

// Mend ends the cut between two.
func (l *Lab) Mend(a, b string) error { return l.fabric.Mend(a, b) }

// Heal ends all cuts and losses, and gives back the delays that distance makes.
func (l *Lab) Heal() { l.fabric.Heal() }

// SetLoss loses a share of what passes between two, 0 to 1, in both directions.
func (l *Lab) SetLoss(a, b string, share float64) error { return l.fabric.SetLoss(a, b, share) }

// SetRTT replaces the round trip between two.
func (l *Lab) SetRTT(a, b string, d time.Duration) error { return l.fabric.SetRTT(a, b, d) }

// SetJitter delays every packet between two by up to d more, by chance.
func (l *Lab) SetJitter(a, b string, d time.Duration) error { return l.fabric.SetJitter(a, b, d) }

// RTT is the round trip between two cities or hosts as the lab makes it.
func (l *Lab) RTT(a, b string) time.Duration { return l.fabric.Delay(a, b) + l.fabric.Delay(b, a) }

// Announce makes a host a destination of an anycast prefix by hand; BGP does it
// for hosts that speak it.
func (l *Lab) Announce(host string, prefix netip.Prefix) error {
	return l.fabric.Announce(host, prefix)
}

// Withdraw ends what Announce began.
func (l *Lab) Withdraw(host string, prefix netip.Prefix) error {
	return l.fabric.Withdraw(host, prefix)
}

// Routes lists what every city knows of anycast prefixes.
func (l *Lab) Routes() []fabric.Route { return l.fabric.Routes() }

// Stats counts the switch's packets.
func (l *Lab) Stats() fabric.Stats { return l.fabric.Stats() }
