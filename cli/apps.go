package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func appsCmd(e *env) *cobra.Command {
	return parent("apps", "List, create and destroy apps", []string{"app"}, appsListCmd(e), appsCreateCmd(e), appsDestroyCmd(e))
}

func appsListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the apps", Args: noArgs, Example: "  perigee apps list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			apps, err := client.ListApps(c.Context())
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(apps)
			}
			rows := make([][]string, len(apps))
			for i, a := range apps {
				rows[i] = []string{a.Name, a.Status, strconv.Itoa(a.MachineCount), versionText(a.Release), a.URL}
			}
			return e.table([]string{"NAME", "STATUS", "MACHINES", "RELEASE", "ADDRESS"}, rows)
		},
	}
}

func versionText(v int) string {
	if v == 0 {
		return "-"
	}
	return "v" + strconv.Itoa(v)
}

func appsCreateCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "create NAME", Short: "Create an app", Args: exactArgs("NAME"), Example: "  perigee apps create shop",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			r, err := client.CreateApp(c.Context(), api.CreateAppRequest{AppName: args[0]})
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(r)
			}
			fmt.Fprintf(e.Out, "%s created app %s\n", e.paint(green, "✓"), args[0])
			return nil
		},
	}
}

func appsDestroyCmd(e *env) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "destroy NAME", Short: "Destroy an app with its machines, releases and secrets", Args: exactArgs("NAME"), Example: "  perigee apps destroy shop --yes",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if _, err := client.GetApp(c.Context(), args[0]); err != nil {
				return e.explain(err)
			}
			if err := e.confirm(yes, "destroy app "+args[0]+" with all its machines"); err != nil {
				return err
			}
			if err := client.DeleteApp(c.Context(), args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("destroyed app %s", args[0])
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// confirm asks before something that cannot be undone.
func (e *env) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	if !e.asks() {
		return hint(usagef("will not %s without being told twice", what), "add --yes")
	}
	fmt.Fprintf(e.Err, "Really %s? [y/N] ", what)
	var answer string
	fmt.Fscanln(e.In, &answer)
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return usagef("nothing was done")
	}
	return nil
}

// did says what was done: a line, or {"ok":true} as JSON.
func (e *env) did(format string, a ...any) error {
	if e.json {
		return e.printJSON(map[string]any{"ok": true, "message": fmt.Sprintf(format, a...)})
	}
	_, err := fmt.Fprintf(e.Out, "%s %s\n", e.paint(green, "✓"), plainText(fmt.Sprintf(format, a...)))
	return err
}
