package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func logsCmd(e *env) *cobra.Command {
	var q api.LogQuery
	var since time.Duration
	c := &cobra.Command{
		Use: "logs", Short: "Show what the app's machines say", Args: noArgs,
		Example: "  perigee logs -f\n  perigee logs --machine 3d8d7 --lines 500\n  perigee logs --since 1h --json",
		RunE: func(c *cobra.Command, _ []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			if since > 0 {
				q.Since = time.Now().Add(-since)
			}
			for line, err := range client.Logs(c.Context(), app, q) {
				if err != nil {
					return e.explain(brokenOff(err))
				}
				e.logLine(line)
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVarP(&q.Follow, "follow", "f", false, "go on with what is said from now on")
	f.IntVarP(&q.Lines, "lines", "n", 100, "how many past lines to begin with")
	f.StringVarP(&q.Machine, "machine", "m", "", "only this machine")
	f.StringVarP(&q.Region, "region", "r", "", "only machines in this region")
	f.DurationVar(&since, "since", 0, "only lines of the last while, such as 10m")
	return c
}

func (e *env) logLine(l api.LogLine) {
	if e.json {
		json.NewEncoder(e.Out).Encode(l)
		return
	}
	who := l.Machine
	if l.Source == "platform" {
		who += " " + e.paint(yellow, "platform")
	}
	text := l.Text // a script has it as it was said
	if tty(e.Out) {
		text = coloured(text)
	}
	fmt.Fprintf(e.Out, "%s %s[%s] %s\n", e.paint(dim, l.Time.Local().Format("2006-01-02T15:04:05.000")), l.Region, who, text)
}
