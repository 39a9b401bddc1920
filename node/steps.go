package node

import (
	"context"
	"fmt"

	"github.com/perigee-run/perigee/mesh"
)

// buildSteps is how many RUN steps go on at once, over all builds of the node.
const buildSteps = 8

// stepNetworks are the networks of RUN steps, which reach the internet and nothing
// of ours. The first build makes them; they stay, as machines' do.
func (n *Node) stepNetworks(ctx context.Context) ([]string, error) {
	have := map[string]mesh.Slot{}
	for _, s := range n.network.Slots() {
		if s.Isolated() {
			have[s.Identity.Machine] = s
		}
	}
	paths := make([]string, buildSteps)
	for i := range paths {
		name := fmt.Sprintf("build-%d", i+1)
		s, ok := have[name]
		if !ok {
			fresh, err := n.network.Acquire(ctx)
			if err != nil {
				return nil, err
			}
			s = *fresh
		}
		if err := n.network.Isolate(ctx, &s, name); err != nil {
			return nil, err
		}
		paths[i] = s.NetnsPath
	}
	return paths, nil
}

// resolvers are the addresses at which machines and RUN steps resolve names.
func (n *Node) resolvers() []string {
	var out []string
	for _, a := range n.network.ResolverAddrs() {
		out = append(out, a.String())
	}
	return out
}

// machineNetworks are the networks without those of RUN steps.
type machineNetworks struct{ *mesh.Network }

// Slots implements machine.Networks.
func (m machineNetworks) Slots() []mesh.Slot {
	var out []mesh.Slot
	for _, s := range m.Network.Slots() {
		if !s.Isolated() {
			out = append(out, s)
		}
	}
	return out
}
