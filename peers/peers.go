// Package peers keeps the laptops that people let into the private networks of
// their orgs: who they are, where they enter, until when. It holds no private
// key, moves no packet (that is mesh/wire) and decides nothing about packets
// (that is mesh): it says to both what they need to know.
package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/dns"
	"github.com/perigee-run/perigee/mesh"
	"github.com/perigee-run/perigee/mesh/wire"
)

// Config says where the records are. All but Logger are required.
type Config struct {
	Catalog *catalog.Catalog
	// Node is this node's name.
	Node string
	// Base is the mesh's /16.
	Base netip.Prefix
	// OrgNumber gives the number of an org, 0 if there is no such org.
	OrgNumber func(org string) uint32
	// Gateways are the nodes where a peer can enter.
	Gateways Gateways
	// Logger receives what changes. Default: none.
	Logger *slog.Logger
}

// Gateways knows the nodes. Its methods are asked often and answer from memory.
type Gateways interface {
	// Choose picks the node for a new peer; region "" leaves the choice open.
	Choose(region string) (Gateway, error)
	// Find returns a node by name.
	Find(node string) (Gateway, bool)
}

// Gateway is a node as a laptop sees it.
type Gateway struct {
	Node, Region string
	Number       uint32
	Key          wire.Key
	// Endpoint is "host:port" for WireGuard.
	Endpoint string
}

// Record is one peer.
type Record struct {
	Org       string     `json:"org"`
	Name      string     `json:"name"`
	Key       wire.Key   `json:"key"`
	Node      string     `json:"node"`
	Region    string     `json:"region"`
	Address   netip.Addr `json:"address"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at,omitzero"`
}

func (r Record) expired(now time.Time) bool { return !r.ExpiresAt.IsZero() && now.After(r.ExpiresAt) }

// Store is the peers. Its methods may be called from any goroutine.
type Store struct {
	cfg   Config
	table *catalog.Table[Record]
}

// New opens the table "wgpeers".
func New(cfg Config) (*Store, error) {
	if cfg.Catalog == nil || cfg.Node == "" || cfg.OrgNumber == nil || cfg.Gateways == nil || !cfg.Base.IsValid() {
		return nil, errors.New("cannot open WireGuard peers: the catalog, the node, the mesh's range, org numbers and gateways are all needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	t, err := catalog.NewTable[Record](cfg.Catalog, "wgpeers")
	if err != nil {
		return nil, err
	}
	return &Store{cfg, t}, nil
}

// sweepEvery is how late a record may go after its end. Nobody enters by it
// meanwhile: Here leaves it out.
const sweepEvery = 15 * time.Second

// Run removes peers of this node whose time is over, until ctx ends, and calls
// changed whenever Here may have other peers.
func (s *Store) Run(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := s.table.Watch(ctx, "")
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-changes:
			if !open {
				return nil
			}
			changed()
		case now := <-tick.C:
			if s.sweep(ctx, now) {
				changed()
			}
		}
	}
}

func (s *Store) sweep(ctx context.Context, now time.Time) bool {
	swept := false
	for _, e := range s.table.List("") {
		if e.Value.Node != s.cfg.Node || !e.Value.expired(now) {
			continue
		}
		swept = true
		err := s.table.DeleteAt(ctx, e.Key, e.Revision)
		if errors.Is(err, catalog.ErrConflict) {
			continue // another of the name was let in just now
		}
		if err != nil {
			s.cfg.Logger.Warn("cannot remove expired WireGuard peer", "org", e.Value.Org, "peer", e.Value.Name, "error", err)
			continue
		}
		s.cfg.Logger.Info("WireGuard peer expired", "org", e.Value.Org, "peer", e.Value.Name)
	}
	return swept
}

