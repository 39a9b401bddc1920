package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

const tendEvery = time.Second

// tend has the cluster become what the list of members says. All members look;
// the one that leads acts.
func (cl *cloud) tend(ctx context.Context) {
	said := ""
	for pause(ctx, tendEvery) {
		s := cl.part()
		if s == nil {
			continue
		}
		s.door.recheck()
		if cl.leave(s) {
			continue
		}
		if !s.ns.Load().JetStreamIsLeader() {
			continue
		}
		err := cl.shape(ctx, s)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			cl.c.log.Warn("the members of the state are not as they should be, for now", "error", err)
		}
		said = fmt.Sprint(err)
	}
}

// leave ends this node's part when the others have let it go, and reports
// whether they had.
func (cl *cloud) leave(s *stateServer) bool {
	if s.ns.Load().JetStreamEnabled() || isMember(cl.list(), cl.cfg.Node) || !s.disk.isWell() {
		return false
	}
	cl.c.log.Info("this node does not keep the state any more")
	if err := cl.close(); err != nil {
		cl.c.log.Warn("cannot end this node's part of the state in order", "error", err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		cl.c.log.Warn("cannot remove this node's former part of the state", "dir", s.dir, "error", err)
	}
	return true
}

// shape does the next thing that is missing, in the order that never leaves a
// record on fewer members than before: first copies, then farewells.
func (cl *cloud) shape(ctx context.Context, s *stateServer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*askLimit)
	defer cancel()
	peers := s.ns.Load().JetStreamClusterPeers()
	leaving := cl.leaving(peers)
	if len(leaving) == 0 {
		return cl.replicate(ctx, copies(len(peers)))
	}
	if len(leaving) == len(peers) {
		return errors.New("none of the new members is here yet")
	}
	// What is kept once may be kept by the one that goes.
	if err := cl.replicateAtLeast(ctx, min(3, len(peers))); err != nil {
		return err
	}
	if slices.Contains(leaving, s.node) {
		if len(leaving) == 1 {
			return cl.stepDown(s)
		}
		leaving = slices.DeleteFunc(leaving, func(n string) bool { return n == s.node })
	}
	return cl.farewell(s, leaving[0])
}

// copies is how many members keep each record.
func copies(members int) int {
	switch {
	case members >= 5:
		return 5
	case members >= 3:
		return 3
	}
	return 1
}

// leaving are the peers that are members no more. One that was never named stays
// for a while: the list may be on its way.
func (cl *cloud) leaving(peers []string) (out []string) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, p := range peers {
		switch {
		case isMember(cl.members, p):
			delete(cl.strange, p)
		case !cl.gone[p].IsZero():
			out = append(out, p)
		case cl.strange[p].IsZero():
			cl.strange[p] = time.Now()
		case time.Since(cl.strange[p]) > strangerFor:
			out = append(out, p)
		}
	}
	return out
}

// replicate has every record kept n times.
func (cl *cloud) replicate(ctx context.Context, n int) error {
	return cl.eachStream(ctx, func(si *jetstream.StreamInfo) error {
		if si.Config.Replicas == n {
			return nil
		}
		cl.c.log.Info("the state is kept by another number of members from now on", "stream", si.Config.Name, "members", n)
		cfg := si.Config
		cfg.Replicas = n
		_, err := cl.c.stateJS.UpdateStream(ctx, cfg)
		return err
	})
}

// replicateAtLeast returns an error until every record is kept n times.
func (cl *cloud) replicateAtLeast(ctx context.Context, n int) error {
	return cl.eachStream(ctx, func(si *jetstream.StreamInfo) error {
		if si.Config.Replicas < n {
			cfg := si.Config
			cfg.Replicas = n
			if _, err := cl.c.stateJS.UpdateStream(ctx, cfg); err != nil {
				return err
			}
		}
		return cl.kept(si)
	})
}

// kept returns an error while the stream has no second place to be.
func (cl *cloud) kept(si *jetstream.StreamInfo) error {
	if si.Cluster == nil {
		return nil
	}
	for _, r := range si.Cluster.Replicas {
		if r.Current {
			return nil
		}
	}
	return fmt.Errorf("%s is still being copied", si.Config.Name)
}

func (cl *cloud) eachStream(ctx context.Context, do func(*jetstream.StreamInfo) error) error {
	for _, name := range []string{"KV_" + bucketName, "KV_" + publishedName} {
		s, err := cl.c.stateJS.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err == nil {
			err = do(s.CachedInfo())
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// farewell takes a member out of the cluster; it need not be there.
func (cl *cloud) farewell(s *stateServer, name string) error {
	cl.c.log.Info("a member of the state is let go", "member", name)
	var answer server.JSApiMetaServerRemoveResponse
	err := cl.ask(s, server.JSApiRemoveServer, server.JSApiMetaServerRemoveRequest{Peer: peerID(name)}, &answer)
	if err != nil || answer.Error != nil {
		return fmt.Errorf("cannot let member %q go: %w", name, errors.Join(err, apiFault(answer.Error)))
	}
	return nil
}

// stepDown has another member lead.
func (cl *cloud) stepDown(s *stateServer) error {
	var answer server.JSApiLeaderStepDownResponse
	if err := cl.ask(s, server.JSApiLeaderStepDown, server.JSApiLeaderStepdownRequest{}, &answer); err != nil {
		return fmt.Errorf("cannot hand the lead on: %w", err)
	}
	return apiFault(answer.Error)
}

func apiFault(e *server.ApiError) error {
	if e == nil {
		return nil
	}
	return errors.New(e.Description)
}

// ask sends a question from the system account.
func (cl *cloud) ask(s *stateServer, subject string, question, answer any) error {
	nc, err := s.system()
	if err != nil {
		return err
	}
	defer nc.Close()
	data, err := json.Marshal(question)
	if err != nil {
		return err
	}
	msg, err := nc.Request(subject, data, askLimit)
	if err != nil {
		return err
	}
	return json.Unmarshal(msg.Data, answer)
}

// routed are the members to which this one has a route.
func (s *stateServer) routed() map[string]bool {
	out := map[string]bool{}
	z, err := s.ns.Load().Routez(nil)
	if err != nil {
		return out
	}
	for _, r := range z.Routes {
		out[r.RemoteName] = true
	}
	return out
}
