package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/perigee-run/perigee/dns/door"
	"github.com/perigee-run/perigee/handover"
)

// Names of the descriptors that are handed over. The program before this one has
// the same.
const (
	lockName   = "lock"
	tunName    = "tun"
	apiName    = "api"
	socketName = "socket"
	doorName   = "door"
	peerName   = "peer"
	routerName = "router/"
	udpSuffix  = "/udp"
	tcpSuffix  = "/tcp"
)

// What is wanted in its turn: until then the predecessor goes on with it.
const (
	wantWire = "wire"
	wantBGP  = "bgp"
)

// quietAfter is how long after the ports were handed over only what is in flight
// is left here; see the router's patience.
const quietAfter = 3 * time.Second

// errReplaced ends the node's works when another process takes its place.
var errReplaced = errors.New("another process takes over")

func (n *Node) newSuccession() *handover.Succession {
	return handover.New(handover.Config{Giver: giver{n}, Grace: n.cfg.UpgradeGrace, QuietAfter: quietAfter, Logger: n.log})
}

// openDoor opens an address for DNS, or takes it over.
func (n *Node) openDoor(at netip.AddrPort) (d door.Door, err error) {
	name := "dns/" + at.String()
	u, t := n.cfg.heritage.Take(name+udpSuffix, name), n.cfg.heritage.Take(name+tcpSuffix, name)
	if u == nil || t == nil {
		d, err = door.Open(at)
	} else {
		d, err = doorOf(u, t)
	}
	if err == nil {
		udp, tcp := d.Sockets()
		n.next.Keep(name+udpSuffix, udp)
		n.next.Keep(name+tcpSuffix, tcp)
	}
	return d, err
}

func doorOf(u, t *os.File) (door.Door, error) {
	defer u.Close()
	defer t.Close()
	udp, err := net.FilePacketConn(u)
	if err != nil {
		return door.Door{}, err
	}
	tcp, err := net.FileListener(t)
	if err != nil {
		udp.Close()
	}
	return door.Of(udp, tcp), err
}

// routerSockets are those that the router begins with: the predecessor's, by the
// router's own names for them, and those for the addresses of apps, which are named
// after their own.
func (n *Node) routerSockets(ctx context.Context) (ports map[string]net.Listener, own []net.Listener, err error) {
	if ports, err = n.cfg.heritage.Listeners(routerName); err != nil {
		return nil, nil, err
	}
	for name, l := range ports {
		if _, err := netip.ParseAddrPort(name); err == nil {
			own = append(own, l)
			delete(ports, name)
		}
	}
	if len(own) == 0 {
		own, err = n.network.ListenServices(ctx)
	}
	return ports, own, err
}

// awaitHeir ends the node's works when somebody is there to take its place.
func (n *Node) awaitHeir(ctx context.Context) error {
	for {
		select {
		case <-n.next.Willing():
			n.idle.end() // no machine falls asleep unseen while nobody keeps the table
			return errReplaced
		case <-n.cfg.UpgradeOn:
			if _, err := n.upgrade(ctx); err != nil {
				n.log.Error("cannot upgrade on a signal", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// handOver gives all but the open connections to the heir, and returns when they
// have ended. If the heir fails it returns a takenBack.
func (n *Node) handOver(ctx context.Context) error {
	began, heir := time.Now(), n.next.Heir()
	if err := n.refresh(); err != nil { // the last that this process will know
		n.log.Warn("cannot give the router its last table", "err", err)
	}
	n.letGo()
	err := n.next.HandOver(ctx)
	switch {
	case err == nil:
		n.log.Info("the new program serves", "version", heir.Version, "after", time.Since(began).Round(time.Millisecond))
		notify(fmt.Sprintf("MAINPID=%d", heir.PID))
		n.next.Retire(ctx)
		return nil
	case ctx.Err() != nil: // we were told to end meanwhile
		return n.finish(nil)
	}
	n.log.Error("the new program did not take over; this one goes on", "version", heir.Version, "err", err)
	return &takenBack{n, fmt.Sprintf("at %s version %s did not take over: %v", time.Now().UTC().Format(time.RFC3339), heir.Version, err)}
}

// letGo closes all that one process alone can have, but for what the heir wants
// later. The router serves on, from memory.
func (n *Node) letGo() {
	if n.builds != nil {
		n.warnIf("builds", n.builds.Close())
	}
	n.warnIf("log", n.collector.Close())
	n.sandbox.Close()
	n.network.Close()
	n.warnIf("catalog", n.catalog.Close())
}

func (n *Node) warnIf(what string, err error) {
	if err != nil {
		n.log.Warn("cannot close everything", "what", what, "err", err)
	}
}

// giver is the node that goes, as its heir sees it.
type giver struct{ n *Node }

var _ handover.Giver = giver{}

// Give implements handover.Giver.
func (g giver) Give(what string) {
	switch n := g.n; {
	case what == wantWire && n.wire != nil:
		if n.mesh.end() {
			n.warnIf("mesh", n.wire.Close())
		}
	case what == wantBGP && n.anycast != nil:
		n.anycast.KeepRoutes()
		n.bgp.end()
	}
}

// Busy implements handover.Giver: requests in flight by machine.
func (g giver) Busy() map[string]int {
	busy := map[string]int{}
	for _, m := range g.n.machines.Statuses() {
		if in, _ := g.n.router.Activity(m.ID); in > 0 {
			busy[m.ID] = in
		}
	}
	return busy
}

// Drain implements handover.Giver.
func (g giver) Drain(ctx context.Context) {
	n := g.n
	n.lock.Close() // the heir has it too
	if err := n.router.Shutdown(ctx); err != nil {
		n.log.Warn("connections of before the upgrade were cut", "err", err)
	}
	n.door.end()
	n.bgp.end()
	n.mesh.end()
	n.certs.close()
	n.log.Info("the node's former process ends")
}
