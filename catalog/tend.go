package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	tendEvery = time.Second
	// awayFor is how long a member is not reached before it is told.
	awayFor = 10 * time.Second
	// amiss is how many looks in a row must fail before it is told: a member that
	// is about to come is missing for a moment.
	amiss = 5
)

// tend has the cluster become what the list of members says. All members look;
// the one that leads acts.
func (cl *cloud) tend(ctx context.Context) {
	bad, away := 0, absent{}
	for pause(ctx, tendEvery) {
		s := cl.part()
		if s == nil {
			continue
		}
		s.recheck()
		away.note(cl.list(), s.node, s.routesUp(), cl.c.log)
		if cl.leave(s) {
			continue
		}
		if !s.ns.Load().JetStreamIsLeader() {
			continue
		}
		err := errors.Join(cl.shape(ctx, s), cl.wakeLonely(ctx, s))
		if err == nil {
			bad = 0
		} else if bad++; bad%amiss == 0 && bits.OnesCount(uint(bad/amiss)) == 1 && ctx.Err() == nil { // less and less often
			cl.c.log.Warn("the members of the state are not as they should be, for now", "error", err)
		}
	}
}

// wakeLonely has a member go on that is the only one now: see giveRoute.
func (cl *cloud) wakeLonely(ctx context.Context, s *stateServer) error {
	alone, err := isAlone(s.dir, s.node)
	if err != nil || !alone || cl.snapshot().Quorum {
		return err
	}
	return s.giveRoute(ctx)
}

// absent are the members that this one does not reach, and since when. The time
// is zero once that is told.
type absent map[string]time.Time

// note tells once when a member is away for a while, and when it is back.
func (a absent) note(members []Member, self string, reached map[string]bool, log *slog.Logger) {
	for _, m := range members {
		since, known := a[m.Name]
		switch {
		case m.Name == self:
		case reached[m.Name]:
			if known && since.IsZero() {
				log.Info("a member of the state is reached again", "member", m.Name)
			}
			delete(a, m.Name)
		case !known:
			a[m.Name] = time.Now()
		case !since.IsZero() && time.Since(since) > awayFor:
			log.Warn("a member of the state cannot be reached", "member", m.Name, "address", m.RouteAddr)
			a[m.Name] = time.Time{}
		}
	}
	for name := range a {
		if !isMember(members, name) {
			delete(a, name)
		}
	}
}

// peersSubject is where the members' leader says who is in the cluster.
const peersSubject = "perigee.peers"

// peersAnswer are the ids of those in the cluster, which of them are members that are
// here, and whether others are still to become what the list of members says.
type peersAnswer struct {
	IDs    []string `json:"ids"`
	Here   []string `json:"here"`
	Change bool     `json:"change,omitempty"`
}

// tellPeers answers those who ask, while this member leads.
func (cl *cloud) tellPeers(m *nats.Msg) {
	s := cl.part()
	if s == nil || !s.ns.Load().JetStreamIsLeader() {
		return
	}
	ids, err := readPeers(s.dir)
	if err != nil || len(ids) == 0 {
		return
	}
	a, online, list := peersAnswer{IDs: ids}, s.online(), cl.list()
	a.Change = len(list) != len(ids)
	for _, m := range list {
		id := peerID(m.Name)
		peer := slices.Contains(ids, id)
		if a.Change = a.Change || !peer; peer && online[id] {
			a.Here = append(a.Here, id)
		}
	}
	if data, err := json.Marshal(a); err == nil {
		_ = m.Respond(data) // who asked may be gone
	}
}

func (cl *cloud) askPeers() (a peersAnswer, err error) {
	m, err := cl.c.conn.Request(peersSubject, nil, askLimit)
	if err != nil {
		return a, cl.unreachable(err)
	}
	return a, json.Unmarshal(m.Data, &a)
}

// isLetGo reports whether the leader says that this node is in the cluster no
// more. The server itself may not have heard of it: then it would answer questions
// to the cluster for ever, saying that it has no leader.
func (cl *cloud) isLetGo() bool {
	a, err := cl.askPeers()
	return err == nil && !slices.Contains(a.IDs, peerID(cl.cfg.Node))
}

