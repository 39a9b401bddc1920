package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func volumesCmd(e *env) *cobra.Command {
	snapshots := parent("snapshots", "Volumes as they were at one moment", []string{"snapshot"}, snapshotsListCmd(e), snapshotsCreateCmd(e))
	return parent("volumes", "Storage of the app's machines", []string{"volume", "vol"}, volumesListCmd(e), volumesCreateCmd(e), volumesShowCmd(e),
		volumesExtendCmd(e), volumesUpdateCmd(e), volumesForkCmd(e), volumesDestroyCmd(e), volumesKeepCmd(e), snapshots)
}

// onVolume is a command about one volume.
func (e *env) onVolume(c *cobra.Command, id string, do func(ctx context.Context, client *api.Client, app, id string) error) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	full, err := e.volumeID(c.Context(), client, app, id)
	if err != nil {
		return e.explain(err)
	}
	return e.explain(do(c.Context(), client, app, full))
}

// volumeID finds a volume by its id, the beginning of that, or a name that only one
// has. What is not found goes to the node as it is: the snapshots of a volume outlive
// it.
func (e *env) volumeID(ctx context.Context, client *api.Client, app, id string) (string, error) {
	all, err := client.ListVolumes(ctx, app)
	if err != nil {
		return "", err
	}
	var found []string
	for _, v := range all {
		if v.ID == id {
			return id, nil
		}
		if v.Name == id || strings.HasPrefix(v.ID, id) {
			found = append(found, v.ID)
		}
	}
	switch len(found) {
	case 0:
		return id, nil
	case 1:
		return found[0], nil
	}
	return "", usagef("%q could be any of %s", id, strings.Join(found, ", "))
}

func (e *env) completeVolumes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, app, err := e.forApp()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, _ := client.ListVolumes(c.Context(), app)
	ids := make([]string, len(all))
	for i, v := range all {
		ids[i] = v.ID + "\t" + v.Name
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

func volumesListCmd(e *env) *cobra.Command {
	all, org := false, ""
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the app's volumes, or an org's", Args: noArgs,
		Example: "  perigee volumes list --app shop\n  perigee volumes list --all --json\n  perigee volumes list --org personal --all   # also those of destroyed apps",
		RunE: func(c *cobra.Command, _ []string) error {
			states := []string{api.VolumeCreating, api.VolumeCreated}
			if all {
				states = append(states, api.VolumePendingDestroy, api.VolumeDestroying, api.VolumeDestroyed)
			}
			shown, err := e.volumesOf(c.Context(), org, states)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(append([]api.Volume{}, shown...))
			}
			return e.volumeTable(shown, org != "")
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also those that are to be destroyed, and those of which there are but snapshots")
	c.Flags().StringVarP(&org, "org", "o", "", "those of all apps of this org, for its owner also of apps that were destroyed")
	return c
}

// volumesOf are those of an org, or with "" of the app that is meant.
func (e *env) volumesOf(ctx context.Context, org string, states []string) ([]api.Volume, error) {
	if org != "" {
		client, err := e.client()
		if err != nil {
			return nil, err
		}
		return client.ListOrgVolumes(ctx, org, states...)
	}
	client, app, err := e.forApp()
	if err != nil {
		return nil, err
	}
	return client.ListVolumes(ctx, app, states...)
}

func (e *env) volumeTable(volumes []api.Volume, apps bool) error {
	head, rows := []string{"ID", "NAME", "STATE", "SIZE", "USED", "REGION", "NODE", "MACHINE", "CREATED"}, make([][]string, len(volumes))
	if apps {
		head = append(head, "APP")
	}
	for i, v := range volumes {
		rows[i] = []string{v.ID, v.Name, volumeState(v), fmt.Sprintf("%d GB", v.SizeGB), usedText(v), v.Region, v.Node, deref(v.AttachedMachineID), ago(v.CreatedAt)}
		if apps {
			rows[i] = append(rows[i], v.App)
		}
	}
	return e.table(head, rows)
}

func volumeState(v api.Volume) string {
	if v.HostStatus == "unreachable" {
		return v.State + " (node away)"
	}
	return v.State
}

func usedText(v api.Volume) string {
	if v.BytesTotal == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", v.BytesUsed*100/v.BytesTotal)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func volumesShowCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one volume", Args: exactArgs("ID"), Example: "  perigee volumes show vol_4xm1vzq6p2d8n0rk3", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				v, err := client.GetVolume(ctx, app, id)
				if err != nil {
					return err
				}
				return e.showVolume(v)
			})
		},
	}
}

