package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/placement"
)

// movePath is where a node is asked to make the machine that a move is about.
const movePath = "/peer/v1/moves"

// openHealer makes what moves machines off nodes that are dead or draining.
func (n *Node) openHealer(context.Context) (err error) {
	if n.moves, err = placement.NewMoveTable(n.catalog); err != nil {
		return err
	}
	removed := func(name string) bool { _, there := n.cluster.Node(name); return !there }
	n.healing, err = placement.NewLease(n.catalog, "healer", n.cfg.Name, 0, removed, n.log)
	if err != nil {
		return err
	}
	n.healer, err = placement.NewHealer(placement.HealerConfig{
		HealConfig: placement.HealConfig{DeadAfter: n.cfg.DeadAfter}, Node: n.cfg.Name,
		Fleet: movers{n}, Own: ownMachines{n}, Moves: n.moves, Leader: n.healing, Logger: n.log,
		Lock: n.lockForMove, Left: func() []string { return n.apps.LockedBy(n.cfg.Name + app.Mover) }, Unlock: n.unlockMoved,
	})
	return err
}

// runHealer waits until this node knows its machines, so that it takes none for
// gone.
func (n *Node) runHealer(ctx context.Context) error {
	select {
	case <-n.machines.Ready():
		return n.healer.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// decideWait is how long a machine that its node has lost waits until it is known
// whether it is wanted here still: the state is asked, and a move that is under
// way may be decided.
const decideWait = 10 * time.Second

// mayRun reports whether a machine that ran when this node went away may be
// started again: not if a move says that another stands for it. Where the state
// cannot be asked, by what this node knew last.
func (n *Node) mayRun(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, decideWait)
	defer cancel()
	n.asked.Do(func() {
		if err := n.catalog.CatchUp(ctx); err != nil {
			n.log.Warn("cannot ask what has become of this node's machines while it was away; it goes by what it knew", "err", err)
		}
	})
	for {
		s, ok := n.machines.Summary(id)
		if !ok {
			return false
		}
		p := n.placed(s)
		verdict := placement.Judge(p, n.moves.Of(p))
		if verdict != placement.Hold || ctx.Err() != nil {
			return verdict != placement.Destroy
		}
		rest(ctx, 100*time.Millisecond)
	}
}

// gone reports that a node has been away for so long that others take over.
func (n *Node) gone(name string) bool {
	if _, ok := n.cluster.Node(name); !ok {
		return true
	}
	up, last := n.alive(name)
	return !up && time.Since(last) > n.cfg.DeadAfter
}

// lockForMove keeps deploys away while a machine of the app is made.
func (n *Node) lockForMove(ctx context.Context, name string) (func(), error) {
	if err := n.apps.Lock(ctx, name, n.cfg.Name+app.Mover, "having a machine moved", n.gone); err != nil {
		return nil, err
	}
	return func() { n.unlockMoved(context.WithoutCancel(ctx), name) }, nil
}

func (n *Node) unlockMoved(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := n.apps.Unlock(ctx, name, n.cfg.Name+app.Mover); err != nil {
		n.log.Warn("cannot leave the lock of an app; it is tried again", "app", name, "err", err)
	}
}

// placed is a machine as the healer sees it.
func (n *Node) placed(s machine.Summary) placement.Placed {
	p := placement.Placed{ID: s.ID, App: s.App, Group: s.Group, Node: s.Node, Region: s.Region, Cordoned: s.Cordoned, MemoryMB: guestMB(s.Config)}
	if r, ok := n.apps.NewestRelease(s.App); ok {
		p.Allowed = r.Regions
		// What a release has cordoned for a while serves again if it fails.
		before, was := r.Job.Before[s.ID]
		p.Cordoned = s.Cordoned && (r.Finished() || !was || before.Cordoned)
	}
	if p.Replaces = s.Replaces; s.Home != "" {
		p.Region = s.Home
	}
	if s.Config == nil {
		return p
	}
	p.Mounted = len(s.Config.Mounts) > 0
	return p
}

// movers is all nodes as the healer sees them.
type movers struct{ n *Node }

// Nodes implements placement.Fleet. One that was removed is dead as long as it is
// known what machines it had.
func (v movers) Nodes() []placement.Node {
	out := v.n.hosts()
	for _, name := range v.n.cluster.RemovedNames() {
		if left := v.n.index.On(name); len(left) > 0 {
			out = append(out, placement.Node{Name: name, Region: left[0].Region})
		}
	}
	return out
}

// Machines implements placement.Fleet.
func (v movers) Machines() []placement.Placed {
	all := v.n.everyMachine()
	out := make([]placement.Placed, len(all))
	for i, s := range all {
		out[i] = v.n.placed(s)
	}
	return out
}

// Create implements placement.Fleet.
func (v movers) Create(ctx context.Context, m placement.Move) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // the image may have to be pulled
	defer cancel()
	if m.To == v.n.cfg.Name {
		return v.n.makeMoved(ctx, m)
	}
	client, base, err := v.n.cluster.HTTPClient(m.To)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+movePath, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("cannot ask node %q for a machine: %w", m.To, err)
	}
	defer res.Body.Close()
	var made struct{ Machine string }
	err = readPeer(res, &made)
	return made.Machine, err
}

// readPeer reads another node's answer, or its error.
func readPeer(res *http.Response, v any) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return err
	}
	if res.StatusCode == http.StatusOK {
		return json.Unmarshal(b, v)
	}
	var e api.Error
	if err := json.Unmarshal(b, &e); err != nil {
		return fmt.Errorf("the node answered %s", res.Status)
	}
	e.Status = res.StatusCode
	return &e
}

