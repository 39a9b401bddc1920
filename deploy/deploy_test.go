package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).WaitForShutdown"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// groups is one group that behaves so, with a check.
func groups(behave string) map[string]api.MachineConfig {
	return map[string]api.MachineConfig{"web": {Env: map[string]string{"BEHAVE": behave}, Checks: map[string]api.Check{"web": {Type: "http"}}}}
}

func request(n int, behave string) api.DeployRequest {
	return api.DeployRequest{Image: "one", Groups: groups(behave), Counts: map[string]int{"web": n}}
}

func (b *bench) deploy(t *testing.T, name string, req api.DeployRequest) (api.Release, []api.Progress, error) {
	t.Helper()
	var lines []api.Progress
	r, err := b.d.Deploy(t.Context(), name, req, func(p api.Progress) { lines = append(lines, p) })
	return r, lines, err
}

func (b *bench) mustDeploy(t *testing.T, name string, req api.DeployRequest) api.Release {
	t.Helper()
	r, _, err := b.deploy(t, name, req)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestDeploy(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	r, lines, err := b.deploy(t, "shop", request(2, "ok"))
	if err != nil || r.Version != 1 || r.Status != api.ReleaseComplete || r.Image != "r/a@sha256:one" {
		t.Fatalf("release = %+v, %v", r, err)
	}
	last := lines[len(lines)-1]
	if last.Kind != "done" || last.Release == nil || last.Release.Version != 1 {
		t.Errorf("last line = %+v", last)
	}
	for _, m := range b.List("shop") {
		if m.Cordoned || m.Release != 1 || m.Config.Metadata[metaGroup] != "web" || m.Config.Image != r.Image {
			t.Errorf("machine = %+v", m)
		}
	}
	first := b.List("shop")[0].ID
	// A new release with what the old one had: all machines are new.
	r = b.mustDeploy(t, "shop", api.DeployRequest{Description: "secrets changed"})
	if r.Version != 2 || r.Counts["web"] != 2 || len(b.List("shop")) != 2 || b.List("shop")[0].ID == first {
		t.Errorf("second release = %+v, machines %v", r, b.List("shop"))
	}
	if rec, _ := b.apps.Release("shop", 2); rec.Job.Before != nil {
		t.Error("a finished release keeps its plan")
	}
}

func TestFailedDeployLeavesTheOldOne(t *testing.T) {
	for behave, want := range map[string]string{"exit": "exited with code 3", "wrong": "answered 500", "silent": "did not become healthy"} {
		t.Run(behave, func(t *testing.T) {
			b := newBench(t, newStore(t), newRack(), "shop")
			b.mustDeploy(t, "shop", request(1, "ok"))
			was := b.List("shop")[0]
			req := request(1, behave)
			req.WaitTimeout = api.D(200 * time.Millisecond)
			b.watch = func(op string) {
				if b.serving("shop") != 1 {
					t.Errorf("the old machine does not serve after %s", op)
				}
			}
			r, lines, err := b.deploy(t, "shop", req)
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeDeployFailed || !strings.Contains(e.Message, want) || len(e.Logs) != lastLines || e.Logs[lastLines-1] != "line 29" {
				t.Fatalf("error = %v", err)
			}
			if r.Status != api.ReleaseFailed || !strings.Contains(r.Reason, want) {
				t.Errorf("release = %+v", r)
			}
			if all := b.List("shop"); len(all) != 1 || all[0].ID != was.ID || all[0].Cordoned || all[0].InstanceID != was.InstanceID {
				t.Errorf("machines = %+v", all)
			}
			if !strings.Contains(fmt.Sprint(lines), "line 29") {
				t.Error("the app's own lines are not in the stream")
			}
		})
	}
}

func TestPortMustAnswer(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	req := api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"web": {Services: []api.Service{{Protocol: "tcp", InternalPort: 8080}}}}}
	_, _, err := b.deploy(t, "shop", req)
	if err == nil || !strings.Contains(err.Error(), "nothing accepts connections on port 8080") || api.AsError(err).Hint == "" {
		t.Errorf("error = %v", err)
	}
}

func TestJobThatEndsWellIsHealthy(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	b.mustDeploy(t, "shop", api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"job": {Env: map[string]string{"BEHAVE": "done"}}}})
	_, _, err := b.deploy(t, "shop", api.DeployRequest{Groups: map[string]api.MachineConfig{"job": {Env: map[string]string{"BEHAVE": "exit"}}}})
	if err == nil || !strings.Contains(err.Error(), "exited with code 3") {
		t.Errorf("error = %v", err)
	}
}

func TestReleaseCommand(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	req := request(1, "ok")
	req.ReleaseCommand = []string{"migrate"}
	b.mustDeploy(t, "shop", req)
	if all := b.List("shop"); len(all) != 1 || all[0].Config.Init != nil {
		t.Errorf("machines = %+v", all)
	}
	req = request(1, "exit")
	req.ReleaseCommand = []string{"migrate"}
	_, _, err := b.deploy(t, "shop", req)
	if err == nil || !strings.Contains(err.Error(), "release command exited with code 3") || len(api.AsError(err).Logs) == 0 {
		t.Errorf("error = %v", err)
	}
	if all := b.List("shop"); len(all) != 1 || all[0].Release != 1 {
		t.Errorf("machines = %+v", all)
	}
}

