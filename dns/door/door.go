// Package door takes an address for DNS, UDP and TCP alike, and serves a handler
// on it until told to stop. The resolver and the public zone stand behind it.
//
// It knows nothing of names: what is answered is the handler's business.
package door

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// portTries is how often to look for a port that is free for UDP and TCP alike.
	portTries = 10
	// maxQuery is the largest question read over UDP.
	maxQuery = 4096
	// tcpIdle is how long a client may keep a connection without asking.
	tcpIdle = 10 * time.Second
)

// Door is one address that is listened on.
type Door struct {
	udp net.PacketConn
	tcp net.Listener
}

// Open takes the address for UDP and TCP. With port 0 a port is picked; one that
// is free for one may be taken for the other, then another is picked.
func Open(addr netip.AddrPort) (Door, error) {
	for try := 1; ; try++ {
		tcp, err := net.Listen("tcp", addr.String())
		if err != nil {
			return Door{}, err
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return Door{udp, tcp}, nil
		}
		tcp.Close()
		if addr.Port() != 0 || try == portTries {
			return Door{}, err
		}
	}
}

// Of is a door of sockets that are open already, as another process of ours had
// them.
func Of(udp net.PacketConn, tcp net.Listener) Door { return Door{udp, tcp} }

// Sockets are the door's two, for a process that takes over.
func (d Door) Sockets() (udp net.PacketConn, tcp net.Listener) { return d.udp, d.tcp }

// OpenAll takes all of the addresses, or none, each by open (default [Open]).
func OpenAll(addrs []netip.AddrPort, open func(netip.AddrPort) (Door, error)) ([]Door, error) {
	if open == nil {
		open = Open
	}
	var doors []Door
	for _, addr := range addrs {
		d, err := open(addr)
		if err != nil {
			for _, d := range doors {
				d.Close()
			}
			return nil, fmt.Errorf("cannot listen for DNS on %s: %w", addr, err)
		}
		doors = append(doors, d)
	}
	return doors, nil
}

// Addr is the address with the port that was picked.
func (d Door) Addr() netip.AddrPort { return d.tcp.Addr().(*net.TCPAddr).AddrPort() }

// Close gives the address back, for a door that was never served.
func (d Door) Close() {
	d.udp.Close()
	d.tcp.Close()
}

// Serve hands what comes through the doors to the handler until ctx ends or an
// address is lost. It calls ready once all are open, and returns nil on ctx's
// end, after the last answer is out.
func Serve(ctx context.Context, doors []Door, handler dns.Handler, ready func()) error {
	servers, started := servers(doors, handler)
	ended := make(chan error, len(servers))
	for _, srv := range servers {
		go func() {
			err := srv.ActivateAndServe()
			srv.NotifyStartedFunc() // if it never was
			ended <- err
		}()
	}
	started.Wait()
	ready()
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	for _, srv := range servers {
		_ = srv.Shutdown() // the one that ended by itself says that it has
	}
	for range left {
		<-ended
	}
	if err != nil {
		return fmt.Errorf("cannot go on serving DNS: %w", err)
	}
	return nil
}

func servers(doors []Door, handler dns.Handler) ([]*dns.Server, *sync.WaitGroup) {
	idle := func() time.Duration { return tcpIdle }
	started := new(sync.WaitGroup)
	var servers []*dns.Server
	for _, d := range doors {
		started.Add(2)
		udpStarted, tcpStarted := sync.OnceFunc(started.Done), sync.OnceFunc(started.Done)
		servers = append(servers,
			&dns.Server{PacketConn: d.udp, Handler: handler, UDPSize: maxQuery, NotifyStartedFunc: udpStarted},
			&dns.Server{Listener: newFairListener(d.tcp), Handler: handler, IdleTimeout: idle, NotifyStartedFunc: tcpStarted})
	}
	return servers, started
}
