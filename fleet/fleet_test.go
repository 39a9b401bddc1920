package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/machine"
)

// Every operation on another node's machine, through the API of a node that does
// not have it.
func TestEveryOperationReachesTheOwner(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2, ctx := c.nodes[0], c.nodes[1], t.Context()
	m := n1.machine(t, "shop", "n2")
	if m.Node != "n2" || m.State != api.StateStarted {
		t.Fatalf("made %+v", m)
	}
	if _, err := n2.host.Get(ctx, m.ID); err != nil {
		t.Fatal(err)
	}
	state := func(want string) {
		t.Helper()
		got := must[api.Machine](t)(n1.GetMachine(ctx, "shop", m.ID))
		if got.State != want || got.HostStatus != "ok" || got.Node != "n2" || len(got.Events) == 0 {
			t.Errorf("is %s on %s (%s) with %d events, want %s", got.State, got.Node, got.HostStatus, len(got.Events), want)
		}
		own := must[api.Machine](t)(n2.host.Get(ctx, m.ID))
		if own.State != want {
			t.Errorf("the owner says %s, want %s", own.State, want)
		}
	}
	ok := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	state("started")
	ok("pause", n1.PauseMachine(ctx, "shop", m.ID))
	state("paused")
	woken, err := n1.WakeMachine(ctx, "shop", m.ID)
	if err != nil || woken.PreviousState != "paused" {
		t.Errorf("woken: %+v, %v", woken, err)
	}
	state("started")
	ok("suspend", n1.SuspendMachine(ctx, "shop", m.ID))
	state("suspended")
	ok("start", n1.StartMachine(ctx, "shop", m.ID))
	ok("signal", n1.SignalMachine(ctx, "shop", m.ID, "SIGHUP"))
	ok("restart", n1.RestartMachineWith(ctx, "shop", m.ID, api.RestartOptions{Force: true, Timeout: api.D(time.Second), Signal: "SIGTERM"}))
	ok("cordon", n1.CordonMachine(ctx, "shop", m.ID))
	if got := must[api.Machine](t)(n1.GetMachine(ctx, "shop", m.ID)); !got.Cordoned {
		t.Error("it is not cordoned")
	}
	ok("uncordon", n1.UncordonMachine(ctx, "shop", m.ID))
	ok("wait", only(n1.WaitMachine(ctx, "shop", m.ID, api.WaitOptions{States: []string{"started", "stopped"}, Timeout: 1500 * time.Millisecond})))
	ok("healthy", n1.fleet.WaitHealthy(ctx, m.ID))

	if p, err := n1.Processes(ctx, "shop", m.ID); err != nil || len(p) != 1 {
		t.Errorf("processes: %v, %v", p, err)
	}
	if r, err := n1.Exec(ctx, "shop", m.ID, api.ExecRequest{Command: []string{"sh", "-c", "echo hi; exit 3"}}); err != nil || r.ExitCode != 3 || r.Stdout != "hi\n" {
		t.Errorf("exec: %+v, %v", r, err)
	}
	ok("set", n1.ReplaceMetadata(ctx, "shop", m.ID, map[string]string{"k": "v", "old": "x"}))
	ok("patch", n1.PatchMetadata(ctx, "shop", m.ID, map[string]*string{"old": nil}))
	if all, err := n1.Metadata(ctx, "shop", m.ID); err != nil || len(all) != 1 || all["k"] != "v" {
		t.Errorf("metadata: %v, %v", all, err)
	}
	leases(t, n1, n2, m.ID)
	up, err := n1.UpdateMachine(ctx, "shop", m.ID, api.CreateMachineRequest{Config: config(), Release: 7})
	if err != nil || up.InstanceID == m.InstanceID || up.Release != 7 {
		t.Errorf("update: %+v, %v", up, err)
	}
	if v, err := n1.Versions(ctx, "shop", m.ID); err != nil || len(v) != 2 || v[1].Version != m.InstanceID || v[1].UserConfig == nil {
		t.Errorf("versions: %v, %v", v, err)
	}
	if e, err := n1.Events(ctx, "shop", m.ID); err != nil || len(e) < 8 {
		t.Errorf("events: %v, %v", e, err)
	}
	ok("stop", n1.StopMachine(ctx, "shop", m.ID, api.StopRequest{}))
	state("stopped")
	ok("destroy", n1.DestroyMachine(ctx, "shop", m.ID, false))
	if l := must[[]api.Machine](t)(n1.ListMachines(ctx, "shop")); len(l) != 0 {
		t.Errorf("a destroyed machine is listed: %+v", l)
	}
}

