package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
)

const (
	dialTimeout = 2 * time.Second
	// A peer that says nothing for pingAfter is asked, and given up after
	// pingWait: a dead one is known after two seconds.
	pingAfter = time.Second
	pingWait  = time.Second
)

// peerClient holds the kept connections to one node.
type peerClient struct {
	base      string
	http      *http.Client // HTTP/2
	upgrade   *http.Client // HTTP/1.1, for WebSockets
	transport []*http.Transport
}

func (p *peerClient) close() {
	for _, t := range p.transport {
		t.CloseIdleConnections()
	}
}

// HTTPClient is for calls to a node; paths go behind the URL. Both ends prove
// who they are, connections are kept, and one whose other end is dead is given
// up within about two seconds. The client is shared.
//
// A node that refuses this one makes an error that is [ErrRemoved] or [ErrClock]
// where that is why.
func (c *Cluster) HTTPClient(node string) (*http.Client, string, error) {
	p, err := c.peer(node)
	if err != nil {
		return nil, "", err
	}
	return p.http, p.base, nil
}

// UpgradeClient is HTTPClient over HTTP/1.1, for calls that become WebSockets.
func (c *Cluster) UpgradeClient(node string) (*http.Client, string, error) {
	p, err := c.peer(node)
	if err != nil {
		return nil, "", err
	}
	return p.upgrade, p.base, nil
}

func (c *Cluster) peer(node string) (*peerClient, error) {
	n, ok := c.Node(node)
	if !ok {
		return nil, api.Errorf(api.CodeNotFound, "there is no node %q", api.Clip(node))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.clients[node]; ok {
		return p, nil
	}
	p := &peerClient{base: "https://" + n.ServerName()}
	two, one := c.transport(node), c.transport(node)
	two.ForceAttemptHTTP2 = true
	two.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingWait}
	p.http, p.upgrade = &http.Client{Transport: peerTransport{c, node, two}}, &http.Client{Transport: peerTransport{c, node, one}}
	p.transport = []*http.Transport{two, one}
	c.clients[node] = p
	return p, nil
}

// transport dials where the node is now, whatever the URL says.
func (c *Cluster) transport(node string) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, FallbackDelay: 200 * time.Millisecond, KeepAlive: 5 * time.Second}
	return &http.Transport{
		TLSClientConfig: c.ClientTLS(ServerName(node)), TLSHandshakeTimeout: 3 * time.Second,
		IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 8,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			n, ok := c.Node(node)
			if !ok {
				return nil, fmt.Errorf("there is no node %q any more", node)
			}
			return dialer.DialContext(ctx, "tcp", n.PeerAddr())
		},
	}
}

// peerTransport turns refusals into errors.
type peerTransport struct {
	cluster *Cluster
	node    string
	under   *http.Transport
}

// RoundTrip makes the call.
func (p peerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := p.under.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("cannot call node %q: %w", p.node, err)
	}
	reason := resp.Header.Get(refusedHeader)
	if resp.StatusCode != http.StatusForbidden || reason == "" {
		return resp, nil
	}
	defer resp.Body.Close()
	refused := &RefusedError{Node: p.cluster.Self().Name, Reason: reason, Text: refusal(resp).Error()}
	if errors.Is(refused, ErrRemoved) {
		p.cluster.Doubt()
	}
	return nil, fmt.Errorf("node %q refuses this node: %w", p.node, refused)
}

// CloseIdleConnections lets go of what is kept.
func (p peerTransport) CloseIdleConnections() { p.under.CloseIdleConnections() }

const maxRefusal = 64 << 10

// refusal reads the error of an answer.
func refusal(resp *http.Response) *api.Error {
	var e api.Error
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if json.Unmarshal(b, &e) != nil || e.Message == "" {
		e = api.Error{Code: api.CodeInternal, Message: "the node answered " + resp.Status}
	}
	e.Status = resp.StatusCode
	return &e
}

// Doubt has the certifiers asked soon whether this node was removed: some node says
// so, or they do not let it in.
func (c *Cluster) Doubt() {
	select {
	case c.doubt <- struct{}{}:
	default:
	}
}

// clear asks whenever there is a doubt.
func (c *Cluster) clear(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.doubt:
		}
		if err := c.CheckIn(ctx); errors.Is(err, ErrRemoved) {
			return err
		}
		select { // who says it again and again is asked no oftener than this
		case <-ctx.Done():
			return nil
		case <-time.After(retry):
		}
	}
}

// CheckIn asks the nodes that certify others whether this one still belongs to
// them. The error is [ErrRemoved] if one of them says that it was removed and none
// that it was not: to believe any node would let a damaged one end all others. It
// is no error if nobody can be reached: then nobody knows.
func (c *Cluster) CheckIn(ctx context.Context) (removed error) {
	self := c.Self().Name
	nodes := slices.DeleteFunc(c.Nodes(), func(n Node) bool { return n.Name == self || !n.Has(RoleState) })
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, n := range nodes {
		if ctx.Err() != nil {
			return nil
		}
		switch err := c.hello(ctx, n.Name); {
		case err == nil || errors.Is(err, ErrClock):
			return err
		case errors.Is(err, ErrRemoved):
			removed = err
		}
	}
	if removed != nil {
		c.learnRemoved()
	}
	return removed
}

func (c *Cluster) hello(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	return c.get(ctx, node, helloPath)
}

func (c *Cluster) get(ctx context.Context, node, path string) error {
	client, base, err := c.HTTPClient(node)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxRefusal))
	return err
}
