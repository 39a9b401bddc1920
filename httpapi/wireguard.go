package httpapi

import (
	"context"
	"net/http"

	"github.com/perigee-run/perigee/api"
)

// Peers are the laptops in the private networks; *peers.Store is one.
type Peers interface {
	List(org string) []api.WireGuardPeer
	Create(ctx context.Context, org string, req api.CreateWireGuardPeerRequest) (api.WireGuardPeer, error)
	Delete(ctx context.Context, org, name string) error
}

const pPeers = "/v1/orgs/{org_slug}/wireguard_peers"

func (s *Server) wireguardRoutes() []route {
	return []route{
		{rGet, pPeers, owns, "WireGuard_list_peers", "List the laptops in the org's private network", nil, get(s.listPeers)},
		{rPost, pPeers, owns, "WireGuard_create_peer", "Let a laptop into the org's private network", nil, take(s.createPeer).with(http.StatusCreated)},
		{rDelete, pPeers + "/{peer_name}", owns, "WireGuard_delete_peer", "Shut a laptop out", nil, act(s.deletePeer)},
	}
}

func (s *Server) peers() (Peers, error) {
	if s.cfg.Peers == nil {
		return nil, api.Errorf(api.CodeConflict, "this node has no private network that a laptop could enter").
			WithHint("the node needs IPv6, and WireGuard or TUN in its kernel; see its log")
	}
	return s.cfg.Peers, nil
}

func (s *Server) listPeers(c *call) ([]api.WireGuardPeer, error) {
	if s.cfg.Peers == nil { // nobody can have entered
		return []api.WireGuardPeer{}, nil
	}
	return append([]api.WireGuardPeer{}, s.cfg.Peers.List(c.path("org_slug"))...), nil
}

func (s *Server) createPeer(c *call, in api.CreateWireGuardPeerRequest) (api.WireGuardPeer, error) {
	p, err := s.peers()
	if err != nil {
		return api.WireGuardPeer{}, err
	}
	return p.Create(c.r.Context(), c.path("org_slug"), in)
}

func (s *Server) deletePeer(c *call) error {
	p, err := s.peers()
	if err != nil {
		return err
	}
	return p.Delete(c.r.Context(), c.path("org_slug"), c.path("peer_name"))
}