func only[T any](_ T, err error) error { return err }

// leases are held against everyone, on whatever node they were asked for.
func leases(t *testing.T, n1, n2 *node, id string) {
	t.Helper()
	ctx := t.Context()
	l, err := n1.AcquireLease(ctx, "shop", id, api.LeaseRequest{TTL: 30, Description: "mine"})
	if err != nil || l.Owner != "token" {
		t.Fatalf("lease: %+v, %v", l, err)
	}
	for _, n := range []*node{n1, n2} {
		err := n.StopMachine(ctx, "shop", id, api.StopRequest{})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeConflict || e.Status != http.StatusConflict || !strings.Contains(e.Hint, api.NonceHeader) {
			t.Errorf("stopping a leased machine through %s: %+v", n.name, err)
		}
		for nonce, want := range map[string]string{l.Nonce: l.Nonce, "": ""} {
			if got, err := n.WithLease(nonce).GetLease(ctx, "shop", id); err != nil || got.Nonce != want || got.Owner != l.Owner {
				t.Errorf("lease through %s with %q: %+v, %v", n.name, nonce, got, err)
			}
		}
	}
	if err := n1.WithLease(l.Nonce).CordonMachine(ctx, "shop", id); err != nil {
		t.Error(err)
	}
	if _, err := n1.WithLease(l.Nonce).AcquireLease(ctx, "shop", id, api.LeaseRequest{TTL: 60}); err != nil {
		t.Error(err)
	}
	if err := n1.WithLease(l.Nonce).UncordonMachine(ctx, "shop", id); err != nil {
		t.Error(err)
	}
	if err := n1.WithLease(l.Nonce).ReleaseLease(ctx, "shop", id); err != nil {
		t.Error(err)
	}
	if _, err := n1.GetLease(ctx, "shop", id); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a released lease: %v", err)
	}
}

// Errors keep all they have across the hop.
func TestErrorsCrossTheHop(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, ctx := c.nodes[0], t.Context()
	c.placeOn("n2")
	_, err := n1.CreateMachine(ctx, "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one", Guest: &api.Guest{GPUs: 1}}})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeUnsupported || e.Field == "" || e.Status != http.StatusUnprocessableEntity {
		t.Errorf("a GPU: %+v", err)
	}
	c.placeOn("")
	_, err = n1.CreateMachine(ctx, "shop", api.CreateMachineRequest{Config: config()})
	if !errors.As(err, &e) || e.Code != api.CodeCapacity || e.Field != "region" || e.Hint != "add a node" {
		t.Errorf("no place: %+v", err)
	}
	m := n1.machine(t, "shop", "n2")
	if err := n1.DestroyMachine(ctx, "shop", m.ID, false); !errors.As(err, &e) || e.Code != api.CodePrecondition || e.Hint == "" {
		t.Errorf("destroying one that runs: %+v", err)
	}
	if _, err := n1.WaitMachine(ctx, "shop", m.ID, api.WaitOptions{States: []string{"stopped"}, Timeout: 50 * time.Millisecond}); !api.IsCode(err, api.CodeTimeout) {
		t.Errorf("waiting in vain: %+v", err)
	}
	c.app(t, "blog")
	if _, err := n1.GetMachine(ctx, "blog", m.ID); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("a machine of another app: %+v", err)
	}
	if err := n1.StopMachine(ctx, "blog", m.ID, api.StopRequest{}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("stopping a machine of another app: %+v", err)
	}
	if _, err := n1.GetMachine(ctx, "shop", "00000000000000"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("no machine: %+v", err)
	}
	if _, err := n1.CreateMachine(ctx, "shop", api.CreateMachineRequest{Name: m.Name, Config: config()}); !api.IsCode(err, api.CodeNameTaken) {
		t.Errorf("a name of another node's machine: %+v", err)
	}
}

