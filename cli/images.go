package cli

import (
	"github.com/spf13/cobra"
)

func imagesCmd(e *env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the images on the node", Args: noArgs, Example: "  perigee images list",
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			images, err := client.ListImages(c.Context())
			if err != nil {
				return e.explain(err)
			}
			if e.json {
				return e.printJSON(images)
			}
			rows := make([][]string, len(images))
			for i, img := range images {
				used := "-"
				if img.InUse {
					used = "yes"
				}
				rows[i] = []string{shortImage(img.Ref), img.Digest, bytesText(img.Size), used, ago(img.LastUsed)}
			}
			return e.table([]string{"IMAGE", "DIGEST", "SIZE", "IN USE", "LAST USED"}, rows)
		}}
	pull := &cobra.Command{Use: "pull IMAGE", Short: "Bring an image to the node ahead of need", Args: exactArgs("IMAGE"), Example: "  perigee images pull nginx:1.27",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			ref, err := e.newProgress().image(client.PullImage(c.Context(), args[0]))
			if err != nil {
				return e.explain(err)
			}
			return e.did("%s is on the node", ref)
		}}
	remove := &cobra.Command{Use: "remove DIGEST", Aliases: []string{"rm"}, Short: "Remove an image that no machine uses", Args: exactArgs("DIGEST"), Example: "  perigee images remove sha256:…",
		RunE: func(c *cobra.Command, args []string) error {
			client, err := e.client()
			if err != nil {
				return err
			}
			if err := client.DeleteImage(c.Context(), args[0]); err != nil {
				return e.explain(err)
			}
			return e.did("removed %s", args[0])
		}}
	return parent("images", "Images that the node keeps", []string{"image"}, list, pull, remove)
}
