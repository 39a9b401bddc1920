package catalog

// Member is a node that keeps the replicated state.
type Member struct {
	Name string `json:"name"`
	// ClientAddr and RouteAddr are host:port, as other nodes reach them: the
	// first for those who use the state, the second for the other members.
	ClientAddr string `json:"client_addr"`
	RouteAddr  string `json:"route_addr"`
}

// StateStatus is how this node and the replicated state stand.
type StateStatus struct {
	Connected bool   // to a member, or to the outside cluster
	To        string // the member, "" when there is none
	Leader    string // the member that orders the writes, "" when none is known
	Quorum    bool   // writes are taken, as far as is known
	Member    bool   // this node is one
	Members   []MemberStatus
	Replicas  int    // how many members keep each record
	Current   bool   // what is in memory is what the members had a moment ago
	LastError string // why it is not well, or was not of late
}

// MemberStatus is one member as this node sees it.
type MemberStatus struct {
	Member
	Reachable bool
	Error     string // why it is not
}
