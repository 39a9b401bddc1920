package node

import (
	"context"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/placement"
)

// sleeper is the node as placement sees it.
type sleeper struct{ n *Node }

// Machines implements placement.Host.
func (s sleeper) Machines() []placement.Machine {
	all := s.n.machines.Statuses()
	out := make([]placement.Machine, 0, len(all))
	for _, m := range all {
		if m.Config == nil || len(m.Config.Services) == 0 || m.Cordoned {
			continue
		}
		busy, last := s.n.activity(m.ID)
		out = append(out, placement.Machine{
			ID: m.ID, App: m.App, Group: m.Group, State: m.State, Since: m.Since, Idle: last, Busy: busy > 0, Healthy: m.Healthy,
			Autostop: autostop(m.Config.Services), MinRunning: minRunning(m.Config.Services),
		})
	}
	return out
}

// Close implements placement.Host.
func (s sleeper) Close(id string) (placement.Door, bool) {
	hold, ok := s.n.router.Quiesce(id)
	return hold, ok
}

// Pause implements placement.Host.
func (s sleeper) Pause(ctx context.Context, id string) error {
	return s.n.machines.Sleep(ctx, id, api.StatePaused)
}

// Stop implements placement.Host.
func (s sleeper) Stop(ctx context.Context, id string) error {
	return s.n.machines.Sleep(ctx, id, api.StateStopped)
}

// autostop is the most wakeful wish among a machine's services.
func autostop(services []api.Service) api.Autostop {
	deepest := api.AutostopSuspend
	for _, s := range services {
		switch {
		case s.Autostop == nil || *s.Autostop == api.AutostopOff || *s.Autostop == "":
			return api.AutostopOff
		case *s.Autostop == api.AutostopStop:
			deepest = api.AutostopStop
		}
	}
	return deepest
}

func minRunning(services []api.Service) int {
	n := 0
	for _, s := range services {
		if s.MinMachinesRunning != nil {
			n = max(n, *s.MinMachinesRunning)
		}
	}
	return n
}

// waitIdle returns when nothing is in flight to the machine, or ctx ends.
func (n *Node) waitIdle(ctx context.Context, id string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if busy, _ := n.activity(id); busy == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
