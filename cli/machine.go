package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func machineCmd(e *env) *cobra.Command {
	return parent("machine", "Look at and act on single machines", []string{"machines", "m"},
		machineListCmd(e), machineStatusCmd(e), machineRunCmd(e), machineUpdateCmd(e),
		verb(e, "start", "Start machines", (*api.Client).StartMachine),
		machineStopCmd(e),
		verb(e, "suspend", "Save machines to disk; a request brings them back", (*api.Client).SuspendMachine),
		verb(e, "pause", "Freeze machines with their memory kept; a request brings them back", (*api.Client).PauseMachine),
		machineRestartCmd(e), machineDestroyCmd(e), machineSignalCmd(e), machineWaitCmd(e), machineEventsCmd(e),
		verb(e, "cordon", "Keep requests away from machines", (*api.Client).CordonMachine),
		verb(e, "uncordon", "Let requests reach machines again", (*api.Client).UncordonMachine),
		machinePsCmd(e), machineExecCmd(e))
}

// onMachines runs do for each machine named; all are tried, the first error
// is returned.
func (e *env) onMachines(ctx context.Context, ids []string, done string, do func(c *api.Client, app, id string) error) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	var failed error
	for _, id := range ids {
		full, err := e.machineID(ctx, client, app, id)
		if err == nil {
			err = do(client, app, full)
		}
		if err != nil {
			if failed == nil {
				failed = e.explain(err)
			} else {
				fmt.Fprintln(e.Err, e.paint(red, "Error:"), plainText(err.Error()))
			}
			continue
		}
		if err := e.did("machine %s %s", full, done); err != nil {
			return err
		}
	}
	return failed
}

// machineID completes a machine's name or the beginning of its id.
func (e *env) machineID(ctx context.Context, c *api.Client, app, id string) (string, error) {
	if len(id) == 14 {
		return id, nil
	}
	machines, err := c.ListMachines(ctx, app)
	if err != nil {
		return "", err
	}
	var found []string
	for _, m := range machines {
		if m.Name == id || m.ID == id {
			return m.ID, nil
		}
		if strings.HasPrefix(m.ID, id) {
			found = append(found, m.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", api.Errorf(api.CodeNotFound, "app %s has no machine %q", app, id).WithHint("perigee machine list shows them")
	}
	return "", usagef("%q could be any of %s", id, strings.Join(found, ", "))
}

func verb(e *env, name, short string, do func(*api.Client, context.Context, string, string) error) *cobra.Command {
	past := map[string]string{"start": "started", "suspend": "suspended", "pause": "paused", "cordon": "cordoned", "uncordon": "uncordoned"}[name]
	return &cobra.Command{
		Use: name + " ID ...", Short: short, Args: someIDs, Example: "  perigee machine " + name + " 3d8d9014b32789", ValidArgsFunction: e.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			return e.onMachines(c.Context(), args, past, func(client *api.Client, app, id string) error { return do(client, c.Context(), app, id) })
		},
	}
}

func someIDs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return hint(usagef("%s needs a machine", c.CommandPath()), "perigee machine list shows them")
	}
	return nil
}

func (e *env) completeMachines(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	app, err := e.appName()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	client, err := e.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	machines, _ := client.ListMachines(c.Context(), app)
	ids := make([]string, len(machines))
	for i, m := range machines {
		ids[i] = m.ID + "\t" + m.Name + " " + m.State
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func machineListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the app's machines", Args: noArgs, Example: "  perigee machine list --app shop",
		RunE: func(c *cobra.Command, _ []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			machines, err := client.ListMachines(c.Context(), app)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(machines)
			}
			return e.machineTable(machines)
		},
	}
}

// oneMachine fetches the machine that the first argument names.
func (e *env) oneMachine(ctx context.Context, id string) (*api.Client, string, api.Machine, error) {
	client, app, err := e.forApp()
	if err != nil {
		return nil, "", api.Machine{}, err
	}
	full, err := e.machineID(ctx, client, app, id)
	if err != nil {
		return nil, "", api.Machine{}, e.explain(err)
	}
	m, err := client.GetMachine(ctx, app, full)
	return client, app, m, e.explain(err)
}

func machineStatusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "status ID", Aliases: []string{"show"}, Short: "Show one machine with its checks and events", Args: exactArgs("ID"), Example: "  perigee machine status 3d8d9014b32789", ValidArgsFunction: e.completeMachines,
		RunE: func(c *cobra.Command, args []string) error {
			_, _, m, err := e.oneMachine(c.Context(), args[0])
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(m)
			}
			return e.showMachine(m)
		},
	}
}

