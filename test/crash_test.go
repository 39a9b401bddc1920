package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

// TestCrash kills the daemon at random points of many operations and then
// checks its promises: nothing that was acknowledged is lost, machines keep
// running while it is gone and are found again within two seconds, and nothing
// half-made stays behind. PERIGEE_CRASH_OPS changes the number of operations,
// PERIGEE_CRASH_SEED repeats a run.
func TestCrash(t *testing.T) {
	n := Start(t)
	c := &crash{n: n, t: t, want: map[string]wanted{}, secrets: map[string]string{}}
	c.rand = rand.New(rand.NewSource(seed(t)))
	c.prepare()
	ops := envInt("PERIGEE_CRASH_OPS", 200)
	for done := 0; done < ops; {
		done += c.round(ops - done)
	}
	c.finish()
	t.Logf("%d operations, %d kills, %d answers without the daemon, slowest return %s", c.ops, c.kills, c.alone, c.slowest.Round(time.Millisecond))
	if ops >= 100 && c.alone == 0 {
		t.Error("no machine was ever asked while the daemon was gone")
	}
}

// TestDeploySurvivesACrash kills the daemon in the middle of deploys. Each must
// end complete or failed by itself after the return, with one machine serving.
func TestDeploySurvivesACrash(t *testing.T) {
	n := Start(t)
	tar := App(t)
	dir := appWithChecks(t, "phoenix", "[env]\n  RELEASE = \"r0\"\n")
	n.deploy(dir, "--image", tar)
	image := n.machine("phoenix").Config.Image
	for i := 1; i <= 6; i++ {
		writeConfig(t, dir, "phoenix", fmt.Sprintf("[env]\n  RELEASE = \"r%d\"\n", i))
		done := make(chan struct{})
		go func() { // it follows the deploy over the daemon's return
			defer close(done)
			n.PerigeeIn(dir, "deploy", "--image", image)
		}()
		time.Sleep(time.Duration(20*i) * time.Millisecond)
		n.Kill()
		n.Run()
		<-done
		last := n.lastRelease("phoenix")
		_, served := get(t, n.Visitor(), "http://phoenix.apps.localhost/release")
		if last.Status == api.ReleaseComplete && served != last.Groups["app"].Env["RELEASE"] {
			t.Errorf("after kill %d: release v%d is complete, but %q serves", i, last.Version, served)
		}
		if list, err := n.Client.ListMachines(context.Background(), "phoenix"); err != nil || len(list) != 1 {
			t.Errorf("after kill %d: %d machines, %v; want 1", i, len(list), err)
		}
	}
}

// lastRelease waits until the app's newest release has ended.
func (n *Node) lastRelease(app string) api.Release {
	n.T.Helper()
	for range 300 {
		list, err := n.Client.ListReleases(context.Background(), app)
		if err != nil {
			n.T.Fatal(err)
		}
		newest := list[0]
		for _, r := range list {
			if r.Version > newest.Version {
				newest = r
			}
		}
		if newest.Status != api.ReleaseRunning && newest.Status != api.ReleasePending {
			return newest
		}
		time.Sleep(100 * time.Millisecond)
	}
	n.T.Fatal("the release did not end within 30 s")
	return api.Release{}
}

func envInt(name string, def int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return def
}

func seed(t *testing.T) int64 {
	s := int64(envInt("PERIGEE_CRASH_SEED", int(time.Now().UnixNano()%1e9)))
	t.Logf("PERIGEE_CRASH_SEED=%d", s)
	return s
}

// wanted is what was acknowledged of a machine: the states it may be in (more
// than one when an operation was cut off in the middle), and a metadata value.
type wanted struct {
	states []string
	values []string
}

type crash struct {
	n       *Node
	t       *testing.T
	rand    *rand.Rand
	image   string
	want    map[string]wanted
	secrets map[string]string
	ips     map[string]string // private address by machine
	unsure  map[string]bool   // machine names whose creation was cut off
	ops     int
	kills   int
	alone   int // answers of machines while no daemon ran
	next    int
	slowest time.Duration
}

func (c *crash) prepare() {
	c.image = c.n.importImage("crash", Tiny(c.t))
	c.ips = map[string]string{}
	c.unsure = map[string]bool{}
}