func (e *env) showVolume(v api.Volume) error {
	if e.json {
		return e.printJSON(v)
	}
	gone, daily, waits := "", "off", ""
	if v.DestroyAt != nil {
		gone = v.DestroyAt.Local().Format(time.DateTime)
	}
	if v.AutoBackupEnabled {
		daily = "on"
	}
	if v.NeedsRestart {
		waits = "it has its new size when its machine is started next"
	}
	used := ""
	if v.BytesTotal > 0 {
		used = fmt.Sprintf("%s of %s", bytesText(v.BytesUsed), bytesText(v.BytesTotal))
	}
	return e.facts("volume", v.ID, "name", v.Name, "state", volumeState(v), "destroyed at", gone, "size", fmt.Sprintf("%d GB", v.SizeGB), "grows", waits, "used", used,
		"region", v.Region, "node", v.Node, "machine", deref(v.AttachedMachineID), "daily snapshots", daily, "snapshots kept", count(v.SnapshotRetention, "day"),
		"problem", v.Problem, "created", ago(v.CreatedAt))
}

// volumeFlags are those of a volume that is to be made.
type volumeFlags struct {
	region    string
	size      int
	retention int
	backups   bool
	snapshot  string
	unique    bool
}

func (f *volumeFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.IntVarP(&f.size, "size", "s", 0, "GB (default 1, or that of what it is made from)")
	fl.IntVar(&f.retention, "snapshot-retention", 0, "days that snapshots are kept, 1 to 60 (default 5)")
	fl.BoolVar(&f.backups, "scheduled-snapshots", true, "take a snapshot each day")
}

// request is the flags that were given, in the API's words.
func (f *volumeFlags) request(c *cobra.Command, name string) api.CreateVolumeRequest {
	req := api.CreateVolumeRequest{Name: name, Region: f.region, SnapshotID: f.snapshot}
	if c.Flags().Changed("size") {
		req.SizeGB = &f.size
	}
	if c.Flags().Changed("snapshot-retention") {
		req.SnapshotRetention = &f.retention
	}
	if c.Flags().Changed("scheduled-snapshots") {
		req.AutoBackupEnabled = &f.backups
	}
	if f.unique {
		req.RequireUniqueZone = &f.unique
	}
	return req
}

func volumesCreateCmd(e *env) *cobra.Command {
	var f volumeFlags
	var n int
	c := &cobra.Command{
		Use: "create [NAME]", Short: "Make a volume", Args: cobra.MaximumNArgs(1), Long: `Make a volume: empty, or with --snapshot-id as it was then.

A volume is on one node, and one machine can have it at a time. A deploy with
[[mounts]] makes those that its machines lack, so mostly there is no need to.`,
		Example: "  perigee volumes create data --size 10 --region fra\n  perigee volumes create data --snapshot-id vs_MgLAggLZkYx89fLy0",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			if n < 1 {
				return usagef("--count is %d; it must be 1 or more", n)
			}
			made := []api.Volume{}
			for range n {
				v, err := client.CreateVolume(c.Context(), app, f.request(c, name))
				if err != nil {
					return e.explain(err)
				}
				made = append(made, v)
			}
			return e.madeVolumes(made)
		},
	}
	f.add(c)
	c.Flags().StringVarP(&f.region, "region", "r", "", "region (default: that of the node that is asked)")
	c.Flags().StringVar(&f.snapshot, "snapshot-id", "", "make it from this snapshot")
	c.Flags().BoolVar(&f.unique, "require-unique-zone", false, "on a node that has no volume of the app with this name")
	c.Flags().IntVarP(&n, "count", "n", 1, "how many")
	return c
}