func TestScaleAndRollback(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{Counts: map[string]int{"web": 1}}, nil); !api.IsCode(err, api.CodePrecondition) {
		t.Errorf("scale of nothing: %v", err)
	}
	b.mustDeploy(t, "shop", request(1, "ok"))
	kept := b.List("shop")[0].ID
	for _, n := range []int{3, 1, 0, 2} {
		if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{Counts: map[string]int{"web": n}}, nil); err != nil {
			t.Fatal(err)
		}
		if len(b.List("shop")) != n {
			t.Fatalf("scaled to %d: %d machines", n, len(b.List("shop")))
		}
		if n == 3 && b.List("shop")[0].ID != kept {
			t.Error("a machine that was right was replaced")
		}
	}
	if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{MemoryMB: 512}, nil); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.List("shop") {
		if m.Config.Guest == nil || m.Config.Guest.MemoryMB != 512 {
			t.Errorf("guest = %+v", m.Config.Guest)
		}
	}
	if _, err := b.d.Scale(t.Context(), "shop", api.ScaleRequest{Counts: map[string]int{"none": 1}}, nil); api.AsError(err).Field != "counts.none" {
		t.Errorf("scale of no group: %v", err)
	}
	rollback(t, b)
}

func rollback(t *testing.T, b *bench) {
	b.mustDeploy(t, "shop", api.DeployRequest{Image: "two"})
	r, err := b.d.Rollback(t.Context(), "shop", 0, nil)
	if err != nil || r.Image != "r/a@sha256:one" {
		t.Errorf("rollback = %+v, %v", r, err)
	}
	if r.Groups["web"].Guest == nil {
		t.Error("the rollback went further back than to the release before")
	}
	r, err = b.d.Rollback(t.Context(), "shop", 1, nil)
	if err != nil || r.Groups["web"].Guest != nil || r.Counts["web"] != 2 {
		t.Errorf("rollback to v1 = %+v, %v", r, err)
	}
	if _, err := b.d.Rollback(t.Context(), "shop", 99, nil); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("rollback to nothing: %v", err)
	}
}

func TestBadRequests(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	for field, req := range map[string]api.DeployRequest{
		"strategy":        {Image: "one", Groups: groups("ok"), Strategy: "yolo"},
		"max_unavailable": {Image: "one", Groups: groups("ok"), MaxUnavailable: -1},
		"wait_timeout":    {Image: "one", Groups: groups("ok"), WaitTimeout: api.D(-1)},
		"from_version":    {FromVersion: 7},
		"counts.web":      {Image: "one", Groups: groups("ok"), Counts: map[string]int{"web": -1}},
		"counts.x":        {Image: "one", Groups: groups("ok"), Counts: map[string]int{"x": 1}},
		"groups":          {Image: "one"},
		"image":           {Image: "missing", Groups: groups("ok")},
		"host":            {Image: "one", Groups: groups("ok"), Hosts: []string{"not a host"}},
	} {
		_, _, err := b.deploy(t, "shop", req)
		if got := api.AsError(err); got == nil || got.Field != field {
			t.Errorf("%s: error = %+v", field, got)
		}
	}
	if n := len(b.apps.Releases("shop")); n != 0 {
		t.Errorf("bad requests made %d releases", n)
	}
	if _, _, err := b.deploy(t, "none", request(1, "ok")); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("no app: %v", err)
	}
}

func TestOneAtATimeAndClientGoes(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	begun := make(chan struct{}, 100)
	req := request(1, "silent")
	req.WaitTimeout = api.D(300 * time.Millisecond)
	go func() {
		_, err := b.d.Deploy(ctx, "shop", req, func(api.Progress) { begun <- struct{}{} })
		left <- err
	}()
	<-begun
	if _, _, err := b.deploy(t, "shop", request(1, "ok")); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("second deploy: %v", err)
	}
	if err := b.d.DestroyApp(t.Context(), "shop"); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("destruction meanwhile: %v", err)
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client left: %v", err)
	}
	for b.d.Busy("shop") != "" {
		time.Sleep(5 * time.Millisecond)
	}
	if r, _ := b.apps.NewestRelease("shop"); r.Status != api.ReleaseFailed {
		t.Errorf("after the client left: %+v", r)
	}
}