// round does operations until the killer strikes at a random moment, brings
// the daemon back and checks.
func (c *crash) round(most int) int {
	// A machine takes some 50 to 400 ms to be made: a daemon that dies sooner each time
	// would never have any.
	after := time.Duration(c.rand.Intn(1000)) * time.Millisecond
	timer := time.AfterFunc(after, func() { c.n.cmd.Process.Kill() })
	did := 0
	for did < most {
		did++
		c.ops++
		if !c.operate() {
			break
		}
	}
	timer.Stop()
	c.n.Kill()
	c.kills++
	c.aliveWithoutDaemon()
	began := time.Now()
	c.n.Run()
	c.check()
	c.slowest = max(c.slowest, time.Since(began))
	return did
}

// operate does one random operation; false means that the daemon is gone.
func (c *crash) operate() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if len(c.want) < 4 || c.rand.Intn(8) == 0 && len(c.want) < 12 {
		return c.create(ctx)
	}
	id := c.pick()
	w := c.want[id]
	switch c.rand.Intn(7) {
	case 0:
		return c.do(id, api.StateStarted, func() error { return c.n.Client.StartMachine(ctx, "crash", id) })
	case 1:
		return c.do(id, api.StateStopped, func() error { return c.n.Client.StopMachine(ctx, "crash", id, api.StopRequest{Signal: "SIGKILL"}) })
	case 2:
		return c.do(id, api.StateSuspended, func() error { return c.n.Client.SuspendMachine(ctx, "crash", id) })
	case 3:
		return c.do(id, api.StatePaused, func() error { return c.n.Client.PauseMachine(ctx, "crash", id) })
	case 4:
		return c.destroy(ctx, id)
	case 5:
		v := strconv.Itoa(c.ops)
		err := c.n.Client.SetMetadata(ctx, "crash", id, "mark", v)
		if err == nil {
			w.values = []string{v}
		} else {
			w.values = append(w.values, v)
		}
		c.want[id] = w
		return c.alive(err)
	}
	return c.secret(ctx)
}

// do changes a machine's state. Refusals of a state that does not allow it are
// no matter; a cut connection leaves the old and the new state possible.
func (c *crash) do(id, state string, op func() error) bool {
	w := c.want[id]
	err := op()
	var refused *api.Error
	switch {
	case err == nil:
		w.states = []string{state}
	case errors.As(err, &refused):
		if refused.Status >= 500 {
			c.t.Errorf("machine %s to %s: %v", id, state, err)
		}
	default:
		w.states = append(w.states, state)
	}
	c.want[id] = w
	return c.alive(err)
}

// alive reports whether the daemon answered at all.
func (c *crash) alive(err error) bool {
	var refused *api.Error
	return err == nil || errors.As(err, &refused)
}

func (c *crash) create(ctx context.Context) bool {
	c.next++
	name := fmt.Sprintf("m%d", c.next)
	m, err := c.n.Client.CreateMachine(ctx, "crash", api.CreateMachineRequest{Name: name, Config: &api.MachineConfig{Image: c.image, Guest: &api.Guest{MemoryMB: 128}}})
	var refused *api.Error
	switch {
	case err == nil:
		c.want[m.ID] = wanted{states: []string{api.StateStarted, api.StateCreated, api.StateStarting}, values: []string{""}}
	case errors.As(err, &refused):
		c.t.Errorf("create: %v", err)
	default:
		c.unsure[name] = true
	}
	return c.alive(err)
}

func (c *crash) destroy(ctx context.Context, id string) bool {
	err := c.n.Client.DestroyMachine(ctx, "crash", id, true)
	var refused *api.Error
	switch {
	case err == nil:
		delete(c.want, id)
	case errors.As(err, &refused):
		c.t.Errorf("destroy %s: %v", id, err)
	default:
		w := c.want[id]
		w.states = append(w.states, api.StateDestroyed)
		c.want[id] = w
	}
	return c.alive(err)
}

func (c *crash) secret(ctx context.Context) bool {
	name, value := fmt.Sprintf("S%d", c.rand.Intn(5)), strconv.Itoa(c.ops)
	r, err := c.n.Client.SetSecrets(ctx, "crash", map[string]*string{name: &value})
	if err != nil {
		delete(c.secrets, name) // unknown from here on
		return c.alive(err)
	}
	for _, s := range r.Secrets {
		if s.Name == name {
			c.secrets[name] = s.Digest
		}
	}
	return true
}

