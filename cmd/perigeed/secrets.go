package main

import (
	"fmt"
	"path/filepath"

	"github.com/perigee-run/perigee/app/keyfile"
	"github.com/spf13/cobra"
)

// secretsCommand changes how the key of the secrets lies on the disk. A node that
// runs has it in memory: what changes is what it needs to start again.
func secretsCommand() *cobra.Command {
	c := &cobra.Command{Use: "secrets", Short: "Wrap the key of the secrets with age, or put it there as it is", Args: cobra.NoArgs}
	var data, identity string
	var to []string
	wrap := &cobra.Command{
		Use: "wrap", Short: "Encrypt the key file for age recipients; on every node", Args: cobra.NoArgs,
		Example: "  perigeed secrets wrap --data /var/lib/perigee --recipient age1…",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := keyfile.Wrap(filepath.Join(data, "secrets.key"), identity, to...); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "wrapped; from now on start perigeed with --secrets-identity FILE")
			return nil
		},
	}
	wrap.Flags().StringSliceVar(&to, "recipient", nil, "who can open it: age1…, or a plugin's; repeated")
	unwrap := &cobra.Command{
		Use: "unwrap", Short: "Put the key there as it is, readable by root alone", Args: cobra.NoArgs,
		Example: "  perigeed secrets unwrap --identity /run/credentials/perigee/identity",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := keyfile.Unwrap(filepath.Join(data, "secrets.key"), identity); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), "unwrapped; --secrets-identity is not needed any more")
			return nil
		},
	}
	for _, sub := range []*cobra.Command{wrap, unwrap} {
		sub.Flags().StringVar(&data, "data", "/var/lib/perigee", "directory of the node's whole state")
		sub.Flags().StringVar(&identity, "identity", "", "file of age identities that open it now")
	}
	c.AddCommand(wrap, unwrap)
	return c
}