// A node that is gone makes a clear error fast; what can be read is read from
// what was last known.
func TestOwnerDoesNotAnswer(t *testing.T) {
	for _, how := range []string{"refused", "silent"} {
		t.Run(how, func(t *testing.T) {
			c := newCloud(t, "n1", "n2")
			c.app(t, "shop")
			n1, n2, ctx := c.nodes[0], c.nodes[1], t.Context()
			m := n1.machine(t, "shop", "n2")
			eventually(t, "the summary comes", func() bool { _, ok := n1.index.Find(m.ID); return ok })
			n2.cut.set(how) // silent: what is sent may still arrive, and no answer comes back
			began := time.Now()
			err := n1.StopMachine(ctx, "shop", m.ID, api.StopRequest{})
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeUnreachable || e.Status != http.StatusServiceUnavailable || e.Hint == "" ||
				!strings.Contains(e.Message, `machine "`+m.ID+`" is on node "n2", which does not answer`) {
				t.Errorf("got %+v", err)
			}
			if took := time.Since(began); took > 2*patience {
				t.Errorf("it took %s to find out", took)
			}
			got, err := n1.GetMachine(ctx, "shop", m.ID)
			if err != nil || got.HostStatus != "unreachable" || how == "refused" && got.State != "started" || got.Config == nil || got.Config.Image != "one" {
				t.Errorf("got %+v, %v", got, err)
			}
			if all, err := n1.Metadata(ctx, "shop", m.ID); err != nil || all["a"] != "b" {
				t.Errorf("metadata: %v, %v", all, err)
			}
			c.setDown("n2", true)
			began = time.Now()
			if got, err := n1.GetMachine(ctx, "shop", m.ID); err != nil || got.HostStatus != "unreachable" || time.Since(began) > patience/2 {
				t.Errorf("once it is known: %+v, %v after %s", got, err, time.Since(began))
			}
			if l := must[[]api.Machine](t)(n1.ListMachines(ctx, "shop")); len(l) != 1 || l[0].HostStatus != "unreachable" {
				t.Errorf("listed: %+v", l)
			}
			c.setDown("n2", false)
			n2.cut.set("")
			if err := n1.StopMachine(ctx, "shop", m.ID, api.StopRequest{}); err != nil {
				t.Errorf("after the cut: %v", err)
			}
		})
	}
}

// A short break, as when a daemon is replaced, is not seen.
func TestShortBreakIsNotSeen(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	m := n1.machine(t, "shop", "n2")
	n2.cut.set("refused")
	back := time.AfterFunc(patience/2, func() { n2.cut.set("") })
	defer back.Stop()
	if err := n1.StopMachine(t.Context(), "shop", m.ID, api.StopRequest{}); err != nil {
		t.Error(err)
	}
}

// Two nodes that each take the other for the owner do not send a call in circles.
func TestNoCircles(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	lost := machine.Summary{ID: "0123456789abcd", App: "shop", Name: "lost", State: "started", Config: config()}
	var calls atomic.Int32
	for _, n := range c.nodes {
		n.around = func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				calls.Add(1)
				h.ServeHTTP(w, r)
			})
		}
	}
	lost.Node = "n2"
	n1.index.Put(lost)
	lost.Node = "n1"
	n2.index.Put(lost)
	if err := n1.StopMachine(t.Context(), "shop", lost.ID, api.StopRequest{}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("got %v", err)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("%d calls were made", n)
	}
	// Only nodes may say for whom they call.
	l, err := n2.With(api.CallerHeader, "somebody").AcquireLease(t.Context(), "shop", n2.machine(t, "shop", "n2").ID, api.LeaseRequest{})
	if err != nil || l.Owner != "token" {
		t.Errorf("lease of %+v, %v", l, err)
	}
}

// loseAnswer lets the first creation through and then breaks its connection.
func loseAnswer(lost *atomic.Int32) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/machines") || lost.Add(1) > 1 {
				h.ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
}

// The worst moment: the machine is made and its answer is lost. Asking again
// finds it.
func TestLostAnswerMakesOneMachine(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	var lost atomic.Int32
	n2.around = loseAnswer(&lost)
	m := n1.machine(t, "shop", "n2")
	if all := n2.host.List("shop"); len(all) != 1 || all[0].ID != m.ID || lost.Load() != 2 {
		t.Errorf("there are %d machines after %d calls", len(all), lost.Load())
	}
}

// The connection breaks while the machine is being made: the first making is
// undone, or found.
func TestBreakDuringCreation(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	var once sync.Once
	n2.box.OnStart(func() {
		once.Do(func() {
			n2.cut.set("refused")
			time.Sleep(20 * time.Millisecond)
			n2.cut.set("")
			time.Sleep(50 * time.Millisecond)
		})
	})
	m := n1.machine(t, "shop", "n2")
	if all := n2.host.List("shop"); len(all) != 1 || all[0].ID != m.ID || all[0].State != "started" {
		t.Errorf("there are %d machines: %+v", len(all), all)
	}
}

