package machine

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
)

// dialPatience is how long a machine of this node may take to accept a connection
// that is only looked at.
const dialPatience = 100 * time.Millisecond

// listening are the internal ports of the machine's services that take
// connections, as its node finds them. All others are inside the sandbox, and so
// is which process has them.
func (h *Host) listening(ctx context.Context, m *machine) []api.ListenSocket {
	v := m.now()
	addr, ports := v.status().Addr, []int{}
	for _, s := range v.rec.Config.Services {
		if addr.IsValid() && !slices.Contains(ports, s.InternalPort) {
			ports = append(ports, s.InternalPort)
		}
	}
	open := make([]bool, len(ports))
	var all sync.WaitGroup
	for i, port := range ports {
		all.Go(func() { open[i] = h.accepts(ctx, net.JoinHostPort(addr.String(), strconv.Itoa(port))) })
	}
	all.Wait()
	out := []api.ListenSocket{}
	for i, port := range ports {
		if open[i] {
			out = append(out, api.ListenSocket{Proto: "tcp", Address: net.JoinHostPort("0.0.0.0", strconv.Itoa(port))})
		}
	}
	return out
}

// accepts reports whether something takes a connection there.
func (h *Host) accepts(ctx context.Context, target string) bool {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	c, err := h.cfg.Dial(ctx, "tcp", target)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
