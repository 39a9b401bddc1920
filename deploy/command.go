package deploy

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/machine"
)

// releaseCommand runs the release's command once in a machine of its own and
// fails unless it exits with 0. The machine's exit is on its record, so a crash
// of the daemon neither runs the command twice nor forgets how it ended.
func (d *Deployer) releaseCommand(ctx context.Context, w *work, r *app.Release) error {
	if len(r.Job.Command) == 0 {
		return nil
	}
	m, err := d.commandMachine(ctx, w, r)
	if err != nil {
		return wrap(err, "cannot run the release command")
	}
	talk, hush := context.WithCancel(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		d.relay(talk, w, m)
	}()
	err = d.commandEnd(ctx, r, m.ID)
	d.linger(ctx, err)
	hush()
	<-heard
	if err != nil {
		return d.commandFailed(ctx, r, m.ID, err)
	}
	d.removeCommand(ctx, r)
	return ctx.Err()
}

// commandMachine finds the command's machine, or makes it. Its configuration is
// the first group's without what the router and the checks would act on.
func (d *Deployer) commandMachine(ctx context.Context, w *work, r *app.Release) (api.Machine, error) {
	if m, ok := d.findCommand(r); ok {
		if m.State == api.StateCreated {
			_, err := d.cfg.Machines.Start(ctx, m.ID, "")
			return m, err
		}
		return m, nil
	}
	w.step("release command: %q", r.Job.Command)
	group := groupsOf(r.Counts)[0]
	c := config(r, group, r.Groups[group])
	c.Init = commandInit(c.Init, r.Job.Command)
	c.Env = maps.Clone(c.Env)
	if c.Env == nil {
		c.Env = map[string]string{}
	}
	c.Env["RELEASE_COMMAND"] = "1"
	c.Metadata[metaCommand], c.Metadata[metaGroup] = strconv.Itoa(r.Version), "fly_app_release_command"
	c.Services, c.Checks, c.Mounts, c.Schedule, c.Standbys, c.AutoDestroy = nil, nil, nil, "", nil, false
	c.Processes = nil
	c.Restart = &api.Restart{Policy: "no"}
	return d.cfg.Machines.Create(ctx, r.App, api.CreateMachineRequest{
		Config: c, Region: d.goalOf(r).Primary, Name: fmt.Sprintf("release-command-%s", version(r.Version)), Release: r.Version, SkipServiceRegistration: true,
	})
}

// commandInit keeps the image's entrypoint, as Fly does, and replaces what comes
// after it.
func commandInit(old *api.Init, command []string) *api.Init {
	i := api.Init{}
	if old != nil {
		i = *old
	}
	i.Exec, i.Cmd, i.TTY = nil, command, false
	return &i
}

func (d *Deployer) findCommand(r *app.Release) (api.Machine, bool) {
	for _, m := range d.cfg.Machines.List(r.App) {
		if m.Config != nil && m.Config.Metadata[metaCommand] == strconv.Itoa(r.Version) {
			return m, true
		}
	}
	return api.Machine{}, false
}

// commandEnd waits for the command's end and says how it failed, if it did.
func (d *Deployer) commandEnd(ctx context.Context, r *app.Release, id string) error {
	run, cancel := context.WithTimeout(ctx, r.Job.CommandTimeout)
	defer cancel()
	for {
		_, err := d.cfg.Machines.Wait(run, id, machine.WaitQuery{States: []string{api.StateStopped, api.StateFailed, api.StateDestroyed}})
		switch {
		case err == nil:
			return d.commandExit(ctx, id)
		case ctx.Err() != nil:
			return ctx.Err()
		case run.Err() != nil:
			return fmt.Errorf("did not end within %s", r.Job.CommandTimeout)
		case !api.IsCode(err, api.CodeTimeout):
			return err
		}
	}
}

func (d *Deployer) commandExit(ctx context.Context, id string) error {
	x := d.lastExit(ctx, id)
	switch {
	case x == nil:
		m, err := d.cfg.Machines.Get(ctx, id)
		if err != nil {
			return err
		}
		return fmt.Errorf("did not start: %s", m.Standing)
	case x.ExitCode != 0 || x.OOMKilled:
		return fmt.Errorf("%s", exitWords(x))
	}
	return nil
}

// linger leaves the last lines the time to arrive.
func (d *Deployer) linger(ctx context.Context, failed error) {
	if failed != nil {
		return // they come with the error
	}
	select {
	case <-time.After(2 * d.cfg.lag):
	case <-ctx.Done():
	}
}

// relay shows what the command says.
func (d *Deployer) relay(ctx context.Context, w *work, m api.Machine) {
	for l, err := range d.cfg.Logs.Logs(ctx, m.App, api.LogQuery{Machine: m.ID, Lines: 1000, Follow: true}) {
		if err != nil {
			return // what it said comes with the error if it fails
		}
		if l.Source != "platform" {
			w.tell(api.Progress{Kind: "log", ID: m.ID, Message: l.Text})
		}
	}
}

func (d *Deployer) commandFailed(ctx context.Context, r *app.Release, id string, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e := api.Errorf(api.CodeDeployFailed, "release %s failed: its release command %v", version(r.Version), why)
	e.Logs = d.said(ctx, r.App, id)
	return e.WithHint("the command is given to the image's entrypoint; the app's machines were not touched")
}

// removeCommand removes the command's machine; one that stays behind is removed
// with the app.
func (d *Deployer) removeCommand(ctx context.Context, r *app.Release) {
	m, ok := d.findCommand(r)
	if !ok {
		return
	}
	if err := unlessGone(d.cfg.Machines.Destroy(ctx, m.ID, true, "")); err != nil && ctx.Err() == nil {
		d.cfg.Logger.Warn("cannot remove the machine of a release command", "app", r.App, "machine", m.ID, "error", err)
	}
}
