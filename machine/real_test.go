package machine

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
)

// TestRealLife takes one web server through all that can happen to it.
func TestRealLife(t *testing.T) {
	n := newNode(t)
	d := n.run()
	ctx := t.Context()
	id := d.create(t, web())
	ok(t, d.WaitHealthy(ctx, id))
	n.answers(d, id)
	steps := []struct {
		name string
		do   func() error
		into string
	}{
		{"pause", func() error { return d.Pause(ctx, id, "") }, api.StatePaused},
		{"wake from paused", func() error { _, err := d.Wake(ctx, id); return err }, api.StateStarted},
		{"suspend", func() error { return d.Suspend(ctx, id, "") }, api.StateSuspended},
		{"wake from suspended", func() error { _, err := d.Wake(ctx, id); return err }, api.StateStarted},
		{"pause again", func() error { return d.Pause(ctx, id, "") }, api.StatePaused},
		{"sink", func() error { return d.Suspend(ctx, id, "") }, api.StateSuspended},
		{"start from suspended", func() error { _, err := d.Start(ctx, id, ""); return err }, api.StateStarted},
		{"restart", func() error { return d.Restart(ctx, id, RestartOptions{}, "") }, api.StateStarted},
		{"stop", func() error { return d.Stop(ctx, id, api.StopRequest{}, "") }, api.StateStopped},
		{"wake from stopped", func() error { _, err := d.Wake(ctx, id); return err }, api.StateStarted},
		{"pause to stop", func() error { return d.Pause(ctx, id, "") }, api.StatePaused},
		{"stop paused", func() error { return d.Stop(ctx, id, api.StopRequest{}, "") }, api.StateStopped},
		{"update", func() error {
			_, err := d.Update(ctx, id, api.CreateMachineRequest{Config: web()}, "")
			return err
		}, api.StateStarted},
	}
	for _, s := range steps {
		before := time.Now()
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		took := time.Since(before)
		if got := d.state(id); got != s.into {
			t.Fatalf("%s: it is %s, want %s", s.name, got, s.into)
		}
		if s.into == api.StateStarted {
			n.answers(d, id)
		}
		t.Logf("%-20s %6.1f ms, to the answer %6.1f ms", s.name, milliseconds(took), milliseconds(time.Since(before)))
	}
	for _, e := range d.lookup(id).now().rec.Events {
		if e.Type == "start" || e.Type == "resume" {
			t.Logf("%-8s %v", e.Type, e.Detail)
		}
		if e.Type == "resume_failed" {
			t.Errorf("a snapshot could not be restored: %v", e.Detail)
		}
	}
	ok(t, d.Destroy(ctx, id, true, ""))
	d.end()
	n.expectEmpty()
}

func TestRealExits(t *testing.T) {
	n := newNode(t)
	d := n.run()
	for name, c := range map[string]struct {
		script string
		memory int
		see    func(*api.ExitEvent) bool
	}{
		"code 0":        {"exit 0", 128, func(e *api.ExitEvent) bool { return e.ExitCode == 0 && !e.Restarting }},
		"code 7":        {"exit 7", 128, func(e *api.ExitEvent) bool { return e.ExitCode == 7 }},
		"signal":        {"kill -9 $$", 128, func(e *api.ExitEvent) bool { return e.Signal == 9 || e.ExitCode == 137 }},
		"out of memory": {"tail -c 1000m /dev/zero", 64, func(e *api.ExitEvent) bool { return e.OOMKilled }},
	} {
		t.Run(name, func(t *testing.T) {
			conf := shell(c.script)
			conf.Guest.MemoryMB = c.memory
			conf.Restart = &api.Restart{Policy: "no"}
			id := d.create(t, conf)
			d.reaches(t, id, api.StateStopped)
			if e := d.exitOf(t, id); !c.see(e) {
				t.Errorf("exit event %+v", e)
			}
			if m, _ := d.Get(t.Context(), id); m.Standing == "" {
				t.Error("it does not say why it stopped")
			}
		})
	}
	for _, command := range []string{"/no/such", "nosuch", "/www/index.html", "/www"} {
		_, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: busyboxRef, Init: &api.Init{Exec: []string{command}}}})
		want(t, err, api.CodeInvalid)
		t.Log(err)
	}
}