// records are those that are valid now, oldest first.
func (s *Store) records(keep func(Record) bool) []Record {
	now, out := time.Now(), []Record{}
	for _, e := range s.table.List("") {
		if !e.Value.expired(now) && keep(e.Value) {
			out = append(out, e.Value)
		}
	}
	slices.SortFunc(out, func(a, b Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Org, b.Org), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Here returns the peers that enter at this node.
func (s *Store) Here() []Record {
	return s.records(func(r Record) bool {
		return r.Node == s.cfg.Node && s.cfg.OrgNumber(r.Org) == mesh.OrgOfAddr(r.Address)
	})
}

// WirePeers is Here for the WireGuard device. Put the nodes before them.
func (s *Store) WirePeers() []wire.Peer {
	var all []wire.Peer
	for _, r := range s.Here() {
		all = append(all, wire.Peer{Name: r.Org + "/" + r.Name, Key: r.Key, Allowed: []netip.Prefix{netip.PrefixFrom(r.Address, 128)}})
	}
	return all
}

// MeshPeers is Here for the firewall and the resolver.
func (s *Store) MeshPeers() []mesh.Peer {
	var all []mesh.Peer
	for _, r := range s.Here() {
		all = append(all, mesh.Peer{Org: r.Org, Addr: r.Address})
	}
	return all
}

// Names are the org's peers for the resolver, wherever they enter.
func (s *Store) Names(org string) []dns.Peer {
	var all []dns.Peer
	for _, r := range s.records(func(r Record) bool { return r.Org == org }) {
		all = append(all, dns.Peer{Name: r.Name, IPv6: r.Address})
	}
	return all
}

// List returns the org's peers by name.
func (s *Store) List(org string) []api.WireGuardPeer {
	var all []api.WireGuardPeer
	for _, r := range s.records(func(r Record) bool { return r.Org == org }) {
		all = append(all, s.show(r))
	}
	slices.SortFunc(all, func(a, b api.WireGuardPeer) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (s *Store) show(r Record) api.WireGuardPeer {
	p := api.WireGuardPeer{Name: r.Name, Org: r.Org, Address: r.Address.String(), PublicKey: r.Key.String(), Node: r.Node, Region: r.Region,
		DNS: mesh.ResolverAddr(s.cfg.Base).String(), AllowedIPs: []string{s.cfg.Base.Masked().String()}, CreatedAt: r.CreatedAt}
	if g, ok := s.cfg.Gateways.Find(r.Node); ok {
		p.GatewayKey, p.Endpoint = g.Key.String(), g.Endpoint
	}
	if !r.ExpiresAt.IsZero() {
		p.ExpiresAt = &r.ExpiresAt
	}
	return p
}

// maxTTL bounds what a request may ask for.
const maxTTL = 10 * 365 * 24 * time.Hour

// Create lets a peer in; api.CodeNameTaken if the org has one of that name.
func (s *Store) Create(ctx context.Context, org string, req api.CreateWireGuardPeerRequest) (api.WireGuardPeer, error) {
	r, err := s.record(org, req)
	if err != nil {
		return api.WireGuardPeer{}, err
	}
	if old, ok := s.table.Get(key(r.Org, r.Name)); ok && old.Value.expired(time.Now()) {
		if err := s.table.DeleteAt(ctx, old.Key, old.Revision); err != nil && !errors.Is(err, catalog.ErrConflict) {
			return api.WireGuardPeer{}, err
		}
	}
	_, err = s.table.Create(ctx, key(r.Org, r.Name), r)
	if errors.Is(err, catalog.ErrExists) {
		return api.WireGuardPeer{}, api.Errorf(api.CodeNameTaken, "org %q has a WireGuard peer %q", r.Org, r.Name).WithField("name").
			WithHint("choose another name, or remove that peer first")
	}
	if err != nil {
		return api.WireGuardPeer{}, err
	}
	s.cfg.Logger.Info("WireGuard peer created", "org", r.Org, "peer", r.Name, "node", r.Node, "address", r.Address)
	return s.show(r), nil
}

// record checks a request and makes what is kept of it.
func (s *Store) record(org string, req api.CreateWireGuardPeerRequest) (Record, error) {
	var none Record
	number := s.cfg.OrgNumber(org)
	if number == 0 || wire.CheckName(org) != nil {
		return none, api.Errorf(api.CodeNotFound, "org %q does not exist", org[:min(len(org), 80)])
	}
	if err := wire.CheckName(req.Name); err != nil {
		return none, invalid("name", err)
	}
	k, err := wire.ParseKey(req.PublicKey)
	if err != nil {
		return none, invalid("public_key", err)
	}
	if err := s.checkKey(k); err != nil {
		return none, err
	}
	ttl := time.Duration(req.TTL) * time.Second
	if req.TTL < 0 || req.TTL > int(maxTTL/time.Second) {
		return none, invalid("ttl", fmt.Errorf("ttl is %d; it must be seconds, at most ten years", req.TTL))
	}
	g, err := s.cfg.Gateways.Choose(req.Region)
	if err != nil {
		return none, invalid("region", err)
	}
	if k == g.Key {
		return none, invalid("public_key", errors.New("that is the key of the node itself"))
	}
	r := Record{Org: org, Name: req.Name, Key: k, Node: g.Node, Region: g.Region, CreatedAt: time.Now().UTC(),
		Address: mesh.PeerAddr(s.cfg.Base, g.Number, number, req.Name)}
	if ttl > 0 {
		r.ExpiresAt = r.CreatedAt.Add(ttl)
	}
	return r, nil
}

// checkKey refuses a key that is in use: WireGuard tells peers apart by it.
func (s *Store) checkKey(k wire.Key) error {
	if len(s.records(func(r Record) bool { return r.Key == k })) > 0 {
		return api.Errorf(api.CodeConflict, "another WireGuard peer has that public key").WithField("public_key").
			WithHint("make a new key for each peer, with wg genkey")
	}
	return nil
}

// Delete shuts a peer out; api.CodeNotFound if there is none.
func (s *Store) Delete(ctx context.Context, org, name string) error {
	if catalog.CheckKey(key(org, name)) == nil {
		if e, ok := s.table.Get(key(org, name)); ok {
			s.cfg.Logger.Info("WireGuard peer removed", "org", org, "peer", name)
			return s.table.Delete(ctx, e.Key)
		}
	}
	return api.Errorf(api.CodeNotFound, "org %q has no WireGuard peer %q", org[:min(len(org), 80)], name[:min(len(name), 80)])
}

func key(org, name string) string { return org + "/" + name }

func invalid(field string, err error) error {
	return api.Errorf(api.CodeInvalid, "%v", err).WithField(field)
}
