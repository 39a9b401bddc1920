package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/perigee-run/perigee/cluster"
	"github.com/perigee-run/perigee/mesh/wire"
	"golang.org/x/sync/errgroup"
)

// The node's WireGuard key is replaced in steps, each of which a crash may cut
// off: the next key is written to a file, then said in the node's record; when
// the others let this node in by it, its file takes the place of the present
// one's, and the record follows. What is left to do is read off the files and the
// record, so that a node that starts goes on where it was.

// keysPath is where a node is asked by which key it lets the caller in.
const keysPath = "/peer/v1/mesh/keys"

const (
	// keysEvery is how often a key's age is looked at, keysSoon how often the
	// others are asked for the next one.
	keysEvery = time.Minute
	keysSoon  = time.Second
	keysRest  = 10 * time.Second // after something that failed
	// keysPatience is how long a node that is up may not know the next key: after
	// that the node goes on without it, and it is cut off until it hears.
	keysPatience = 10 * time.Minute
)

// keepKeys replaces the key when it is old, or when an operator says so.
func (n *Node) keepKeys(ctx context.Context) error {
	changes := n.cluster.Changes(ctx)
	var since time.Time // when the next key was first said, in this run
	for {
		next := keysEvery
		under, err := n.turnKey(ctx, since)
		switch {
		case err != nil && ctx.Err() == nil:
			n.log.Warn("cannot replace the WireGuard key yet", "err", err)
			next = keysRest
		case under && since.IsZero():
			since = time.Now()
		case !under:
			since = time.Time{}
		}
		if under && err == nil {
			next = keysSoon
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changes:
			if !ok {
				changes = nil // the catalog was closed
			}
		case <-time.After(next):
		}
	}
}

// turnKey goes as far as it can and reports whether it is under way.
func (n *Node) turnKey(ctx context.Context, since time.Time) (under bool, err error) {
	if n.wire.NextKey().IsZero() {
		if due, err := n.keyDue(); err != nil || !due {
			return false, err
		}
		if _, err := n.wire.Rotate(); err != nil {
			return false, err
		}
	}
	if err := n.announceKeys(ctx); err != nil {
		return true, err
	}
	next := n.wire.NextKey()
	if o, _ := n.cluster.Node(n.cfg.Name); o.WireGuardNext != next.String() {
		return false, nil // not written yet; when it is, that is a change
	}
	without := n.unaware(ctx, next)
	if len(without) > 0 {
		if since.IsZero() || time.Since(since) < keysPatience {
			return true, nil
		}
		n.log.Warn("nodes do not know this node's next WireGuard key; going on without them", "nodes", without)
	}
	if err := n.wire.UseNext(); err != nil {
		return true, err
	}
	return false, n.announceKeys(ctx)
}

// keyDue reports whether the key is to be replaced. Laptops have the key in
// their files: where some enter, only an operator ends it.
func (n *Node) keyDue() (bool, error) {
	if o, ok := n.cluster.Node(n.cfg.Name); ok && o.RetiredKey == n.wire.PublicKey().String() {
		return true, nil
	}
	if n.cfg.RotateAfter < 0 || len(n.peers.Here()) > 0 {
		return false, nil
	}
	made, err := n.wire.KeyMade()
	return err == nil && time.Since(made) > n.cfg.RotateAfter, err
}

// announceKeys has the node's record say its keys.
func (n *Node) announceKeys(ctx context.Context) error {
	key, next := n.wire.PublicKey().String(), n.wire.NextKey().String()
	if self := n.self(); self.WireGuardKey == key && self.WireGuardNext == next {
		return nil
	}
	return n.cluster.Announce(ctx, func(s *cluster.Node) { s.WireGuardKey, s.WireGuardNext = key, next })
}

// unaware are the nodes that are up and do not let this one in by a key.
func (n *Node) unaware(ctx context.Context, k wire.Key) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var mu sync.Mutex
	var all errgroup.Group
	all.SetLimit(32)
	for _, o := range n.others() {
		if !n.up(o.Name) {
			continue
		}
		all.Go(func() error {
			if err := n.askKeys(ctx, o.Name, k); err != nil {
				n.log.Debug("node does not know the next WireGuard key", "node", o.Name, "err", err)
				mu.Lock()
				names = append(names, o.Name)
				mu.Unlock()
			}
			return nil
		})
	}
	_ = all.Wait()
	return names
}

// askKeys is an error unless the other node lets this one in by the key.
func (n *Node) askKeys(ctx context.Context, node string, k wire.Key) error {
	client, base, err := n.cluster.HTTPClient(node)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+keysPath, nil)
	if err != nil {
		return err
	}
	q := req.URL.Query()
	q.Set("key", k.String())
	req.URL.RawQuery = q.Encode()
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var known bool
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 64)).Decode(&known); err != nil || !known {
		return fmt.Errorf("it answers %s, %v", resp.Status, known)
	}
	return nil
}

// serveKeys tells a node whether it is let in by the key that it names.
func (n *Node) serveKeys(w http.ResponseWriter, r *http.Request) {
	name, _ := cluster.PeerFrom(r.Context())
	k, err := wire.ParseKey(r.URL.Query().Get("key"))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(err == nil && n.wire.Knows(name, k)) // the caller may be gone
}