func TestRealProcess(t *testing.T) {
	n := newNode(t)
	n.secrets = fakeSecrets{}
	d := n.run()
	conf := shell("id; env; cat /etc/app.conf /run/key; echo done; sleep 1000")
	conf.Init.User = "app"
	conf.Files = []api.File{
		{GuestPath: "/etc/app.conf", RawValue: new(base64.StdEncoding.EncodeToString([]byte("setting=1\n")))},
		{GuestPath: "/run/key", SecretName: new("PEM")},
	}
	id := d.create(t, conf)
	n.console(d, id, "done")
	b, _ := os.ReadFile(d.consoleFile(id))
	for _, words := range []string{"uid=1000(app) gid=1000(app)", "77", "FROM=image", "KEY=s3cret", "FLY_MACHINE_ID=" + id, "HOME=/home/app", "setting=1\nhello"} {
		if !strings.Contains(string(b), words) {
			t.Errorf("%q is not said:\n%s", words, b)
		}
	}
	out, err := d.Exec(t.Context(), id, api.ExecRequest{Cmd: `sh -c "cat; echo err >&2; exit 3"`, Stdin: "given"})
	ok(t, err)
	if out.ExitCode != 3 || out.Stdout != "given" || out.Stderr != "err\n" {
		t.Errorf("exec answered %+v", out)
	}
	_, err = d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"sleep", "100"}, Timeout: 1})
	want(t, err, api.CodeTimeout)
	_, err = d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"/no/such"}})
	want(t, err, api.CodeInvalid)
	ok(t, d.Suspend(t.Context(), id, ""))
	out, err = d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"cat", "/etc/app.conf"}})
	ok(t, err)
	if out.Stdout != "setting=1\n" {
		t.Errorf("after a suspension exec answered %+v", out)
	}
	var term strings.Builder
	code, err := d.ExecStream(t.Context(), id, ExecSpec{Command: []string{"sh", "-c", "id -u; echo $MORE $KEY"}, User: "root", Terminal: true, Env: map[string]string{"MORE": "yes"}},
		sandbox.Streams{Stdout: &term})
	ok(t, err)
	if code != 0 || !strings.Contains(term.String(), "0\r\n") || !strings.Contains(term.String(), "yes s3cret") {
		t.Errorf("in a terminal: %d, %q", code, term.String())
	}
	ps, err := d.Processes(t.Context(), id)
	ok(t, err)
	stats, err := d.Stats(t.Context(), id)
	ok(t, err)
	if len(ps) == 0 || stats.MemoryBytes == 0 {
		t.Errorf("processes %v, stats %+v", ps, stats)
	}
}

// TestRealSecretsDoNotCool: a snapshot is good whatever became of the secrets, for
// the saved process has its environment already.
func TestRealSecretsDoNotCool(t *testing.T) {
	n := newNode(t)
	v := &vault{}
	v.set(map[string]string{"KEY": "one"})
	n.secrets = v
	d := n.run()
	id := d.create(t, web())
	ok(t, d.WaitHealthy(t.Context(), id))
	ok(t, d.Suspend(t.Context(), id, ""))
	v.set(map[string]string{"KEY": "two", "MORE": "1"})
	_, err := d.Wake(t.Context(), id)
	ok(t, err)
	if events := d.lookup(id).now().rec.Events; count(events, "resume_failed") != 0 {
		t.Errorf("it did not wake from its snapshot: %+v", events[:2])
	}
	n.answers(d, id)
}

func TestRealRootfs(t *testing.T) {
	for persist, kept := range map[string]bool{"never": false, "always": true} {
		t.Run(persist, func(t *testing.T) {
			n := newNode(t)
			d := n.run()
			conf := shell("ls /home/app; touch /home/app/mark; echo done; sleep 1000")
			conf.Rootfs = &api.Rootfs{Persist: persist}
			id := d.create(t, conf)
			n.console(d, id, "done\n")
			ok(t, d.Restart(t.Context(), id, RestartOptions{Force: true}, ""))
			n.console(d, id, map[bool]string{false: "done\ndone\n", true: "done\nmark\ndone\n"}[kept])
			if kept { // what is on the host's disk cannot be in a snapshot
				want(t, d.Suspend(t.Context(), id, ""), api.CodePrecondition)
				if d.state(id) != api.StateStarted {
					t.Errorf("it is %s", d.state(id))
				}
			}
		})
	}
}