// A caller's own key counts on all nodes, and at the same time.
func TestCallersKey(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2, ctx := c.nodes[0], c.nodes[1], t.Context()
	req := api.CreateMachineRequest{Config: config(), IdempotencyKey: "order-7"}
	c.placeOn("n2")
	ids := make([]string, 6)
	var all sync.WaitGroup
	for i := range ids {
		all.Go(func() { ids[i] = must[api.Machine](t)(n1.CreateMachine(ctx, "shop", req)).ID })
	}
	all.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("got machines %v", ids)
			break
		}
	}
	eventually(t, "the summary comes", func() bool { _, ok := n1.index.Find(ids[0]); return ok })
	c.placeOn("n1") // elsewhere by now
	if m := must[api.Machine](t)(n1.CreateMachine(ctx, "shop", req)); m.ID != ids[0] {
		t.Errorf("made %s, not %s", m.ID, ids[0])
	}
	if len(n2.host.List("shop")) != 1 || len(n1.host.List("shop")) != 0 {
		t.Error("there are more machines than one")
	}
}

// The same where the machine is on the node that is asked.
func TestCallersKeyAtHome(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2, ctx := c.nodes[0], c.nodes[1], t.Context()
	req := api.CreateMachineRequest{Config: config(), IdempotencyKey: "order-7"}
	c.placeOn("n1")
	first := must[api.Machine](t)(n1.CreateMachine(ctx, "shop", req))
	c.placeOn("n2") // which has fewer of the app
	if m := must[api.Machine](t)(n1.CreateMachine(ctx, "shop", req)); m.ID != first.ID {
		t.Errorf("made %s, not %s", m.ID, first.ID)
	}
	if len(n1.host.List("shop")) != 1 || len(n2.host.List("shop")) != 0 {
		t.Error("there are more machines than one")
	}
	req.IdempotencyKey = ""
	if m := must[api.Machine](t)(n1.CreateMachine(ctx, "shop", req)); m.Node != "n2" {
		t.Errorf("without a key it is made on %s", m.Node)
	}
}

func TestExecStreamIsPassedOn(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, ctx := c.nodes[0], t.Context()
	m := n1.machine(t, "shop", "n2")
	var out, errOut bytes.Buffer
	exit, err := n1.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sh", "-c", "cat; echo oops >&2; exit 5"}},
		api.ExecIO{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errOut})
	if err != nil || exit.ExitCode != 5 || out.String() != "typed" || errOut.String() != "oops\n" {
		t.Errorf("%+v, %v: %q, %q", exit, err, out.String(), errOut.String())
	}
	out.Reset()
	sizes := make(chan api.TerminalSize, 1)
	sizes <- api.TerminalSize{Cols: 120, Rows: 40}
	if _, err := n1.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sizes"}, TTY: true}, api.ExecIO{Stdout: &out, Resize: sizes}); err != nil || out.String() != "120x40" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if _, err := n1.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Program: "sftp"}, api.ExecIO{Stdout: &out}); err != nil || out.String() != "program sftp" {
		t.Errorf("%q, %v", out.String(), err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := n1.ExecStream(short, "shop", m.ID, api.ExecStreamRequest{Command: []string{"sleep", "20"}}, api.ExecIO{}); err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("left: %v", err)
	}
	_, err = n1.ExecStream(ctx, "shop", m.ID, api.ExecStreamRequest{Command: []string{"/no/such/program"}}, api.ExecIO{})
	if err == nil {
		t.Error("a program that is not there ran")
	}
}

