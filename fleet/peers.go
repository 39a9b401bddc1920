package fleet

import (
	"fmt"
	"net/http"

	"github.com/perigee-run/perigee/api"
)

// Dialer reaches nodes over mutual TLS; *cluster.Cluster is one. The clients
// that it gives are shared.
type Dialer interface {
	// HTTPClient is for calls to a node; paths go behind the URL.
	HTTPClient(node string) (c *http.Client, base string, err error)
	// UpgradeClient is HTTPClient over HTTP/1.1, for WebSockets.
	UpgradeClient(node string) (c *http.Client, base string, err error)
}

// Over is the Peers that a Dialer reaches.
func Over(d Dialer) Peers { return over{d} }

type over struct{ d Dialer }

// Client implements Peers.
func (o over) Client(node string) (*api.Client, error) {
	c, base, err := o.d.HTTPClient(node)
	if err != nil {
		return nil, err
	}
	up, _, err := o.d.UpgradeClient(node)
	if err != nil {
		return nil, err
	}
	client, err := api.NewClient(api.ClientConfig{Addr: base, UserAgent: "perigeed", Transport: c.Transport, Upgrade: up.Transport})
	if err != nil {
		return nil, fmt.Errorf("cannot call node %q: %w", node, err)
	}
	return client, nil
}