func TestRealChecks(t *testing.T) {
	n := newNode(t)
	d := n.run()
	conf := web()
	conf.Services[0].Checks = []api.Check{
		{Type: "http", Path: "/", Interval: api.D(time.Second)},
		{Type: "http", Path: "/missing", Interval: api.D(time.Second), GracePeriod: api.D(time.Millisecond)},
		{Type: "tcp", Port: 9999, Interval: api.D(time.Second), GracePeriod: api.D(time.Hour), Kind: "informational"},
	}
	id := d.create(t, conf)
	until(t, "the checks have answers", func() bool {
		m, _ := d.Get(t.Context(), id)
		// Before the server listens the second check is refused, which is critical too.
		return m.Checks[0].Status == statusPassing && strings.Contains(m.Checks[1].Output, "404") && strings.Contains(m.Checks[2].Output, "refused")
	})
	m, _ := d.Get(t.Context(), id)
	if m.Checks[1].Status != statusCritical || m.Checks[2].Status != statusWarning {
		t.Errorf("checks are %+v", m.Checks)
	}
	if s, _ := d.Status(id); s.Healthy {
		t.Error("a machine with a critical check is healthy")
	}
	out, err := d.Exec(t.Context(), id, api.ExecRequest{Command: []string{"touch", "/www/missing"}})
	ok(t, err)
	if out.ExitCode != 0 {
		t.Fatalf("touch: %+v", out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ok(t, d.WaitHealthy(ctx, id))
	// Checks rest while it sleeps, and do not wake it.
	ok(t, d.Pause(t.Context(), id, ""))
	time.Sleep(1500 * time.Millisecond)
	if m, _ := d.Get(t.Context(), id); m.State != api.StatePaused || m.Checks[0].Status != statusPassing {
		t.Errorf("asleep it is %s, with checks %+v", m.State, m.Checks)
	}
	conf = shell("sleep 0.2; exit 1")
	conf.Checks = map[string]api.Check{"up": {Type: "tcp", Port: 8080}}
	crash := d.create(t, conf)
	want(t, d.WaitHealthy(t.Context(), crash), api.CodePrecondition)
}

func TestRealDamagedSnapshot(t *testing.T) {
	n := newNode(t)
	d := n.run()
	id := d.create(t, web())
	ok(t, d.WaitHealthy(t.Context(), id))
	ok(t, d.Suspend(t.Context(), id, ""))
	dir := filepath.Join(d.dir(id), d.lookup(id).now().rec.Snapshot)
	files, err := os.ReadDir(dir)
	ok(t, err)
	for _, f := range files {
		if info, err := f.Info(); err == nil && info.Size() > 4096 {
			ok(t, os.Truncate(filepath.Join(dir, f.Name()), info.Size()/2))
		}
	}
	_, err = d.Wake(t.Context(), id)
	ok(t, err)
	n.answers(d, id)
}

// TestRealCrash kills the daemon under load and looks for its machines.
func TestRealCrash(t *testing.T) {
	n := newNode(t)
	d := n.run()
	ctx := context.Background()
	runs, pauses, suspends, stops := d.create(t, web()), d.create(t, web()), d.create(t, web()), d.create(t, web())
	ends := d.create(t, shell("sleep 0.3; exit 5"))
	ok(t, d.WaitHealthy(ctx, suspends))
	ok(t, d.Pause(ctx, pauses, ""))
	ok(t, d.Suspend(ctx, suspends, ""))
	ok(t, d.Stop(ctx, stops, api.StopRequest{}, ""))
	before, _ := d.Status(runs)
	d.crash()
	time.Sleep(400 * time.Millisecond)
	began := time.Now()
	d = n.run()
	t.Logf("found again in %s", time.Since(began))
	for id, state := range map[string]string{runs: api.StateStarted, pauses: api.StatePaused, suspends: api.StateSuspended, stops: api.StateStopped} {
		if got := d.state(id); got != state {
			t.Errorf("it is %s, was %s", got, state)
		}
	}
	if after, _ := d.Status(runs); after.Addr != before.Addr {
		t.Errorf("the machine moved from %s to %s", before.Addr, after.Addr)
	}
	until(t, "the exit is seen", func() bool { return count(d.lookup(ends).now().rec.Events, "exit") > 0 })
	if e := d.exitOf(t, ends); e.ExitCode != 5 {
		t.Errorf("exit while away: %+v", e)
	}
	for _, id := range []string{runs, pauses, suspends, stops} {
		_, err := d.Wake(ctx, id)
		ok(t, err)
		n.answers(d, id)
	}
	n.killSupervisor() // machines outlive it, and the daemon finds a new one
	n.answers(d, runs)
	ok(t, d.Restart(ctx, runs, RestartOptions{}, ""))
	n.answers(d, runs)
	for _, m := range d.List("") {
		ok(t, d.Destroy(ctx, m.ID, true, ""))
	}
	d.end()
	n.expectEmpty()
}

// TestRealTogether has many machines begin and end at once.
func TestRealTogether(t *testing.T) {
	n := newNode(t)
	d := n.run()
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			ctx := context.Background()
			m, err := d.Create(ctx, "shop", api.CreateMachineRequest{Config: web()})
			if err == nil {
				err = d.WaitHealthy(ctx, m.ID)
			}
			if err == nil {
				err = d.Suspend(ctx, m.ID, "")
			}
			if err == nil {
				_, err = d.Wake(ctx, m.ID)
			}
			if err == nil {
				err = d.Destroy(ctx, m.ID, true, "")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.end()
	n.expectEmpty()
}
