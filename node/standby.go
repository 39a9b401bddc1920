package node

import (
	"time"

	"github.com/perigee-run/perigee/machine"
)

// standbyAfter is how long a node is silent before those start that stand by for its
// machines: longer than a restart of the daemon, shorter than until they are made anew.
const standbyAfter = 15 * time.Second

// fallen reports whether a machine of the app is lost with its node and nothing stands for it: for
// machine.Config.Fallen. One that was not up is not missed.
func (n *Node) fallen(app, id string) bool {
	lost := false
	for _, s := range n.machinesOf(app) {
		if s.ID != id && s.Replaces != id {
			continue
		}
		if !n.silent(s) {
			return false
		}
		lost = lost || !rests(s.State)
	}
	return lost
}

func (n *Node) silent(s machine.Summary) bool {
	if s.Node == n.cfg.Name {
		return false
	}
	up, last := n.alive(s.Node)
	return !up && time.Since(last) > min(standbyAfter, n.cfg.DeadAfter)
}