func (e *env) showMachine(m api.Machine) error {
	size := ""
	if g := m.Config.Guest; g != nil {
		size = fmt.Sprintf("%d CPU, %d MiB", g.CPUs, g.MemoryMB)
	}
	e.facts("machine", m.ID, "name", m.Name, "state", m.State, "because", m.Standing, "region", regionText(m.Region, m.HomeRegion), "node", m.Node, "release", versionText(m.Release),
		"image", imageText(m.ImageRef), "digest", m.ImageRef.Digest, "size", size, "private IPv6", m.PrivateIP, "version", m.InstanceID, "created", ago(m.CreatedAt))
	if m.Cordoned {
		fmt.Fprintln(e.Out, "cordoned: the router sends it nothing")
	}
	for _, c := range m.Checks {
		fmt.Fprintf(e.Out, "check %s: %s %s\n", plain(c.Name), c.Status, plain(strings.TrimSpace(c.Output)))
	}
	fmt.Fprintln(e.Out)
	return e.eventTable(m.Events)
}

func (e *env) eventTable(events []api.Event) error {
	rows := make([][]string, len(events))
	for i, ev := range events {
		rows[i] = []string{time.UnixMilli(ev.Timestamp).Local().Format(time.DateTime), ev.Type, ev.Status, ev.Source, eventText(ev)}
	}
	return e.table([]string{"TIME", "EVENT", "STATE", "SOURCE", "DETAIL"}, rows)
}

func eventText(ev api.Event) string {
	var parts []string
	if ev.Request != nil && ev.Request.ExitEvent != nil {
		x := ev.Request.ExitEvent
		parts = append(parts, "exit code "+strconv.Itoa(x.ExitCode))
		if x.Signal != 0 {
			parts = append(parts, "signal "+strconv.Itoa(x.Signal))
		}
		if x.OOMKilled {
			parts = append(parts, "out of memory")
		}
	}
	for _, k := range sortedKeys(ev.Detail) {
		parts = append(parts, fmt.Sprintf("%s %v", k, ev.Detail[k]))
	}
	return strings.Join(parts, ", ")
}

func machineRunCmd(e *env) *cobra.Command {
	var f machineFlags
	c := &cobra.Command{
		Use: "run IMAGE [-- COMMAND ...]", Short: "Create and start a machine", Args: cobra.MinimumNArgs(1),
		Example: "  perigee machine run nginx:1.27 --app shop --port 443:80/http+tls\n  perigee machine run debian:12 --app jobs --restart no -- /bin/true",
		RunE: func(c *cobra.Command, args []string) error {
			app, err := e.appName()
			if err != nil {
				return err
			}
			cfg, err := f.config(&api.MachineConfig{}, args[0], args[1:])
			if err != nil {
				return err
			}
			client, err := e.client()
			if err != nil {
				return err
			}
			made, err := e.ensureApp(c.Context(), client, app)
			if err != nil {
				return err
			}
			show := e.newProgress()
			if cfg.Image, err = show.image(client.PullImage(c.Context(), cfg.Image)); err != nil {
				return e.unmake(c.Context(), client, app, made, err)
			}
			m, err := client.CreateMachine(c.Context(), app, api.CreateMachineRequest{Config: cfg, Name: f.name, SkipLaunch: f.noStart})
			if err != nil {
				return e.unmake(c.Context(), client, app, made, err)
			}
			return e.madeMachine(m, "created")
		},
	}
	f.register(c)
	c.Flags().StringVar(&f.name, "name", "", "name of the machine")
	c.Flags().BoolVar(&f.noStart, "no-start", false, "create it, do not start it")
	return c
}

func (e *env) madeMachine(m api.Machine, what string) error {
	if e.json {
		return e.printJSON(m)
	}
	fmt.Fprintf(e.Out, "%s machine %s (%s) %s\n", e.paint(green, "✓"), m.ID, plain(m.Name), what)
	return nil
}

func machineUpdateCmd(e *env) *cobra.Command {
	var f machineFlags
	var image string
	c := &cobra.Command{
		Use: "update ID", Short: "Give a machine a new version of its configuration", Args: exactArgs("ID"), ValidArgsFunction: e.completeMachines,
		Example: "  perigee machine update 3d8d9014b32789 --memory 512 --env DEBUG=1",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, m, err := e.oneMachine(c.Context(), args[0])
			if err != nil {
				return err
			}
			cfg, err := f.config(m.Config, first(image, m.Config.Image), nil)
			if err != nil {
				return err
			}
			m, err = client.UpdateMachine(c.Context(), app, m.ID, api.CreateMachineRequest{Config: cfg, CurrentVersion: m.InstanceID})
			if err != nil {
				return e.explain(err)
			}
			return e.madeMachine(m, "updated")
		},
	}
	f.register(c)
	c.Flags().StringVar(&image, "image", "", "run another image")
	return c
}

