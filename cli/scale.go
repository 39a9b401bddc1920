package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/exit"
	"github.com/spf13/cobra"
)

func scaleCmd(e *env) *cobra.Command {
	var processGroup string
	var regions []string
	count := &cobra.Command{Use: "count N [GROUP=N ...]", Short: "Change how many machines run", Long: `Change how many machines of a process group run, in all regions together.

With --region the number is spread evenly over the regions named, and the other
regions keep what they have. Without it, machines come to the regions that have
fewest, and go from those that have most. New machines serve before old ones go.`,
		Example: "  perigee scale count 3\n  perigee scale count web=2 worker=1\n  perigee scale count 6 --region fra,syd\n  perigee scale count 0 --region gru",
		RunE: func(c *cobra.Command, args []string) error {
			counts, err := parseCounts(args, processGroup)
			if err == nil && c.Flags().Changed("region") && len(regions) == 0 {
				err = usagef("--region names no region; leave it out to scale where the app is")
			}
			if err != nil {
				return err
			}
			return e.scale(c.Context(), api.ScaleRequest{Counts: counts, Regions: regions})
		}}
	count.Flags().StringVar(&processGroup, "group", "", "process group (default: app)")
	count.Flags().StringSliceVarP(&regions, "region", "r", nil, "regions to spread the machines over, with commas between (default: where the app is)")
	memory := &cobra.Command{Use: "memory MIB", Short: "Change the machines' memory", Args: exactArgs("MIB"), Example: "  perigee scale memory 512",
		RunE: func(c *cobra.Command, args []string) error {
			mb, err := parseMemory(args[0])
			if err != nil {
				return err
			}
			return e.scale(c.Context(), api.ScaleRequest{Group: processGroup, MemoryMB: mb})
		}}
	memory.Flags().StringVar(&processGroup, "group", "", "process group (default: all)")
	cpus := &cobra.Command{Use: "cpus N", Short: "Change the machines' processors", Args: exactArgs("N"), Example: "  perigee scale cpus 2",
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 {
				return usagef("%q is not a number of processors, such as 2", args[0])
			}
			return e.scale(c.Context(), api.ScaleRequest{Group: processGroup, CPUs: n})
		}}
	cpus.Flags().StringVar(&processGroup, "group", "", "process group (default: all)")
	show := &cobra.Command{Use: "show", Short: "Show counts and sizes", Args: noArgs, Example: "  perigee scale show",
		RunE: func(c *cobra.Command, _ []string) error { return e.scaleShow(c.Context()) }}
	return parent("scale", "Change the number and size of machines", nil, count, memory, cpus, show)
}

func parseCounts(args []string, group string) (map[string]int, error) {
	if len(args) == 0 {
		return nil, hint(usagef("perigee scale count needs a number"), "for example: perigee scale count 2")
	}
	counts := map[string]int{}
	for _, a := range args {
		g, n, ok := strings.Cut(a, "=")
		if !ok {
			g, n = first(group, "app"), a
		}
		v, err := strconv.Atoi(n)
		if err != nil || v < 0 {
			return nil, usagef("%q is not a number of machines, such as 2 or web=2", a)
		}
		if _, twice := counts[g]; twice {
			return nil, usagef("process group %q is there twice", g)
		}
		counts[g] = v
	}
	return counts, nil
}

func parseMemory(s string) (int, error) {
	t, factor := strings.ToLower(s), 1
	for suffix, f := range map[string]int{"mb": 1, "gb": 1024, "m": 1, "g": 1024} {
		if v, ok := strings.CutSuffix(t, suffix); ok {
			t, factor = v, f
			break
		}
	}
	n, err := strconv.Atoi(t)
	if err != nil || n < 1 {
		return 0, usagef("%q is not a memory size, such as 512, 512mb or 1gb", s)
	}
	return n * factor, nil
}

func (e *env) scale(ctx context.Context, req api.ScaleRequest) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	return e.stream(ctx, client, app, client.Scale(ctx, app, req))
}

// stream shows a deploy's progress to its end.
func (e *env) stream(ctx context.Context, c *api.Client, app string, seq progressSeq) error {
	began := time.Now()
	rel, err := e.follow(ctx, c, app, seq, e.newProgress())
	if err != nil {
		if err = e.explain(err); exitCode(err) == exit.Failure { // whatever it was that stopped it, what was before goes on
			return coded{err, exit.Deploy}
		}
		return err
	}
	return e.deployed(ctx, c, rel, time.Since(began))
}

func (e *env) scaleShow(ctx context.Context) error {
	client, app, err := e.forApp()
	if err != nil {
		return err
	}
	machines, err := client.ListMachines(ctx, app)
	if err != nil {
		return e.explain(err)
	}
	type row struct {
		Group      string `json:"group"`
		Region     string `json:"region"`
		HomeRegion string `json:"home_region,omitempty"`
		Count      int    `json:"count"`
		CPUs       int    `json:"cpus"`
		MemoryMB   int    `json:"memory_mb"`
	}
	var rows []row
	index := map[string]int{}
	for _, m := range machines {
		r := row{Group: group(m), Region: m.Region, HomeRegion: m.HomeRegion, Count: 1}
		if m.Config != nil && m.Config.Guest != nil {
			r.CPUs, r.MemoryMB = m.Config.Guest.CPUs, m.Config.Guest.MemoryMB
		}
		key := fmt.Sprint(r)
		if i, ok := index[key]; ok {
			rows[i].Count++
			continue
		}
		index[key] = len(rows)
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Region, b.Region), cmp.Compare(a.MemoryMB, b.MemoryMB))
	})
	if e.json {
		return e.printJSON(rows)
	}
	out := make([][]string, len(rows))
	for i, r := range rows {
		out[i] = []string{r.Group, regionText(r.Region, r.HomeRegion), strconv.Itoa(r.Count), strconv.Itoa(r.CPUs), strconv.Itoa(r.MemoryMB) + " MiB"}
	}
	return e.table([]string{"GROUP", "REGION", "COUNT", "CPUS", "MEMORY"}, out)
}
