package cli

import "github.com/spf13/cobra"

// completeApps offers the names of the apps, for the shell's completion.
func (e *env) completeApps(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	client, err := e.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	apps, err := client.ListApps(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(apps))
	for i, a := range apps {
		names[i] = a.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
