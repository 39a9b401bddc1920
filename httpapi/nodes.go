package httpapi

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/cluster"
)

// Cluster is the nodes that together are the cloud; *cluster.Cluster is one.
type Cluster interface {
	ListNodes() []api.ClusterNode
	ShowNode(name string) (api.ClusterNode, error)
	CordonNode(ctx context.Context, name string) error
	UncordonNode(ctx context.Context, name string) error
	DrainNode(ctx context.Context, name string) error
	RotateNodeKey(ctx context.Context, name string) error
	RemoveNode(ctx context.Context, name string, force bool) error
	Recover(ctx context.Context, lost []string) error
	CreateToken(ctx context.Context, req api.CreateJoinTokenRequest) (api.JoinToken, error)
	ListTokens() ([]api.JoinToken, error)
	RevokeToken(ctx context.Context, id string) error
}

var _ Cluster = (*cluster.Cluster)(nil)

const pNode = "/v1/nodes/{node_name}"

func (s *Server) clusterRoutes() []route {
	return []route{
		{rGet, "/v1/nodes", operates, "Nodes_list", "List the nodes of the cloud", nil, get(s.listNodes)},
		{rGet, pNode, operates, "Nodes_show", "Show a node", nil, get(s.showClusterNode)},
		{rPost, pNode + "/cordon", operates, "Nodes_cordon", "Keep new machines away from a node", nil, act(s.onNode(Cluster.CordonNode))},
		{rPost, pNode + "/uncordon", operates, "Nodes_uncordon", "Let a node take machines again, and end its draining", nil, act(s.onNode(Cluster.UncordonNode))},
		{rPost, pNode + "/drain", operates, "Nodes_drain", "Have a node's machines and requests move away; its state becomes drained when they have", nil, act(s.onNode(Cluster.DrainNode)).with(202)},
		{rPost, pNode + "/rotate-key", operates, "Nodes_rotate_key", "Have a node replace its WireGuard key; laptops that enter there need new files", nil, act(s.onNode(Cluster.RotateNodeKey)).with(202)},
		{rPost, pNode + "/upgrade", operates, "Nodes_upgrade", "Put the program on a node's disk in the place of the one that runs", nil, get(s.upgradeNode).with(202)},
		{rDelete, pNode, operates, "Nodes_remove", "End a node's membership", []param{{"force", "boolean", "Also one that is up and not drained"}}, act(s.removeNode)},
		{rPost, "/v1/nodes/recover", operates, "Nodes_recover", "Remove nodes that are lost for good and without which the state decides nothing, and go on without them; for a node that keeps the state", nil, actOn(s.recoverNodes)},

		{rGet, "/v1/nodes/tokens", operates, "Nodes_list_tokens", "List join tokens, without their secrets", nil, get(s.listJoinTokens)},
		{rPost, "/v1/nodes/tokens", operates, "Nodes_create_token", "Make a token by which nodes join", nil, take(s.createJoinToken).with(201)},
		{rDelete, "/v1/nodes/tokens/{token_id}", operates, "Nodes_revoke_token", "Make a join token useless", nil, act(s.revokeJoinToken)},
	}
}

// cluster is the cloud, or an error in words where the daemon has none.
func (s *Server) cluster() (Cluster, error) {
	if s.cfg.Cluster == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this node is not part of a cloud of nodes")
	}
	return s.cfg.Cluster, nil
}

func (s *Server) listNodes(*call) ([]api.ClusterNode, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return c.ListNodes(), nil
}

func (s *Server) showClusterNode(c *call) (api.ClusterNode, error) {
	all, err := s.cluster()
	if err != nil {
		return api.ClusterNode{}, err
	}
	return all.ShowNode(c.path("node_name"))
}

// onNode calls a verb with the node that the path names.
func (s *Server) onNode(do func(Cluster, context.Context, string) error) func(c *call) error {
	return func(c *call) error {
		all, err := s.cluster()
		if err != nil {
			return err
		}
		return do(all, c.r.Context(), c.path("node_name"))
	}
}

func (s *Server) upgradeNode(c *call) (api.NodeUpgrade, error) {
	if _, err := s.cluster(); err != nil {
		return api.NodeUpgrade{}, err
	}
	version, err := s.cfg.Node.Upgrade(c.r.Context(), c.path("node_name"))
	return api.NodeUpgrade{Version: version}, err
}

func (s *Server) removeNode(c *call) error {
	force, err := c.bool("force")
	if err != nil {
		return err
	}
	all, err := s.cluster()
	if err != nil {
		return err
	}
	return all.RemoveNode(c.r.Context(), c.path("node_name"), force)
}

func (s *Server) recoverNodes(c *call, in api.RecoverNodesRequest) error {
	all, err := s.cluster()
	if err != nil {
		return err
	}
	return all.Recover(c.r.Context(), in.Lost)
}

func (s *Server) listJoinTokens(*call) ([]api.JoinToken, error) {
	c, err := s.cluster()
	if err != nil {
		return nil, err
	}
	return c.ListTokens()
}

func (s *Server) createJoinToken(c *call, in api.CreateJoinTokenRequest) (api.JoinToken, error) {
	all, err := s.cluster()
	if err != nil {
		return api.JoinToken{}, err
	}
	c.w.Header().Set("Cache-Control", "no-store")
	return all.CreateToken(c.r.Context(), in)
}

func (s *Server) revokeJoinToken(c *call) error {
	all, err := s.cluster()
	if err != nil {
		return err
	}
	return all.RevokeToken(c.r.Context(), c.path("token_id"))
}