// checkLoss is [Catalog.CheckLoss].
func (cl *cloud) checkLoss(ctx context.Context, nodes []string) (keep bool, err error) {
	a, err := cl.askPeers()
	if err != nil {
		return false, err
	}
	lost := map[string]bool{}
	for _, node := range nodes {
		id := peerID(node)
		lost[id] = true
		keep = keep || slices.Contains(a.IDs, id)
	}
	if !keep {
		return false, nil
	}
	here := slices.DeleteFunc(slices.Clone(a.Here), func(id string) bool { return lost[id] })
	switch {
	case most(len(here), len(a.IDs)): // they are let go by a majority that they are still counted in
		err = cl.eachStream(ctx, func(si *jetstream.StreamInfo) error { return keptBy(si, here) })
	case a.Change:
		err = ErrMoving
	default:
		err = ErrNeeded
	}
	return true, err
}

func most(part, of int) bool { return part > of/2 }

// keptBy returns an error while most of those that keep the stream are not among the
// ids, with all that is in it.
func keptBy(si *jetstream.StreamInfo, ids []string) error {
	c := si.Cluster
	if c == nil {
		return nil
	}
	whole := 0
	if slices.Contains(ids, peerID(c.Leader)) {
		whole++
	}
	for _, r := range c.Replicas {
		if r.Current && slices.Contains(ids, peerID(r.Name)) {
			whole++
		}
	}
	if !most(whole, max(si.Config.Replicas, 1+len(c.Replicas))) {
		return ErrMoving
	}
	return nil
}

// leave ends this node's part when the others have let it go, and reports
// whether they had.
func (cl *cloud) leave(s *stateServer) bool {
	if isMember(cl.list(), cl.cfg.Node) || !s.disk.isWell() || !cl.isLetGo() {
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

// shape does the next thing that is missing, in the order that never risks a
// record: who comes gets its copies, who goes is emptied before its farewell.
func (cl *cloud) shape(ctx context.Context, s *stateServer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*askLimit)
	defer cancel()
	peers, err := readPeers(s.dir)
	if err != nil {
		return err
	}
	leaving, want := cl.leaving(peers), copies(len(cl.list()))
	if len(leaving) == 0 {
		return errors.Join(cl.replicate(ctx, want, copies(len(peers))), s.reroute())
	}
	if len(leaving) == len(peers) {
		return errors.New("none of the new members is here yet")
	}
	own, online := peerID(s.node), s.online()
	if slices.Equal(leaving, []string{own}) {
		if err := cl.empty(ctx, s, own, want); err != nil {
			return err
		}
		return cl.stepDown(s)
	}
	next, err := nextToGo(peers, slices.DeleteFunc(leaving, func(id string) bool { return id == own }), online)
	if err != nil {
		return err
	}
	if online[next] {
		err = cl.empty(ctx, s, next, want)
	} else {
		err = cl.eachStream(ctx, cl.kept)
	}
	// What is left of a stream may choose no leader before the dead are let go.
	if errors.Is(err, errNoLeader) && !online[next] && cl.hasAll(s) {
		err = nil
	}
	if err != nil {
		return err
	}
	return cl.farewell(s, next)
}

// hasAll reports whether this member has, of each stream, all that this node has ever
// heard of: it is no new copy that is not whole yet.
func (cl *cloud) hasAll(s *stateServer) bool {
	z, err := s.ns.Load().Jsz(&server.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		return false
	}
	has := map[string]uint64{}
	for _, a := range z.AccountDetails {
		for _, st := range a.Streams {
			has[st.Name] = st.State.LastSeq
		}
	}
	for _, b := range []*bucket{cl.c.state, cl.c.said} {
		if at, ok := has["KV_"+b.name]; !ok || at < b.feed.latest() {
			return false
		}
	}
	return true
}

// nextToGo are those that are dead first: of the peers that are left, most must
// be there to agree.
func nextToGo(peers, leaving []string, online map[string]bool) (string, error) {
	slices.SortStableFunc(leaving, func(a, b string) int {
		switch {
		case online[a] == online[b]:
			return strings.Compare(a, b)
		case online[b]:
			return -1
		}
		return 1
	})
	there := 0
	for _, id := range peers {
		if online[id] && id != leaving[0] {
			there++
		}
	}
	if left := len(peers) - 1; there <= left/2 {
		return "", fmt.Errorf("of the %d members that would be left only %d are here: one of the others must come back first", left, there)
	}
	return leaving[0], nil
}

// online are the ids of the peers that are here. The server itself believes for many
// seconds that one is which has no route any more.
func (s *stateServer) online() map[string]bool {
	out, routes := map[string]bool{peerID(s.node): true}, s.routesUp()
	for _, name := range s.ns.Load().JetStreamClusterPeers() {
		out[peerID(name)] = out[peerID(name)] || routes[name]
	}
	return out
}

// copies is how many members keep each record.
func copies(members int) int {
	switch {
	case members >= 5:
		return 5
	case members >= 3:
		return 3
	}
	return max(1, members)
}

// leaving are the peers that are members no more. One that was never named stays
// for a while: the list may be on its way. Former members that are no peers are
// forgotten.
func (cl *cloud) leaving(peers []string) (out []string) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	named := map[string]bool{}
	for _, m := range cl.members {
		named[peerID(m.Name)] = true
		delete(cl.strange, peerID(m.Name))
	}
	for name, m := range cl.gone {
		id := peerID(name)
		named[id] = true
		if slices.Contains(peers, id) {
			out = append(out, id)
		} else if time.Since(m.since) > strangerFor { // it does not come any more
			delete(cl.gone, name)
		}
	}
	for _, id := range peers {
		switch {
		case named[id]:
		case cl.strange[id].IsZero():
			cl.strange[id] = time.Now()
		case time.Since(cl.strange[id]) > strangerFor:
			out = append(out, id)
		}
	}
	return out
}