func TestDestroyApp(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	b.mustDeploy(t, "shop", request(3, "ok"))
	b.dieAt = b.ops + 2
	if err := b.d.DestroyApp(t.Context(), "shop"); err == nil {
		t.Fatal("it did not die")
	}
	b.end()
	b.dieAt = 0
	b.boot(t)
	for range 1000 {
		if _, err := b.apps.Get("shop"); err != nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if _, err := b.apps.Get("shop"); err == nil || len(b.List("shop")) != 0 {
		t.Errorf("after a crash: %v, machines %v", err, b.List("shop"))
	}
}

func TestUndoSaysWhatItCouldNot(t *testing.T) {
	b := newBench(t, newStore(t), newRack(), "shop")
	b.fail = map[string]error{"destroy": errors.New("stuck")}
	var fenced []api.Machine
	b.d.cfg.Fence = func(_ context.Context, _ string, m []api.Machine) error { fenced = m; return nil }
	r, _, err := b.deploy(t, "shop", request(1, "exit"))
	if err == nil || r.Status != api.ReleaseFailed || !strings.Contains(r.Reason, "undo could not remove") {
		t.Errorf("release = %+v, %v", r, err)
	}
	if all := b.List("shop"); len(all) != 1 || len(fenced) != 1 || fenced[0].ID != all[0].ID {
		t.Errorf("there are %v, and written off are %v", all, fenced)
	}
}

// TestKillAtEveryStep kills the daemon before and after every operation of many
// deploys, starts it again, and checks that each release ends as it would have,
// and that there were always enough machines that serve.
func TestKillAtEveryStep(t *testing.T) {
	apps := newStore(t)
	for _, c := range []struct {
		strategy, behave string
		from, to         int
		mounts, command  bool
	}{
		{Rolling, "ok", 1, 1, false, false}, {Rolling, "exit", 1, 1, false, false}, {Rolling, "ok", 1, 1, false, true},
		{Rolling, "ok", 3, 2, false, false}, {Rolling, "ok", 0, 2, false, false}, {Rolling, "exit", 2, 2, false, true},
		{Canary, "ok", 2, 3, false, false}, {BlueGreen, "ok", 2, 2, false, false}, {BlueGreen, "exit", 2, 2, false, false},
		{Immediate, "ok", 2, 2, false, false}, {Rolling, "ok", 2, 2, true, false}, {Rolling, "exit", 2, 2, true, false},
	} {
		name := fmt.Sprintf("%s-%s-%d-%d-%v-%v", c.strategy, c.behave, c.from, c.to, c.mounts, c.command)
		t.Run(name, func(t *testing.T) {
			for kill := 1; ; kill++ {
				ran := true
				for _, after := range []bool{false, true} {
					req := request(c.to, c.behave)
					req.Strategy = c.strategy
					if c.command {
						req.ReleaseCommand = []string{"migrate"}
					}
					appName := fmt.Sprintf("%s-%d-%v", strings.ToLower(name), kill, after)
					ran = killAt(t, apps, appName, c.from, req, kill, after, c.mounts) && ran
				}
				if !ran {
					break // the deploy has fewer operations
				}
			}
		})
	}
}

// killAt reports whether there was such an operation.
func killAt(t *testing.T, apps *app.Store, name string, from int, req api.DeployRequest, kill int, after, mounts bool) bool {
	t.Helper()
	k := newRack()
	b := newBench(t, apps, k, name)
	defer func() { b.end() }()
	base := request(from, "ok")
	if mounts {
		g := base.Groups["web"]
		g.Mounts = []api.Mount{{Volume: "v", Path: "/data"}}
		base.Groups["web"] = g
		g.Env = req.Groups["web"].Env
		req.Groups["web"] = g
	}
	if from > 0 {
		b.mustDeploy(t, name, base)
	}
	was := b.List(name)
	k.mu.Lock()
	k.dieAt, k.after = k.ops+kill, after
	k.watch = func(op string) {
		if n := k.serving(name); !mounts && n < min(from, req.Counts["web"]) {
			t.Errorf("%s: killed at %d: only %d serve after %s", name, kill, n, op)
		}
	}
	k.mu.Unlock()
	_, _, _ = b.deploy(t, name, req) // dies, fails or succeeds
	died := k.ops >= k.dieAt
	b.end()
	k.dieAt = 0
	b.boot(t)
	r := b.ended(t, name)
	b.judge(t, name, r, req, was, kill)
	return died
}

func (b *bench) ended(t *testing.T, name string) app.Release {
	t.Helper()
	for range 2000 {
		r, ok := b.apps.NewestRelease(name)
		if !ok || r.Finished() && b.d.Busy(name) == "" {
			return r
		}
		time.Sleep(time.Millisecond)
	}
	r, _ := b.apps.NewestRelease(name)
	t.Fatalf("%s: release does not end: %+v", name, r)
	return r
}

// judge checks what there is after the crash and the restart.
func (b *bench) judge(t *testing.T, name string, r app.Release, req api.DeployRequest, was []api.Machine, kill int) {
	t.Helper()
	all := b.List(name)
	bad := req.Groups["web"].Env["BEHAVE"] == "exit"
	if bad != (r.Status == api.ReleaseFailed) {
		t.Errorf("%s: killed at %d: release is %s: %s", name, kill, r.Status, r.Reason)
	}
	want := req.Counts["web"]
	if bad {
		want = len(was)
	}
	if len(all) != want {
		t.Errorf("%s: killed at %d: %d machines, want %d", name, kill, len(all), want)
	}
	for _, m := range all {
		if m.Cordoned || m.State != api.StateStarted || !bad && m.Release != r.Version || bad && m.Config.Env["BEHAVE"] != "ok" {
			t.Errorf("%s: killed at %d: machine %+v", name, kill, m)
		}
	}
}
