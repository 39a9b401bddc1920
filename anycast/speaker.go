package anycast

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// connectRetry is how often a neighbor is tried, in seconds; gobgp does not try
// more often.
const connectRetry = 2

// speaker is gobgp with our configuration, filters and neighbors.
type speaker struct {
	cfg  Config
	bgp  *server.BgpServer
	comm communities
	hops [2]netip.Addr // next hops for IPv4 and IPv6
	end  context.CancelFunc
	work sync.WaitGroup
}

// startSpeaker starts BGP. No neighbor learns anything before tell.
func (a *Announcer) startSpeaker() (*speaker, error) {
	comm, err := parseCommunities(a.cfg.Communities)
	if err != nil {
		return nil, err
	}
	hops, err := nextHops(a.cfg)
	if err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	sp := &speaker{cfg: a.cfg, comm: comm, hops: hops, end: end, bgp: server.NewBgpServer(server.LoggerOption(slog.New(overhear{a: a}), new(slog.LevelVar)))}
	sp.work.Go(sp.bgp.Serve)
	if err := sp.begin(ctx, a); err != nil {
		sp.stop()
		return nil, fmt.Errorf("cannot speak BGP: %w", err)
	}
	return sp, nil
}

func (sp *speaker) begin(ctx context.Context, a *Announcer) error {
	port := int32(-1)
	if sp.cfg.Listen != 0 {
		port = int32(sp.cfg.Listen)
	}
	global := &api.Global{Asn: sp.cfg.ASN, RouterId: sp.cfg.RouterID.String(), ListenPort: port}
	if sp.cfg.LocalAddr.IsValid() {
		global.ListenAddresses = []string{sp.cfg.LocalAddr.String()}
	}
	if err := sp.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return err
	}
	if err := sp.filter(ctx); err != nil {
		return err
	}
	on := server.WatchEventMessageCallbacks{OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, _ time.Time) { a.onPeer(e) }}
	if err := sp.bgp.WatchEvent(ctx, on, server.WatchPeer()); err != nil {
		return err
	}
	for _, n := range sp.cfg.Neighbors {
		if err := sp.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: sp.peer(n)}); err != nil {
			return fmt.Errorf("neighbor %s: %w", n.Address, err)
		}
	}
	sp.work.Go(func() { sp.forgive(ctx, a) })
	return nil
}

// stop closes the sessions with a Cease.
func (sp *speaker) stop() {
	sp.end()
	sp.bgp.Stop()
	sp.work.Wait()
}

// forgive lets in again, after a while, who sent too much.
func (sp *speaker) forgive(ctx context.Context, a *Announcer) {
	tick := time.NewTicker(sp.cfg.RetryAfter)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, n := range a.greedy() {
			if err := sp.bgp.EnablePeer(ctx, &api.EnablePeerRequest{Address: n.String()}); err != nil {
				a.log.Warn("cannot try a neighbor again", "neighbor", n, "error", err)
			}
		}
	}
}

func (a *Announcer) greedy() []netip.Addr {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []netip.Addr
	for addr, s := range a.sessions {
		if s.tooMany {
			out = append(out, addr)
		}
	}
	return out
}

// tell announces, marks or withdraws a prefix.
func (sp *speaker) tell(s step) error {
	path, err := sp.path(s)
	if err != nil {
		return fmt.Errorf("cannot tell neighbors of %s: %w", s.prefix, err)
	}
	if s.to == withdrawn {
		err = sp.bgp.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
	} else {
		_, err = sp.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	}
	if err != nil {
		return fmt.Errorf("cannot tell neighbors that %s is %s: %w", s.prefix, s.to, err)
	}
	return nil
}

func (sp *speaker) path(s step) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(s.prefix)
	if err != nil {
		return nil, err
	}
	family, hop := bgp.RF_IPv4_UC, sp.hops[0]
	if s.prefix.Addr().Is6() {
		family, hop = bgp.RF_IPv6_UC, sp.hops[1]
	}
	attrs := append([]bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0)}, sp.attributes(s.to)...)
	if family == bgp.RF_IPv4_UC {
		a, err := bgp.NewPathAttributeNextHop(hop)
		return &apiutil.Path{Family: family, Nlri: nlri, Attrs: append(attrs, a)}, err
	}
	a, err := bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}}, hop)
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: append(attrs, a)}, err
}

func (sp *speaker) attributes(to how) []bgp.PathAttributeInterface {
	var attrs []bgp.PathAttributeInterface
	plain := append([]uint32{}, sp.comm.plain...)
	if to == marked {
		plain = append(plain, gracefulShutdown)
		if sp.internal() { // other ASs set their own preference when they see the mark
			attrs = append(attrs, bgp.NewPathAttributeLocalPref(0))
		}
	}
	if len(plain) > 0 {
		attrs = append(attrs, bgp.NewPathAttributeCommunities(plain))
	}
	var large []*bgp.LargeCommunity
	for _, l := range sp.comm.large {
		large = append(large, bgp.NewLargeCommunity(l[0], l[1], l[2]))
	}
	if large != nil {
		attrs = append(attrs, bgp.NewPathAttributeLargeCommunities(large))
	}
	return attrs
}

// internal reports whether a neighbor is of our own AS.
func (sp *speaker) internal() bool {
	for _, n := range sp.cfg.Neighbors {
		if n.ASN == sp.cfg.ASN {
			return true
		}
	}
	return false
}