// answerPeer answers another node.
func answerPeer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		e := api.AsError(err)
		if e.Status == 0 {
			e.Status = http.StatusInternalServerError
		}
		w.WriteHeader(e.Status)
		v = e
	}
	_ = json.NewEncoder(w).Encode(v) // the caller may be gone
}

// Ready implements placement.Fleet. What sleeps is ready as it is, unless the old one
// was woken meanwhile, and what is cordoned gets no requests anyway.
func (v movers) Ready(ctx context.Context, m placement.Move) error {
	made, _ := v.n.fleet.Status(m.New)
	old, _ := v.n.fleet.Status(m.Machine)
	if !rests(made.State) || !rests(old.State) {
		if rests(made.State) {
			if _, err := v.n.fleet.Start(ctx, m.New, ""); err != nil {
				return err
			}
		}
		if err := v.n.fleet.WaitHealthy(ctx, m.New); err != nil {
			return err
		}
	}
	if made.Cordoned {
		return nil
	}
	return v.n.fleet.AllRouted(ctx, m.New)
}

// rests reports whether a machine in that state is not meant to be up, or is woken by
// a request.
func rests(state string) bool {
	switch state {
	case api.StateStopped, api.StateCreated, api.StateSuspended, api.StatePaused:
		return true
	}
	return false
}

// serveMove answers other nodes that decide on moves.
func (n *Node) serveMove(w http.ResponseWriter, r *http.Request) {
	var m placement.Move
	err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&m)
	id := ""
	if err == nil {
		id, err = n.makeMoved(r.Context(), m)
	}
	answerPeer(w, map[string]string{"machine": id}, err)
}

// makeMoved makes here the machine that replaces one of another node, from what
// that node said of it last.
func (n *Node) makeMoved(ctx context.Context, m placement.Move) (string, error) {
	return n.healer.Make(ctx, m, func(ctx context.Context) (string, error) {
		old, ok := n.index.Find(m.Machine)
		if !ok {
			return "", api.Errorf(api.CodeNotFound, "nothing is known here of machine %q", m.Machine)
		}
		if old.Config == nil {
			return "", api.Errorf(api.CodePrecondition, "this node cannot read the configuration of machine %q; its node has another version", m.Machine)
		}
		made, err := n.machines.Create(ctx, old.App, replacement(old, m, n.cfg.Region))
		return made.ID, err
	})
}

func replacement(old machine.Summary, m placement.Move, here string) api.CreateMachineRequest {
	home := m.Home
	if home == here {
		home = ""
	}
	return api.CreateMachineRequest{
		Config: old.Config, Replaces: m.Machine, HomeRegion: home, Region: here, Release: old.Release, SkipSecrets: old.NoSecrets, MinSecretsVersion: old.SecretsVersion,
		SkipServiceRegistration: m.Cordoned, SkipLaunch: rests(old.State) && old.State != api.StatePaused,
	}
}

// yielding are machines of this node that may not serve, since a move says that
// others may stand for them soon, or do and this edge knows them. They are cordoned or
// destroyed in a moment; until then, as after a start, the router must not lead
// anybody to them.
func (n *Node) yielding() map[string]bool {
	moves, out := map[string]placement.Move{}, map[string]bool{}
	for _, r := range n.moves.List() {
		moves[r.Machine] = r.Move
	}
	if len(moves) == 0 {
		return nil
	}
	for _, p := range (ownMachines{n}).Machines() {
		_, replaced := n.yields.Load(p.ID)
		if v := placement.Judge(p, moves); v == placement.Hold || v == placement.Destroy && replaced {
			out[p.ID] = true
		}
	}
	return out
}

// ownMachines is this node's machines as the healer sees them.
type ownMachines struct{ n *Node }

// Machines implements placement.Own.
func (o ownMachines) Machines() []placement.Placed {
	var out []placement.Placed
	for _, s := range o.n.machines.Summaries() {
		out = append(out, o.n.placed(s))
	}
	return out
}

// Cordon implements placement.Own.
func (o ownMachines) Cordon(ctx context.Context, id string) error {
	return o.n.machines.Cordon(ctx, id, "")
}

// Uncordon implements placement.Own.
func (o ownMachines) Uncordon(ctx context.Context, id string) error {
	return o.n.machines.Uncordon(ctx, id, "")
}

// Destroy implements placement.Own.
func (o ownMachines) Destroy(ctx context.Context, id string) error {
	o.n.awaitStandIn(ctx, id)
	o.n.yields.Store(id, true)
	defer o.n.yields.Delete(id)
	drained, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := o.Cordon(ctx, id); err == nil {
		_ = o.n.fleet.AllDrained(drained, id) // it goes all the same
	}
	err := o.n.machines.Destroy(ctx, id, true, "")
	if api.IsCode(err, api.CodeNotFound) {
		return nil
	}
	return err
}

// awaitStandIn waits, for a while, until the edges know what stands for a machine of
// this node: one that was cut off would else have nobody to lead its visitors to.
func (n *Node) awaitStandIn(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := n.catalog.CatchUpPublished(ctx); err != nil {
		n.log.Debug("a machine gives way before all is known", "machine", id, "err", err)
	}
	if s, ok := n.machines.Summary(id); ok {
		if m := n.moves.Of(n.placed(s))[id]; m.New != "" && !m.Cordoned {
			_ = n.fleet.AllRouted(ctx, m.New) // it goes all the same
		}
	}
}

// fence writes down that machines out of reach are not wanted any more.
func (n *Node) fence(ctx context.Context, app string, machines []api.Machine) error {
	at := map[string]string{}
	for _, m := range machines {
		at[m.ID] = m.Node
	}
	return placement.Supersede(ctx, n.moves, time.Now(), app, at)
}
