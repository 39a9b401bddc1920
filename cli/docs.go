package cli

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// docsCmd writes the command reference; docs/cli is made with it and a test
// compares the two.
func docsCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "docs FOLDER", Short: "Write the command reference as Markdown", Args: exactArgs("FOLDER"), Hidden: true,
		RunE: func(c *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			return doc.GenMarkdownTree(root, args[0])
		},
	}
}
