package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// recoverLimit bounds how long those that are left take to decide without the lost ones.
const recoverLimit = 30 * time.Second

// Recover has the members that are left decide without those that are lost for good,
// which were most of them, and returns when writes are taken again. What only the lost
// ones had is lost with them. They must never come back: together they could
// still decide, for a cloud of their own. It is refused on a node that keeps no part
// of the state, and where a member is neither lost nor can be reached, a lost one can
// be reached, or most members are there.
func (c *Catalog) Recover(ctx context.Context, lost []string) error {
	if c.cloud == nil {
		return errors.New("this node keeps no part of the cloud's state")
	}
	return c.cloud.recover(ctx, lost)
}

func (cl *cloud) recover(ctx context.Context, lost []string) error {
	s := cl.part()
	if s == nil || !s.ns.Load().JetStreamEnabled() {
		return errors.New("this node keeps no part of the cloud's state; ask one that does")
	}
	peers, err := readPeers(s.dir)
	if err != nil {
		return err
	}
	left, err := cl.survivors(s, peers, lost)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverLimit)
	defer cancel()
	cl.c.log.Warn("the state goes on without members that are lost", "lost", lost, "left", left)
	if err := retry(ctx, func() error { return cl.lowerQuorum(ctx, s, left) }); err != nil { // who led may be missed a little later
		return err
	}
	for _, name := range lost {
		if id := peerID(name); slices.Contains(peers, id) {
			if err := retry(ctx, func() error { return cl.farewell(s, id) }); err != nil {
				return err
			}
		}
	}
	return retry(ctx, func() error { _, err := cl.c.look(ctx); return err })
}

// survivors is how many peers are left, or why that is not for this node to say.
func (cl *cloud) survivors(s *stateServer, peers, lost []string) (int, error) {
	left, online := 0, s.online()
	gone := map[string]bool{}
	for _, name := range lost {
		id := peerID(name)
		gone[id] = true
		if online[id] {
			return 0, fmt.Errorf("member %q can be reached: it is not lost", name)
		}
	}
	for _, id := range peers {
		switch {
		case gone[id]:
		case !online[id]:
			return 0, fmt.Errorf("member %q cannot be reached and is not named as lost: start it, or name it too", cl.nameOf(id))
		default:
			left++
		}
	}
	if left > len(peers)/2 {
		return 0, errors.New("most members are there: the state needs no recovery")
	}
	return left, nil
}

// nameOf is the member with that id, or the id.
func (cl *cloud) nameOf(id string) string {
	for _, m := range append(cl.list(), cl.former()...) {
		if peerID(m.Name) == id {
			return m.Name
		}
	}
	return id
}

// lowerQuorum has so many members be enough until the lost ones are let go, and waits
// for their leader.
func (cl *cloud) lowerQuorum(ctx context.Context, s *stateServer, enough int) error {
	nc, err := s.system()
	if err != nil {
		return err
	}
	defer nc.Close()
	question, err := json.Marshal(server.JSApiMetaRescueRequest{QuorumNeeded: enough})
	if err != nil {
		return err
	}
	// All that are left hear it, and each answers for itself.
	answers, err := nc.SubscribeSync(nats.NewInbox())
	if err != nil {
		return err
	}
	if err := nc.PublishRequest(server.JSApiMetaRescue, answers.Subject, question); err != nil {
		return err
	}
	for range enough {
		m, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("not all that are left answer: %w", err)
		}
		var a server.JSApiMetaRescueResponse
		if err := json.Unmarshal(m.Data, &a); err != nil {
			return err
		}
		if a.Error != nil {
			return fmt.Errorf("member %q does not go on: %w", a.Server, apiFault(a.Error))
		}
	}
	return nil
}

// retry does it until it succeeds or ctx ends.
func retry(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return err
		}
	}
}
