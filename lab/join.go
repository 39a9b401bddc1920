//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// peerPort is where nodes take calls of other nodes.
const peerPort = 4281

// Join says how to get into a cluster.
type Join struct {
	// Addr is a node's, with the port of its node-to-node calls.
	Addr netip.AddrPort
	// Token is a join token of the cluster.
	Token string
}

// JoinThis makes a token with which one more node can join this node's cluster.
func (n *Node) JoinThis(ctx context.Context) (*Join, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.Socket)
	}
	c := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://node/v1/nodes/tokens", strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot make a join token on node %q: %w", n.Name, err)
	}
	defer resp.Body.Close()
	var t struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil || t.Token == "" {
		return nil, fmt.Errorf("cannot make a join token on node %q: it answers %s: this perigeed may be one that cannot form a cloud", n.Name, resp.Status)
	}
	return &Join{netip.AddrPortFrom(n.Addr4, peerPort), t.Token}, nil
}

// joinOnce makes the data directory one of the cluster. The token goes by the
// environment, which others cannot see.
func (n *Node) joinOnce(ctx context.Context) error {
	if n.join == nil {
		return nil
	}
	cmd := n.Command(ctx, n.program, "join", n.join.Addr.String(), "--data", n.Data, "--name", n.Name, "--region", n.region, "--address", n.Addr4.String())
	cmd.Env = append(cmd.Environ(), "PERIGEE_JOIN_TOKEN="+n.join.Token)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot join node %q to %s: %w: %s", n.Name, n.join.Addr, err, strings.TrimSpace(string(out)))
	}
	n.join = nil
	return nil
}
