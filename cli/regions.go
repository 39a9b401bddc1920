package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func regionsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "regions", Short: "List the regions that have nodes; with --app, where the app is", Args: noArgs,
		Long: `List the regions that have nodes; with --app, where the app is. ROOM FOR is how
many more machines of 256 MiB the nodes that are up may be promised.`,
		Example: "  perigee regions\n  perigee regions --app shop --json",
		RunE:    func(c *cobra.Command, _ []string) error { return e.regions(c.Context()) },
	}
}

func (e *env) regions(ctx context.Context) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	list, err := client.Regions(ctx, e.app)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(list)
	}
	rows := make([][]string, len(list.Regions))
	for i, r := range list.Regions {
		code := r.Code
		if code == list.Nearest && len(list.Regions) > 1 {
			code += " (nearest)"
		}
		rows[i] = []string{code, r.Name, fmt.Sprintf("%d/%d up", r.NodesUp, r.Nodes), strconv.Itoa(r.Machines), strconv.Itoa(r.Capacity)}
	}
	return e.table([]string{"REGION", "CITY", "NODES", "MACHINES", "ROOM FOR"}, rows)
}
