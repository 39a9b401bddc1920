package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func statusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show an app and its machines; without an app, the node", Args: noArgs,
		Example: "  perigee status\n  perigee status --app shop --json",
		RunE: func(c *cobra.Command, _ []string) error {
			name, err := e.appName()
			if err != nil && e.app == "" && e.config == "" {
				return e.showNode(c.Context(), "")
			}
			if err != nil {
				return err
			}
			return e.status(c.Context(), name)
		},
	}
}

type appStatus struct {
	App      api.App       `json:"app"`
	Machines []api.Machine `json:"machines"`
}

func (e *env) status(ctx context.Context, name string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	app, err := client.GetApp(ctx, name)
	if err != nil {
		return e.explain(err)
	}
	machines, err := client.ListMachines(ctx, name)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(appStatus{app, machines})
	}
	e.facts("app", app.Name, "status", app.Status, "release", versionText(app.Release), "address", app.URL, "also at", strings.Join(app.Hosts, ", "), "machines", placesText(machines))
	fmt.Fprintln(e.Out)
	return e.machineTable(machines)
}

// machineTable lists machines by region, in each the oldest first.
func (e *env) machineTable(machines []api.Machine) error {
	slices.SortFunc(machines, func(a, b api.Machine) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	rows := make([][]string, len(machines))
	for i, m := range machines {
		rows[i] = []string{m.ID, m.Name, group(m), stateText(m), regionText(m.Region, m.HomeRegion), m.Node, versionText(m.Release), checksText(m.Checks), imageText(m.ImageRef), ago(m.UpdatedAt)}
	}
	return e.table([]string{"ID", "NAME", "GROUP", "STATE", "REGION", "NODE", "RELEASE", "CHECKS", "IMAGE", "UPDATED"}, rows)
}

// stateText is the machine's state; of one whose node cannot be asked, the last
// that was heard of. One that is cordoned gets no requests, whatever its state.
func stateText(m api.Machine) string {
	if m.HostStatus == "unreachable" || m.HostStatus == "unknown" {
		return m.State + " (" + m.HostStatus + ")"
	}
	if m.Cordoned {
		return m.State + " (cordoned)"
	}
	return m.State
}

// regionText is the region that a machine is in, and the one it stands in for, if any.
func regionText(region, home string) string {
	if home == "" {
		return region
	}
	return region + " for " + home
}

// placesText sums up where machines are: "3 in fra, 1 in iad".
func placesText(machines []api.Machine) string {
	in := map[string]int{}
	for _, m := range machines {
		in[regionText(m.Region, m.HomeRegion)]++
	}
	var words []string
	for _, r := range slices.Sorted(maps.Keys(in)) {
		words = append(words, fmt.Sprintf("%d in %s", in[r], r))
	}
	return strings.Join(words, ", ")
}

func group(m api.Machine) string {
	if m.Config == nil {
		return ""
	}
	return m.Config.Metadata["fly_process_group"]
}

// checksText sums checks up: "2/2 passing", or the first that is not.
func checksText(checks []api.CheckStatus) string {
	if len(checks) == 0 {
		return "-"
	}
	passing, worst := 0, ""
	for _, c := range checks {
		if c.Status == "passing" {
			passing++
		} else if worst == "" {
			worst = c.Status
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%d/%d passing %s", passing, len(checks), worst))
}

func imageText(r api.ImageRef) string {
	s := r.Repository
	if r.Tag != "" {
		return s + ":" + r.Tag
	}
	if _, hex, ok := strings.Cut(r.Digest, ":"); ok && len(hex) >= 12 {
		return s + "@" + hex[:12]
	}
	return s
}
