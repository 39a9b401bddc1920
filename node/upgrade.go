package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"syscall"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/handover"
)

// upgradePath is where a node is asked to upgrade itself.
const upgradePath = "/peer/v1/upgrade"

// Upgrade has a node, this one or another, put the program on its disk in the
// place of the one that runs.
func (n *Node) Upgrade(ctx context.Context, node string) (string, error) {
	if node == n.cfg.Name {
		return n.upgrade(context.WithoutCancel(ctx))
	}
	client, base, err := n.cluster.HTTPClient(node)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+upgradePath, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("cannot ask node %q to upgrade: %w", node, err)
	}
	defer res.Body.Close()
	var u api.NodeUpgrade
	return u.Version, readPeer(res, &u)
}

// serveUpgrade answers another node that was asked to upgrade this one.
func (n *Node) serveUpgrade(w http.ResponseWriter, r *http.Request) {
	version, err := n.upgrade(context.WithoutCancel(r.Context()))
	answerPeer(w, api.NodeUpgrade{Version: version}, err)
}

// upgrade starts the program that is on disk now, in the place of the one that
// runs. It returns the new one's version when that runs and is willing to take
// over, which it does then while this one serves; or an error, and then nothing
// has changed.
func (n *Node) upgrade(ctx context.Context) (string, error) {
	if why := n.mayNotUpgrade(); why != nil {
		return "", why
	}
	h, err := n.startHeir(ctx)
	switch {
	case errors.Is(err, handover.ErrUnderWay):
		return "", api.Errorf(api.CodeConflict, "an upgrade of node %q is under way", n.cfg.Name)
	case err != nil:
		n.log.Error("cannot upgrade; this program goes on", "program", n.cfg.Program, "err", err)
		return "", api.Errorf(api.CodePrecondition, "cannot upgrade node %q: %v", n.cfg.Name, err).WithHint("nothing has changed; put a program that works at " + n.cfg.Program)
	}
	return h.Version, nil
}

// startHeir starts the program with all that is open: what was kept, and what has
// changed since.
func (n *Node) startHeir(ctx context.Context) (*handover.Heir, error) {
	ports, err := n.router.Files()
	if err != nil {
		return nil, err
	}
	open := map[string]syscall.Conn{lockName: n.lock}
	for port, f := range ports {
		defer f.Close()
		open[routerName+port] = f
	}
	return n.next.Start(ctx, n.cfg.Program, open)
}

// mayNotUpgrade is what makes an upgrade end badly.
func (n *Node) mayNotUpgrade() error {
	if n.cfg.Program == "" {
		return api.Errorf(api.CodeUnsupported, "node %q does not know its own program", n.cfg.Name)
	}
	if supervised() && !canNotify() {
		return api.Errorf(api.CodePrecondition, "cannot upgrade node %q: systemd would take the end of this process for the end of the service", n.cfg.Name).
			WithHint("set Type=notify in the unit, as docs/operations.md shows, and restart it once")
	}
	if !n.cfg.heritage.Gone() {
		return api.Errorf(api.CodeConflict, "cannot upgrade node %q yet: connections of the program before this one are still open", n.cfg.Name).WithHint("try again when they have ended")
	}
	return nil
}