// replicate has every record kept want times, as far as there are peers for it.
// While some are missing nothing is given up.
func (cl *cloud) replicate(ctx context.Context, want, can int) error {
	return cl.eachStream(ctx, func(si *jetstream.StreamInfo) error {
		n := si.Config.Replicas
		if n < want {
			n = max(n, min(want, can))
		} else {
			n = want
		}
		return cl.setReplicas(ctx, si.Config, n)
	})
}

func (cl *cloud) setReplicas(ctx context.Context, cfg jetstream.StreamConfig, n int) error {
	if cfg.Replicas == n {
		return nil
	}
	cl.c.log.Info("the state is kept by another number of members from now on", "stream", cfg.Name, "members", n)
	cfg.Replicas = n
	_, err := cl.c.stateJS.UpdateStream(ctx, cfg)
	return err
}

// empty moves every record off a member that is still here. It returns an error
// until that is done: the records of one that is taken out of the cluster are
// dropped at once, and with them what only it had.
func (cl *cloud) empty(ctx context.Context, s *stateServer, id string, want int) error {
	return cl.eachStream(ctx, func(si *jetstream.StreamInfo) error {
		if si.Config.Replicas > want {
			return errors.Join(cl.setReplicas(ctx, si.Config, want), errBeingMoved)
		}
		if !holds(si, id) {
			return nil
		}
		var answer server.JSApiMetaServerEvacuateResponse
		err := cl.ask(s, server.JSApiEvacuateServer, server.JSApiMetaServerEvacuateRequest{Peer: id}, &answer)
		if err := errors.Join(err, apiFault(answer.Error)); err != nil {
			return fmt.Errorf("it cannot be moved off member %q: %w", id, err)
		}
		return errBeingMoved
	})
}

var errBeingMoved = errors.New("it is being moved off a member that goes")

// holds reports whether a member has a part of the stream.
func holds(si *jetstream.StreamInfo, id string) bool {
	c := si.Cluster
	return c == nil || peerID(c.Leader) == id || slices.ContainsFunc(c.Replicas, func(r *jetstream.PeerInfo) bool { return peerID(r.Name) == id })
}

// kept returns an error while no member that stays has all of the stream.
func (cl *cloud) kept(si *jetstream.StreamInfo) error {
	if si.Cluster == nil {
		return nil
	}
	if si.Cluster.Leader == "" {
		return errNoLeader
	}
	stay := cl.list()
	if isMember(stay, si.Cluster.Leader) {
		return nil
	}
	for _, r := range si.Cluster.Replicas {
		if r.Current && isMember(stay, r.Name) {
			return nil
		}
	}
	return errors.New("no member that stays has all of it")
}

func (cl *cloud) eachStream(ctx context.Context, do func(*jetstream.StreamInfo) error) error {
	for _, name := range []string{"KV_" + bucketName, "KV_" + publishedName} {
		s, err := cl.c.stateJS.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w: %w", name, errNoLeader, err)
		}
		if err := do(s.CachedInfo()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// farewell takes a member out of the cluster; it need not be there.
func (cl *cloud) farewell(s *stateServer, id string) error {
	cl.c.log.Info("a member of the state is let go", "id", id)
	var answer server.JSApiMetaServerRemoveResponse
	err := cl.ask(s, server.JSApiRemoveServer, server.JSApiMetaServerRemoveRequest{Peer: id}, &answer)
	if err != nil || answer.Error != nil {
		return fmt.Errorf("cannot let member %q go: %w", id, errors.Join(err, apiFault(answer.Error)))
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

// routesUp are the members to which this one has a route.
func (s *stateServer) routesUp() map[string]bool {
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