func (c *crash) pick() string {
	ids := make([]string, 0, len(c.want))
	for id := range c.want {
		ids = append(ids, id)
	}
	// Map order is random, the seed must decide.
	sortStrings(ids)
	return ids[c.rand.Intn(len(ids))]
}

// aliveWithoutDaemon asks machines that surely run, while no daemon does.
func (c *crash) aliveWithoutDaemon() {
	client := &http.Client{Timeout: 3 * time.Second}
	for id, w := range c.want {
		if len(w.states) != 1 || w.states[0] != api.StateStarted || c.ips[id] == "" {
			continue
		}
		resp, err := client.Get("http://[" + c.ips[id] + "]:8080/")
		if err != nil {
			c.t.Errorf("machine %s does not answer while the daemon is gone: %v", id, err)
			continue
		}
		resp.Body.Close()
		c.alone++
	}
}

// check compares the node with what was acknowledged, within two seconds of
// the daemon's return.
func (c *crash) check() {
	deadline := time.Now().Add(2 * time.Second)
	for {
		wrong := c.differences()
		if len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("after kill %d:\n%s\n%s", c.kills, strings.Join(wrong, "\n"), c.n.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *crash) differences() (wrong []string) {
	ctx := context.Background()
	list, err := c.n.Client.ListMachines(ctx, "crash")
	if err != nil {
		return []string{err.Error()}
	}
	have := map[string]api.Machine{}
	for _, m := range list {
		have[m.ID] = m
		if _, ok := c.want[m.ID]; !ok {
			if !c.unsure[m.Name] {
				wrong = append(wrong, fmt.Sprintf("machine %s (%s) is there, but was destroyed or never made", m.ID, m.Name))
				continue
			}
			c.want[m.ID] = wanted{states: []string{api.StateStarted, api.StateCreated, api.StateStarting}, values: []string{""}}
		}
	}
	for id, w := range c.want {
		wrong = append(wrong, c.compare(id, w, have)...)
	}
	return append(wrong, c.secretDifferences(ctx)...)
}

func (c *crash) compare(id string, w wanted, have map[string]api.Machine) []string {
	m, ok := have[id]
	if !ok {
		if contains(w.states, api.StateDestroyed) {
			delete(c.want, id)
			return nil
		}
		return []string{fmt.Sprintf("machine %s is lost; it should be %v", id, w.states)}
	}
	if m.State == api.StateDestroying {
		return []string{"machine " + id + " is still being destroyed"}
	}
	if !contains(w.states, m.State) {
		return []string{fmt.Sprintf("machine %s is %s (%s); it should be %v", id, m.State, m.Standing, w.states)}
	}
	if v := m.Config.Metadata["mark"]; !contains(w.values, v) {
		return []string{fmt.Sprintf("machine %s has mark %q; it should be one of %q", id, v, w.values)}
	}
	c.ips[id] = m.PrivateIP
	if m.State == api.StateStarting || m.State == api.StateCreated && !contains(w.states[:1], api.StateCreated) {
		return nil
	}
	w.states, w.values = []string{m.State}, []string{m.Config.Metadata["mark"]}
	c.want[id] = w
	return nil
}

func (c *crash) secretDifferences(ctx context.Context) (wrong []string) {
	list, err := c.n.Client.ListSecrets(ctx, "crash")
	if err != nil {
		return []string{err.Error()}
	}
	have := map[string]string{}
	for _, s := range list {
		have[s.Name] = s.Digest
	}
	for name, digest := range c.secrets {
		if have[name] != digest {
			wrong = append(wrong, fmt.Sprintf("secret %s has digest %q, want %q", name, have[name], digest))
		}
	}
	return wrong
}

// finish destroys everything and looks for what is left behind.
func (c *crash) finish() {
	ctx := context.Background()
	for id := range c.want {
		if err := c.n.Client.DestroyMachine(ctx, "crash", id, true); err != nil {
			c.t.Errorf("destroy %s: %v", id, err)
		}
	}
	c.n.noLeftovers(0)
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
