package cli

import (
	"fmt"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"
)

func openCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "open", Short: "Open the app in a browser", Args: noArgs, Example: "  perigee open --app shop",
		RunE: func(c *cobra.Command, _ []string) error {
			client, name, err := e.forApp()
			if err != nil {
				return err
			}
			app, err := client.GetApp(c.Context(), name)
			if err != nil {
				return e.explain(err)
			}
			if app.URL == "" {
				return hint(fmt.Errorf("app %s has no public address", name), "give it an [http_service] and deploy")
			}
			fmt.Fprintln(e.Out, app.URL)
			opener := map[string]string{"linux": "xdg-open", "darwin": "open", "windows": "explorer"}[runtime.GOOS]
			if p, err := exec.LookPath(opener); err == nil && tty(e.Out) {
				return exec.Command(p, app.URL).Start()
			}
			return nil
		},
	}
}

func hostsCmd(e *env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the app's names", Args: noArgs, Example: "  perigee hosts list",
		RunE: func(c *cobra.Command, _ []string) error {
			client, name, err := e.forApp()
			if err != nil {
				return err
			}
			app, err := client.GetApp(c.Context(), name)
			if err != nil {
				return e.explain(err)
			}
			hosts := append([]string{app.Hostname}, app.Hosts...)
			if e.json {
				return e.printJSON(hosts)
			}
			for _, h := range hosts {
				fmt.Fprintln(e.Out, h)
			}
			return nil
		}}
	add := &cobra.Command{Use: "add NAME", Short: "Let the app answer to a name of your own", Args: exactArgs("NAME"), Example: "  perigee hosts add shop.example.com",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			if err := client.AddHost(c.Context(), app, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("%s answers to %s; point the name's DNS records here", app, args[0])
		}}
	remove := &cobra.Command{Use: "remove NAME", Aliases: []string{"rm"}, Short: "Stop answering to a name", Args: exactArgs("NAME"), Example: "  perigee hosts remove shop.example.com",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			if err := client.RemoveHost(c.Context(), app, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("%s no longer answers to %s", app, args[0])
		}}
	return parent("hosts", "Names that the app answers to", nil, list, add, remove)
}