// What lists and routes knows all machines, and when they change.
func TestEveryNodeKnowsAllMachines(t *testing.T) {
	c := newCloud(t, "n1", "n2", "n3")
	c.app(t, "shop")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := c.nodes[0].fleet.Changes(ctx)
	defer func() {
		cancel()
		for range changes {
		}
	}()
	var ids []string
	for _, n := range c.nodes {
		ids = append(ids, c.nodes[0].machine(t, "shop", n.name).ID)
		if l := must[[]api.Machine](t)(c.nodes[0].ListMachines(ctx, "shop")); len(l) != len(ids) || l[len(l)-1].ID != ids[len(ids)-1] {
			t.Errorf("what was just made is not listed: %+v", l)
		}
	}
	seen := map[string]bool{}
	for len(seen) < 3 {
		select {
		case id := <-changes:
			seen[id] = true
		case <-time.After(5 * time.Second):
			t.Fatalf("told of %v only", seen)
		}
	}
	for _, n := range c.nodes {
		eventually(t, n.name+" knows all", func() bool { return len(n.fleet.Statuses()) == 3 && len(n.fleet.List("shop")) == 3 })
		for i, id := range ids {
			s, ok := n.fleet.Status(id)
			if !ok || s.Node != c.nodes[i].name || s.Region != "fra" || !s.Healthy || s.Addr.IsValid() != (s.Node == n.name) {
				t.Errorf("%s says %+v, %v", n.name, s, ok)
			}
		}
	}
	if err := c.nodes[1].fleet.WaitPorts(ctx, ids[2]); err != nil {
		t.Errorf("a machine without services has no ports to wait for: %v", err)
	}
}

// A machine is drained when every edge that answers has let go of it.
func TestAllEdgesDrain(t *testing.T) {
	c := newCloud(t, "n1", "n2", "n3", "n4")
	c.app(t, "shop")
	n1, ctx := c.nodes[0], t.Context()
	m := n1.machine(t, "shop", "n2")
	c.nodes[3].cut.set("refused") // an edge that is gone is not waited for
	done := make(chan error, 1)
	go func() { done <- n1.fleet.AllDrained(ctx, m.ID) }()
	time.Sleep(20 * time.Millisecond)
	for _, n := range c.nodes {
		n.router.mu.Lock()
		if len(n.router.asked) > 0 {
			t.Errorf("%s was asked before it knew of the cordon", n.name)
		}
		n.router.mu.Unlock()
	}
	if err := n1.CordonMachine(ctx, "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes[:3] {
		select {
		case err := <-done:
			t.Fatalf("done before %s let go: %v", n.name, err)
		case <-time.After(20 * time.Millisecond):
		}
		n.router.let(m.ID)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not drained")
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := n1.fleet.AllRouted(short, m.ID); err == nil {
		t.Error("a cordoned machine is routed")
	}
	if err := n1.UncordonMachine(ctx, "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	if err := n1.fleet.AllRouted(ctx, m.ID); err != nil {
		t.Error(err)
	}
}

// A deploy through the API of one node, whose machines are on the others.
func TestDeployOverNodes(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, ctx := c.nodes[0], t.Context()
	c.placeOn("n2")
	for range 2 {
		for p, err := range n1.Deploy(ctx, "shop", api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"app": *config()}, Counts: map[string]int{"app": 2}}) {
			if err != nil {
				t.Fatalf("%+v: %v", p, err)
			}
		}
	}
	eventually(t, "two machines are listed", func() bool {
		l := n1.fleet.List("shop")
		return len(l) == 2 && l[0].Release == 2 && l[0].Node == "n2" && !l[0].Cordoned
	})
	if err := n1.DeleteApp(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if l := c.nodes[1].host.List(""); len(l) != 0 {
		t.Errorf("left: %+v", l)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := fleet.New(fleet.Config{Self: "n1"}); err == nil {
		t.Error("a fleet of nothing")
	}
	if _, err := fleet.NewLines(fleet.LinesConfig{Self: "n1"}); err == nil {
		t.Error("lines of nothing")
	}
}

// A destruction whose answer is lost is no error, and the machine is gone.
func TestLostAnswerOfADestruction(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	m := n1.machine(t, "shop", "n2")
	var lost atomic.Int32
	n2.around = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodDelete || lost.Add(1) > 1 {
				h.ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		})
	}
	if err := n1.DestroyMachine(t.Context(), "shop", m.ID, true); err != nil {
		t.Error(err)
	}
	if l := n1.fleet.List("shop"); len(l) != 0 || len(n2.host.List("shop")) != 0 {
		t.Errorf("left: %+v", l)
	}
}

// A machine that is made and goes by itself, before anybody looks, is not shown
// for longer than its summary is.
func TestNoGhosts(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	m := n1.machine(t, "shop", "n2")
	eventually(t, "the summary comes", func() bool { _, ok := n1.index.Find(m.ID); return ok })
	if l := n1.fleet.List("shop"); len(l) != 1 {
		t.Errorf("listed: %+v", l)
	}
	if err := n2.host.Destroy(t.Context(), m.ID, true, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is not listed", func() bool { return len(n1.fleet.List("shop")) == 0 })
}