func (e *env) madeVolumes(made []api.Volume) error {
	if e.json && len(made) == 1 {
		return e.printJSON(made[0])
	}
	if e.json {
		return e.printJSON(made)
	}
	for _, v := range made {
		if err := e.did("made volume %s (%s), %d GB in %s on %s", v.ID, v.Name, v.SizeGB, v.Region, v.Node); err != nil {
			return err
		}
	}
	return nil
}

func volumesForkCmd(e *env) *cobra.Command {
	var f volumeFlags
	name := ""
	c := &cobra.Command{
		Use: "fork ID", Short: "Make a copy of a volume as it is now", Args: exactArgs("ID"), ValidArgsFunction: e.completeVolumes, Long: `Make a copy of a volume as it is now, on its node.

With --region it is made in that region, where snapshots are kept in a bucket: one
is taken, and restored there.`,
		Example: "  perigee volumes fork vol_4xm1vzq6p2d8n0rk3 --name trial\n  perigee volumes fork vol_4xm1vzq6p2d8n0rk3 --region syd",
		RunE: func(c *cobra.Command, args []string) error {
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				req := f.request(c, name)
				req.SourceVolumeID = id
				v, err := client.CreateVolume(ctx, app, req)
				if err != nil {
					return err
				}
				return e.madeVolumes([]api.Volume{v})
			})
		},
	}
	f.add(c)
	c.Flags().StringVar(&name, "name", "", "name of the copy (default: that of the volume)")
	c.Flags().StringVarP(&f.region, "region", "r", "", "region of the copy (default: that of the volume)")
	return c
}

func volumesExtendCmd(e *env) *cobra.Command {
	size := 0
	c := &cobra.Command{
		Use: "extend ID --size GB", Short: "Make a volume larger", Args: exactArgs("ID"), Example: "  perigee volumes extend vol_4xm1vzq6p2d8n0rk3 --size 20", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			if size == 0 {
				return hint(usagef("how large is it to be?"), "add --size GB")
			}
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				r, err := client.ExtendVolume(ctx, app, id, size)
				switch {
				case err != nil:
					return err
				case e.json:
					return e.printJSON(r)
				case r.NeedsRestart:
					return e.did("%s has %d GB once machine %s is restarted: perigee machine restart %[3]s", id, r.Volume.SizeGB, deref(r.Volume.AttachedMachineID))
				}
				return e.did("%s has %d GB", id, r.Volume.SizeGB)
			})
		},
	}
	c.Flags().IntVarP(&size, "size", "s", 0, "the new size in GB")
	return c
}

func volumesUpdateCmd(e *env) *cobra.Command {
	var f volumeFlags
	c := &cobra.Command{
		Use: "update ID", Short: "Change how long a volume's snapshots are kept, and whether one is taken each day", Args: exactArgs("ID"),
		Example: "  perigee volumes update vol_4xm1vzq6p2d8n0rk3 --snapshot-retention 14\n  perigee volumes update vol_4xm1vzq6p2d8n0rk3 --scheduled-snapshots=false", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			made := f.request(c, "")
			req := api.UpdateVolumeRequest{SnapshotRetention: made.SnapshotRetention, AutoBackupEnabled: made.AutoBackupEnabled}
			if req == (api.UpdateVolumeRequest{}) {
				return hint(usagef("nothing is to be changed"), "give --snapshot-retention or --scheduled-snapshots")
			}
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				v, err := client.UpdateVolume(ctx, app, id, req)
				if err != nil {
					return err
				}
				return e.showVolume(v)
			})
		},
	}
	c.Flags().IntVar(&f.retention, "snapshot-retention", 0, "days that snapshots are kept, 1 to 60")
	c.Flags().BoolVar(&f.backups, "scheduled-snapshots", true, "take a snapshot each day")
	return c
}

