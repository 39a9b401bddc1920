package machine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// TestRealRandomCrash does random operations on real machines and loses the
// daemon at random points of them. PERIGEE_CRASH_OPS says how many operations
// (default 20).
func TestRealRandomCrash(t *testing.T) {
	n := newNode(t)
	ops, _ := strconv.Atoi(os.Getenv("PERIGEE_CRASH_OPS"))
	orElse(&ops, 20)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	d := n.run()
	promised := map[string]string{} // by machine: the state last acknowledged
	for i := range ops {
		if r.IntN(2) == 0 {
			d.gate.arm(r.IntN(8), r.IntN(2) == 0)
		}
		what := n.randomOp(d, r, promised)
		if d.gate.isDead() {
			d.crash()
			d = n.run()
		}
		n.checkPromises(d, fmt.Sprintf("operation %d, %s", i, what), promised)
		if t.Failed() {
			return
		}
	}
	d.gate.arm(-1, false)
	if d.gate.isDead() { // what was armed last may strike after its operation
		d.crash()
		d = n.run()
	}
	for _, m := range d.List("") {
		ok(t, d.Destroy(t.Context(), m.ID, true, ""))
	}
	d.end()
	n.expectEmpty()
}

// randomOp does one operation and writes down what was acknowledged. A machine
// whose operation was not acknowledged may be in any lasting state.
func (n *node) randomOp(d *daemon, r *rand.Rand, promised map[string]string) string {
	ctx := context.Background()
	all := d.List("")
	if len(all) == 0 || len(all) < 4 && r.IntN(4) == 0 {
		m, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: web()})
		if err == nil {
			promised[m.ID] = api.StateStarted
		}
		return fmt.Sprintf("create: %v", err)
	}
	id := all[r.IntN(len(all))].ID
	ops := []struct {
		name, into string
		do         func() error
	}{
		{"start", api.StateStarted, func() error { _, err := d.Start(ctx, id, ""); return err }},
		{"stop", api.StateStopped, func() error { return d.Stop(ctx, id, api.StopRequest{}, "") }},
		{"pause", api.StatePaused, func() error { return d.Pause(ctx, id, "") }},
		{"suspend", api.StateSuspended, func() error { return d.Suspend(ctx, id, "") }},
		{"wake", api.StateStarted, func() error { _, err := d.Wake(ctx, id); return err }},
		{"restart", api.StateStarted, func() error { return d.Restart(ctx, id, RestartOptions{}, "") }},
		{"update", api.StateStarted, func() error { _, err := d.Update(ctx, id, api.CreateMachineRequest{Config: web()}, ""); return err }},
		{"destroy", api.StateDestroyed, func() error { return d.Destroy(ctx, id, true, "") }},
	}
	op := ops[r.IntN(len(ops))]
	err := op.do()
	switch {
	case err == nil:
		promised[id] = op.into
	case !api.IsCode(err, api.CodePrecondition):
		promised[id] = "" // anything lasting
	}
	return fmt.Sprintf("%s of %s: %v", op.name, id, err)
}

// checkPromises compares what was acknowledged with what is, and that with the
// sandboxes there are.
func (n *node) checkPromises(d *daemon, what string, promised map[string]string) {
	n.t.Helper()
	alive := 0
	for id, want := range promised {
		got := api.StateDestroyed
		if m := d.lookup(id); m != nil && !m.now().gone {
			_, err := d.Wait(context.Background(), id, WaitQuery{States: []string{"settled"}, Timeout: 20 * time.Second})
			if err != nil && !d.gate.isDead() {
				n.t.Errorf("%s: %v", what, err)
			}
			got = d.settled(n.t, id)
		}
		if want != "" && got != want {
			n.t.Errorf("%s: machine %s is %s, promised was %s", what, id, got, want)
		}
		if got == api.StateStarted || got == api.StatePaused {
			alive++
		}
		if got == api.StateDestroyed {
			delete(promised, id)
		}
	}
	infos, err := n.sandbox.List(context.Background())
	ok(n.t, err)
	for _, i := range infos {
		if _, ours := lifeOf(i.ID); ours && (i.State == sandbox.StateRunning || i.State == sandbox.StatePaused) {
			alive--
		}
	}
	if alive > 0 {
		n.t.Errorf("%s: %d machines have no sandbox", what, alive)
	}
}
