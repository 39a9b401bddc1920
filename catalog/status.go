package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StateStatus is how this node and the replicated state stand.
type StateStatus struct {
	Connected bool   // to a member, or to the outside cluster
	To        string // the member, "" when there is none
	Leader    string // the member that orders the writes, "" when none is known
	Quorum    bool   // writes were taken at the last look
	Member    bool   // this node is one
	Members   []MemberStatus
	Replicas  int    // how many members keep each record
	Current   bool   // what is in memory is what the members had at the last look
	LastError string // why it is not well
}

// MemberStatus is one member as this node sees it.
type MemberStatus struct {
	Member
	Reachable bool
	Error     string // why it is not
}

// StateStatus tells how the replicated state is reached. It does not wait.
func (c *Catalog) StateStatus() StateStatus {
	if c.cloud != nil {
		return c.cloud.snapshot()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stands
}

// watchState looks how the state is, until ctx ends. cl is nil with an outside
// cluster.
func (c *Catalog) watchState(ctx context.Context, cl *cloud) {
	bad := 0
	for {
		st, err := c.look(ctx)
		if err == nil {
			bad = 0
		} else {
			bad++
		}
		if bad >= 2 && cl != nil {
			cl.link.shun()
			bad = 0
		}
		c.noteStatus(cl, st)
		every := healthEvery
		if err != nil || !st.Current {
			every = healthSoon
		}
		select {
		case <-ctx.Done():
			return
		case <-c.lookNow:
		case <-time.After(every):
		}
	}
}

func (c *Catalog) noteStatus(cl *cloud, st StateStatus) {
	if cl == nil {
		c.mu.Lock()
		c.stands = st
		c.mu.Unlock()
		return
	}
	cl.mu.Lock()
	cl.status = st
	cl.mu.Unlock()
}

// look asks the stream's leader how it is, and has the feeds read all again if
// they missed something.
func (c *Catalog) look(ctx context.Context) (StateStatus, error) {
	st := StateStatus{}
	for _, b := range []*bucket{c.state, c.said} {
		info, err := b.info(ctx)
		if err != nil {
			st.LastError = err.Error()
			return st, err
		}
		if b.name == bucketName {
			st.Connected, st.Quorum, st.Replicas = true, true, info.Config.Replicas
			if info.Cluster != nil {
				st.Leader = info.Cluster.Leader
			}
			st.Current = c.catchesUp(ctx, b, info.State.LastSeq)
		} else {
			c.catchesUp(ctx, b, info.State.LastSeq)
		}
		if b.feed.missed(info.State.LastSeq) {
			b.feed.resync()
		}
	}
	return st, nil
}

// catchesUp gives news that are on their way the time to arrive.
func (c *Catalog) catchesUp(ctx context.Context, b *bucket, to uint64) bool {
	for range 10 {
		if b.feed.current(to) {
			return true
		}
		if !pause(ctx, 50*time.Millisecond) {
			return false
		}
	}
	return false
}

func (b *bucket) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	s, err := b.js.Stream(ctx, "KV_"+b.name)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) {
		return nil, errNoLeader
	}
	if err != nil {
		return nil, err
	}
	// A member without a leader answers too, with what it knows itself.
	info := s.CachedInfo()
	if info.Cluster != nil && info.Cluster.Leader == "" {
		return nil, errNoLeader
	}
	return info, nil
}

var errNoLeader = errors.New("no leader answers")