func machineStopCmd(e *env) *cobra.Command {
	var req api.StopRequest
	var timeout time.Duration
	c := &cobra.Command{
		Use: "stop ID ...", Short: "Stop machines", Args: someIDs, ValidArgsFunction: e.completeMachines, Example: "  perigee machine stop 3d8d9014b32789 --timeout 30s",
		RunE: func(c *cobra.Command, args []string) error {
			if timeout > 0 {
				req.Timeout = api.D(timeout)
			}
			return e.onMachines(c.Context(), args, "stopped", func(client *api.Client, app, id string) error {
				return client.StopMachine(c.Context(), app, id, req)
			})
		},
	}
	c.Flags().StringVarP((*string)(&req.Signal), "signal", "s", "", "signal that asks it to stop (default: the image's, else SIGINT)")
	c.Flags().DurationVar(&timeout, "timeout", 0, "time until SIGKILL (default 5s)")
	return c
}

func machineRestartCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "restart ID ...", Short: "Restart machines", Args: someIDs, ValidArgsFunction: e.completeMachines, Example: "  perigee machine restart 3d8d9014b32789",
		RunE: func(c *cobra.Command, args []string) error {
			return e.onMachines(c.Context(), args, "restarted", func(client *api.Client, app, id string) error { return client.RestartMachine(c.Context(), app, id) })
		},
	}
}

func machineDestroyCmd(e *env) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "destroy ID ...", Aliases: []string{"rm"}, Short: "Destroy machines", Args: someIDs, ValidArgsFunction: e.completeMachines, Example: "  perigee machine destroy 3d8d9014b32789 --force",
		RunE: func(c *cobra.Command, args []string) error {
			return e.onMachines(c.Context(), args, "destroyed", func(client *api.Client, app, id string) error {
				return client.DestroyMachine(c.Context(), app, id, force)
			})
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "also one that runs")
	return c
}

func machineSignalCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "signal ID SIGNAL", Aliases: []string{"kill"}, Short: "Send a signal to a machine's first process", Args: exactArgs("ID", "SIGNAL"), Example: "  perigee machine signal 3d8d9014b32789 SIGHUP",
		RunE: func(c *cobra.Command, args []string) error {
			return e.onMachines(c.Context(), args[:1], "got "+args[1], func(client *api.Client, app, id string) error {
				return client.SignalMachine(c.Context(), app, id, args[1])
			})
		},
	}
}

func machineWaitCmd(e *env) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait ID STATE", Short: "Wait until a machine is in a state", Args: exactArgs("ID", "STATE"), Example: "  perigee machine wait 3d8d9014b32789 stopped --timeout 30s",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, m, err := e.oneMachine(c.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := client.WaitMachine(c.Context(), app, m.ID, api.WaitOptions{States: []string{args[1]}, Timeout: timeout})
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(r)
			}
			return e.did("machine %s is %s", m.ID, r.State)
		},
	}
	c.Flags().DurationVar(&timeout, "timeout", 60*time.Second, "how long to wait, at most a minute")
	return c
}

func machineEventsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "events ID", Short: "List what happened to a machine, newest first", Args: exactArgs("ID"), ValidArgsFunction: e.completeMachines, Example: "  perigee machine events 3d8d9014b32789",
		RunE: func(c *cobra.Command, args []string) error {
			_, _, m, err := e.oneMachine(c.Context(), args[0])
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(m.Events)
			}
			return e.eventTable(m.Events)
		},
	}
}

func machinePsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "ps ID", Short: "List the processes in a machine", Args: exactArgs("ID"), ValidArgsFunction: e.completeMachines, Example: "  perigee machine ps 3d8d9014b32789",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, m, err := e.oneMachine(c.Context(), args[0])
			if err != nil {
				return err
			}
			ps, err := client.Processes(c.Context(), app, m.ID)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(ps)
			}
			rows := make([][]string, len(ps))
			for i, p := range ps {
				rows[i] = []string{strconv.Itoa(p.PID), p.User, p.Command}
			}
			return e.table([]string{"PID", "USER", "COMMAND"}, rows)
		},
	}
}
