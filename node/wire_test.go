package node

import (
	"net/netip"
	"testing"

	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/mesh"
)

func TestOnlyNodesSpeakToTheHostRouter(t *testing.T) {
	n := &Node{cfg: Config{IPv6: netip.MustParsePrefix("fdaa::/16")}}
	addr := func(number uint32) netip.Addr { return mesh.NodeAddr(n.cfg.IPv6, number) }
	if n.isNode(addr(2)) {
		t.Error("a node is let in before any is known")
	}
	set := n.nodeAddrs([]cluster.Node{{Name: "b", Number: 2}, {Name: "c", Number: 3}})
	n.meshNodes.Store(&set)
	if !n.isNode(addr(2)) || !n.isNode(addr(3)) || n.isNode(addr(4)) || n.isNode(netip.MustParseAddr("::1")) {
		t.Errorf("of 2 and 3: %v %v, of 4: %v", n.isNode(addr(2)), n.isNode(addr(3)), n.isNode(addr(4)))
	}
}
