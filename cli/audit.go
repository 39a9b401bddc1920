package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

// auditEvery is how often new entries are asked for with -f: they lie with all
// nodes, and none tells of them by itself.
const auditEvery = 2 * time.Second

func auditCmd(e *env) *cobra.Command {
	var q auditQuery
	c := &cobra.Command{Use: "audit", Short: "Show who changed what, ran commands, opened sessions, or was refused", Args: noArgs,
		Example: "  perigee audit\n  perigee audit --app shop --since 24h --limit 1000\n  sudo perigee audit --all -f",
		RunE:    func(c *cobra.Command, _ []string) error { return e.showAudit(c.Context(), q) }}
	forOrg(c, &q.org)
	f := c.Flags()
	f.BoolVar(&q.all, "all", false, "all orgs, and the cloud itself; with the cloud's own token")
	f.DurationVar(&q.since, "since", 0, "only what is younger, such as 24h")
	f.IntVarP(&q.limit, "limit", "n", 100, "at most so many, the newest")
	f.BoolVarP(&q.follow, "follow", "f", false, "go on with new entries")
	return c
}

type auditQuery struct {
	org         string
	all, follow bool
	since       time.Duration
	limit       int
}

func (e *env) showAudit(ctx context.Context, q auditQuery) error {
	if q.limit < 1 || q.limit > 10_000 || q.since < 0 {
		return usagef("--limit is 1 to 10000, and --since no time before now")
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	if q.all {
		q.org = ""
	}
	ask := api.AuditQuery{App: e.app, Limit: q.limit}
	if q.since > 0 {
		ask.Since = time.Now().Add(-q.since)
	}
	shown := map[string]bool{}
	for {
		list, err := client.Audit(ctx, q.org, ask)
		if err != nil {
			return e.explain(err)
		}
		if e.json && !q.follow {
			return e.printJSON(list)
		}
		if err := e.printAudit(list, shown, q.follow); err != nil || !q.follow {
			return err
		}
		// A little is asked for again: the nodes' clocks differ.
		ask.Since, ask.Limit = time.Now().Add(-10*auditEvery), 10_000
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(auditEvery):
		}
	}
}

// printAudit prints what was not printed yet, oldest first.
func (e *env) printAudit(list api.AuditList, shown map[string]bool, follow bool) error {
	slices.Reverse(list.Entries)
	var rows [][]string
	for _, a := range list.Entries {
		key := a.Time.String() + strconv.Itoa(a.Status) + a.Request + a.Operation + a.Machine
		if shown[key] {
			continue
		}
		shown[key] = true
		if e.json {
			if err := e.printJSON(a); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, auditRow(a))
	}
	for _, n := range list.Missing {
		fmt.Fprintf(e.Err, "%s node %q does not answer: what it recorded is not here\n", e.paint(yellow, "warning:"), n)
	}
	if e.json {
		return nil
	}
	if !follow {
		return e.table([]string{"TIME", "WHO", "OPERATION", "APP", "MACHINE", "STATUS", "FROM", "NODE"}, rows)
	}
	for _, r := range rows {
		if _, err := fmt.Fprintln(e.Out, plain(strings.Join(r, "  "))); err != nil {
			return err
		}
	}
	return nil
}

func auditRow(a api.AuditEntry) []string {
	status := strconv.Itoa(a.Status)
	if a.Status == 0 {
		status = "began"
	}
	if a.Code != "" {
		status += " " + a.Code
	}
	return []string{a.Time.Local().Format("2006-01-02 15:04:05"), first(a.Who, "nobody"), a.Operation, first(a.App, "-"), first(a.Machine, "-"), status, first(a.From, "-"), a.Node}
}