func volumesDestroyCmd(e *env) *cobra.Command {
	var yes, now bool
	c := &cobra.Command{
		Use: "destroy ID ...", Aliases: []string{"delete", "rm"}, Short: "Destroy volumes that no machine has; for a day they can be had back", Args: cobra.MinimumNArgs(1),
		Example: "  perigee volumes destroy vol_4xm1vzq6p2d8n0rk3 --yes", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			if err := e.confirm(yes, "destroy "+count(len(args), "volume")+": "+strings.Join(args, ", ")); err != nil {
				return err
			}
			for _, arg := range args {
				err := e.onVolume(c, arg, func(ctx context.Context, client *api.Client, app, id string) error {
					v, err := client.DestroyVolume(ctx, app, id, now)
					switch {
					case err != nil:
						return err
					case e.json:
						return e.printJSON(v)
					case v.DestroyAt != nil && !now:
						return e.did("%s is gone on %s; until then perigee volumes keep %[1]s has it back", id, v.DestroyAt.Local().Format(time.DateTime))
					}
					return e.did("destroyed %s", id)
				})
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&now, "now", false, "for good, at once; snapshots stay for as long as they are kept")
	return c
}

func volumesKeepCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "keep ID", Aliases: []string{"undestroy"}, Short: "Have a volume back that was destroyed less than a day ago", Args: exactArgs("ID"), Long: `Have a volume back that was destroyed less than a day ago.

An owner of the org gives the app one of an app that was destroyed; later than a day
after that it is the snapshots alone. perigee volumes list --org ORG --all has them.`,
		Example: "  perigee volumes keep vol_4xm1vzq6p2d8n0rk3\n  perigee volumes keep vol_4xm1vzq6p2d8n0rk3 --app shop-again", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				v, err := client.KeepVolume(ctx, app, id)
				if err != nil {
					return err
				}
				return e.showVolume(v)
			})
		},
	}
}

func snapshotsListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list VOLUME", Aliases: []string{"ls"}, Short: "List a volume's snapshots, newest first; also those of a destroyed one", Args: exactArgs("VOLUME"),
		Example: "  perigee volumes snapshots list vol_4xm1vzq6p2d8n0rk3", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				all, err := client.ListSnapshots(ctx, app, id)
				if err != nil {
					return err
				}
				if e.json {
					return e.printJSON(all)
				}
				rows := make([][]string, len(all))
				for i, s := range all {
					rows[i] = []string{s.ID, cmp.Or(s.Status, "-"), bytesText(s.Size), keptText(s), ago(s.CreatedAt)}
				}
				return e.table([]string{"ID", "STATUS", "SIZE", "KEPT", "CREATED"}, rows)
			})
		},
	}
}

func keptText(s api.VolumeSnapshot) string {
	if s.RetentionDays == nil {
		return ""
	}
	return "until " + s.CreatedAt.AddDate(0, 0, *s.RetentionDays).Local().Format(time.DateOnly)
}

func snapshotsCreateCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "create VOLUME", Short: "Take a snapshot, and wait until it is stored", Args: exactArgs("VOLUME"), Example: "  perigee volumes snapshots create vol_4xm1vzq6p2d8n0rk3", ValidArgsFunction: e.completeVolumes,
		RunE: func(c *cobra.Command, args []string) error {
			return e.onVolume(c, args[0], func(ctx context.Context, client *api.Client, app, id string) error {
				s, err := client.CreateSnapshot(ctx, app, id)
				if err != nil {
					return err
				}
				if !e.json {
					fmt.Fprintf(e.Err, "· copied; storing %s\n", s.ID)
				}
				if s, err = awaitSnapshot(ctx, client, app, id, s); err != nil {
					return err
				}
				if e.json {
					return e.printJSON(s)
				}
				return e.did("snapshot %s of %s: %s", s.ID, id, bytesText(s.Size))
			})
		},
	}
}

// awaitSnapshot returns when the snapshot is stored.
func awaitSnapshot(ctx context.Context, client *api.Client, app, volume string, s api.VolumeSnapshot) (api.VolumeSnapshot, error) {
	for rest := 50 * time.Millisecond; s.Status == api.SnapshotCreating; rest = min(2*rest, time.Second) {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return s, ctx.Err()
		}
		all, err := client.ListSnapshots(ctx, app, volume)
		if err != nil {
			return s, err
		}
		found := false
		for _, o := range all {
			if o.ID == s.ID {
				s, found = o, true
			}
		}
		if !found {
			return s, api.Errorf(api.CodeNotFound, "snapshot %s is not there any more", s.ID)
		}
	}
	if s.Status == api.SnapshotFailed {
		return s, api.Errorf(api.CodeInternal, "snapshot %s failed: %s", s.ID, s.Reason)
	}
	return s, nil
}
