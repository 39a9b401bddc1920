package cli

import (
	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

func ipsCmd(e *env) *cobra.Command {
	return parent("ips", "Addresses that belong to the app alone", []string{"ip"}, ipsListCmd(e),
		ipsAllocateCmd(e, "v4"), ipsAllocateCmd(e, "v6"), ipsReleaseCmd(e))
}

func ipsListCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the addresses of the app's own", Args: noArgs, Example: "  perigee ips list",
		RunE: func(c *cobra.Command, _ []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			ips, err := client.ListIPs(c.Context(), app)
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(ips)
			}
			rows := make([][]string, len(ips))
			for i, a := range ips {
				rows[i] = []string{a.IP, a.Type, a.Region, ago(a.CreatedAt)}
			}
			return e.table([]string{"ADDRESS", "TYPE", "REGION", "ALLOCATED"}, rows)
		},
	}
}

func ipsAllocateCmd(e *env, kind string) *cobra.Command {
	private := false
	c := &cobra.Command{
		Use: "allocate-" + kind, Short: "Give the app an IP" + kind + " address of its own", Args: noArgs, Example: "  perigee ips allocate-" + kind,
		RunE: func(c *cobra.Command, _ []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			allocated := kind
			if private {
				allocated = "private_v6"
			}
			a, err := client.AllocateIP(c.Context(), app, api.AllocateIPRequest{Type: allocated})
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(a)
			}
			if private {
				return e.did("%s answers its organization at %s, %s.flycast", app, a.IP, app)
			}
			return e.did("%s answers at %s", app, a.IP)
		},
	}
	if kind == "v6" {
		c.Flags().BoolVar(&private, "private", false, "show the private one, which every app has: that of <app>.flycast")
	}
	return c
}

func ipsReleaseCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "release ADDRESS", Short: "Take an address from the app", Args: exactArgs("ADDRESS"), Example: "  perigee ips release 203.0.113.7",
		RunE: func(c *cobra.Command, args []string) error {
			client, app, err := e.forApp()
			if err != nil {
				return err
			}
			if err := client.ReleaseIP(c.Context(), app, args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("released %s", args[0])
		},
	}
}
