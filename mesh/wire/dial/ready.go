package dial

import (
	"context"
	"fmt"
	"time"
)

// WireGuard itself waits five seconds before it asks again, and a gateway that
// was told of us a moment ago may not have heard the first time.
const (
	askEvery  = 400 * time.Millisecond
	lookEvery = 20 * time.Millisecond
)

// Ready waits until the gateway has answered. Call it before the first connection.
func (n *Net) Ready(ctx context.Context) error {
	endpoint, err := resolve(ctx, n.cfg.Endpoint)
	if err != nil {
		return fmt.Errorf("cannot find the gateway %q: %w", n.cfg.Endpoint, err)
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	asked := time.Now()
	for n.LastHandshake().IsZero() {
		if time.Since(asked) > askEvery {
			asked = time.Now()
			if err := n.dev.IpcSet("replace_peers=true\n" + n.cfg.uapi(endpoint)); err != nil {
				return fmt.Errorf("cannot ask the gateway again: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot enter the mesh: %w at UDP %s: check that a firewall lets it pass", ErrSilent, n.cfg.Endpoint)
		case <-look.C:
		}
	}
	return nil
}
