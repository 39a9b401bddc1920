package machine

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
)

// WaitPorts waits until the machine accepts connections on its services'
// internal ports: the check that everyone has who names none. It is asked of
// the node that owns the machine, which reaches it without the mesh.
func (h *Host) WaitPorts(ctx context.Context, id string) error {
	m, err := h.find(ctx, id)
	if err != nil {
		return err
	}
	v := m.now()
	addr := v.status().Addr
	if !addr.IsValid() {
		return h.WaitHealthy(ctx, id)
	}
	for _, s := range v.rec.Config.Services {
		if err := h.waitPort(ctx, net.JoinHostPort(addr.String(), strconv.Itoa(s.InternalPort)), s.InternalPort); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) waitPort(ctx context.Context, target string, port int) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		c, err := h.cfg.Dial(ctx, "tcp", target)
		if err == nil {
			return c.Close()
		}
		select {
		case <-time.After(wait):
		case <-h.ctx.Done():
			return errClosing()
		case <-ctx.Done():
			return api.Errorf(api.CodeTimeout, "nothing accepts connections on port %d", port).
				WithHint(fmt.Sprintf("the app must listen on 0.0.0.0:%d or [::]:%d; or set internal_port to the port it listens on", port, port))
		}
	}
}
