package api

import "time"

// ClusterNode is a node as the cluster knows it (GET /v1/nodes).
type ClusterNode struct {
	Name        string    `json:"name"`
	Region      string    `json:"region"`
	Number      uint32    `json:"number" doc:"Part of the node's addresses"`
	Roles       []string  `json:"roles" doc:"Of host, edge, state, build"`
	Member      bool      `json:"member" doc:"It keeps the replicated state"`
	Address     string    `json:"address" doc:"Where other nodes reach it"`
	PeerPort    int       `json:"peer_port"`
	Version     string    `json:"version,omitempty"`
	State       string    `json:"state" enum:"up,down,cordoned,draining,drained" doc:"down is also said of a node that is cordoned or draining"`
	Cordoned    bool      `json:"cordoned" doc:"It gets no new machines"`
	Draining    bool      `json:"draining" doc:"What it has moves away"`
	Up          bool      `json:"up"`
	Self        bool      `json:"self" doc:"It is the node that answers"`
	CPUs        int       `json:"cpus,omitempty"`
	MemoryMB    int       `json:"memory_mb,omitempty"`
	HTTP        string    `json:"http,omitempty" doc:"Address that answers public port 80"`
	HTTPS       string    `json:"https,omitempty" doc:"Address that answers public port 443"`
	Machines    int       `json:"machines" doc:"That it holds"`
	Requests    int       `json:"requests" doc:"That it serves"`
	SeenAt      time.Time `json:"seen_at,omitzero" doc:"When it was last heard of"`
	JoinedAt    time.Time `json:"joined_at"`
	CertifiedAt time.Time `json:"certified_at" doc:"When its newest certificate was made"`
	Leaving     bool      `json:"leaving,omitempty" doc:"It drains, and clients may still come in by it who have not heard of that"`
	Synced      bool      `json:"synced,omitempty" doc:"What it has of the replicated state is the newest, and the state takes writes"`
	StartedAt   time.Time `json:"started_at,omitzero" doc:"When its present program began"`
	Fault       string    `json:"fault,omitempty" doc:"Why its last upgrade failed"`
}

// NodeUpgrade answers the request for an upgrade (POST /v1/nodes/{node}/upgrade).
type NodeUpgrade struct {
	Version string `json:"version" doc:"Of the program that takes over"`
}

// Drained reports whether a draining node has nothing left to do.
func (n ClusterNode) Drained() bool {
	return n.Draining && !n.Leaving && n.Machines == 0 && n.Requests == 0
}

// CreateJoinTokenRequest asks for a join token (POST /v1/nodes/tokens).
type CreateJoinTokenRequest struct {
	TTL    *Duration `json:"ttl,omitempty" doc:"How long it can be used; default 1h"`
	Uses   int       `json:"uses,omitempty" doc:"How many nodes can join with it; default 1"`
	Region string    `json:"region,omitempty" doc:"Only nodes of this region"`
	Roles  []string  `json:"roles,omitempty" doc:"Only nodes with none but these roles"`
}

// RecoverNodesRequest names nodes that are lost for good (POST /v1/nodes/recover).
type RecoverNodesRequest struct {
	Lost []string `json:"lost" doc:"Names of the nodes; they must never come back"`
}

// JoinToken lets nodes join. Its text is shown once, when it is made.
type JoinToken struct {
	ID        string    `json:"id"`
	Token     string    `json:"token,omitempty" doc:"The text; in the answer to its creation alone"`
	Address   string    `json:"address,omitempty" doc:"Where to join; in the answer to its creation alone"`
	State     string    `json:"state" enum:"valid,used,expired,revoked"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
	UsesLeft  int       `json:"uses_left"`
	Region    string    `json:"region,omitempty"`
	Roles     []string  `json:"roles,omitempty"`
	Nodes     []string  `json:"nodes,omitempty" doc:"That joined with it"`
}
