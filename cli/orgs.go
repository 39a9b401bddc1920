package cli

import (
	"context"
	"strconv"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

// forOrg adds --org to a command.
func forOrg(c *cobra.Command, org *string) {
	c.Flags().StringVarP(org, "org", "o", defaultOrg, "org")
}

func orgsCmd(e *env) *cobra.Command {
	list := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the orgs that you see", Args: noArgs, Example: "  perigee orgs list",
		RunE: func(c *cobra.Command, _ []string) error { return e.listOrgs(c.Context()) }}
	show := &cobra.Command{Use: "show ORG", Short: "Show an org", Args: exactArgs("ORG"), Example: "  perigee orgs show acme",
		RunE: func(c *cobra.Command, args []string) error { return e.showOrg(c.Context(), args[0]) }}
	create := &cobra.Command{Use: "create ORG", Short: "Make an org; with the cloud's own token", Args: exactArgs("ORG"), Example: "  sudo perigee orgs create acme",
		RunE: func(c *cobra.Command, args []string) error { return e.createOrg(c.Context(), args[0]) }}
	return parent("orgs", "Owners of apps: each has one private network, which others cannot reach", []string{"org"}, list, show, create)
}

func (e *env) listOrgs(ctx context.Context) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	orgs, err := client.ListOrgs(ctx)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(orgs)
	}
	rows := make([][]string, len(orgs))
	for i, o := range orgs {
		rows[i] = []string{o.Slug, strconv.Itoa(o.Apps), first(ago(o.CreatedAt), "-")}
	}
	return e.table([]string{"ORG", "APPS", "CREATED"}, rows)
}

func (e *env) showOrg(ctx context.Context, slug string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	o, err := client.GetOrg(ctx, slug)
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(o)
	}
	return e.facts("org", o.Slug, "apps", strconv.Itoa(o.Apps), "created", ago(o.CreatedAt))
}

func (e *env) createOrg(ctx context.Context, slug string) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	o, err := client.CreateOrg(ctx, api.CreateOrgRequest{Slug: slug})
	if err != nil {
		return e.explain(err)
	}
	if e.json {
		return e.printJSON(o)
	}
	return e.did("made org %s", o.Slug)
}
