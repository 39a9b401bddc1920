package cli

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/spf13/cobra"
)

type progressSeq = iter.Seq2[api.Progress, error]

func releasesCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "releases", Short: "List the app's releases, newest first", Args: noArgs, Example: "  perigee releases --json",
		RunE: func(c *cobra.Command, _ []string) error {
			releases, err := e.releases(c.Context())
			if err != nil {
				return err
			}
			if e.json {
				return e.printJSON(releases)
			}
			rows := make([][]string, len(releases))
			for i, r := range releases {
				rows[i] = []string{versionText(r.Version), r.Status, shortImage(r.Image), first(r.Description, r.Reason), ago(r.CreatedAt)}
			}
			return e.table([]string{"VERSION", "STATUS", "IMAGE", "DESCRIPTION", "CREATED"}, rows)
		},
	}
}

func (e *env) releases(ctx context.Context) ([]api.Release, error) {
	client, app, err := e.forApp()
	if err != nil {
		return nil, err
	}
	releases, err := client.ListReleases(ctx, app)
	sort.Slice(releases, func(i, j int) bool { return releases[i].Version > releases[j].Version })
	return releases, e.explain(err)
}

func shortImage(ref string) string {
	name, digest, ok := strings.Cut(ref, "@sha256:")
	if !ok || len(digest) < 12 {
		return ref
	}
	return name + "@" + digest[:12]
}

func rollbackCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "rollback [VERSION]", Short: "Deploy an older release again", Args: maxArgs(1),
		Long:    "Deploy an older release again, as a new one: the one before the newest complete release, or the version named.",
		Example: "  perigee rollback\n  perigee rollback v3",
		RunE: func(c *cobra.Command, args []string) error {
			releases, err := e.releases(c.Context())
			if err != nil {
				return err
			}
			target, err := rollbackTarget(releases, args)
			if err != nil {
				return err
			}
			client, err := e.client()
			if err != nil {
				return err
			}
			app, err := e.appName()
			if err != nil {
				return err
			}
			return e.stream(c.Context(), client, app, client.Deploy(c.Context(), app, api.DeployRequest{FromVersion: target, Description: fmt.Sprintf("rollback to v%d", target)}))
		},
	}
}

// rollbackTarget chooses the release to go back to among releases, newest
// first.
func rollbackTarget(releases []api.Release, args []string) (int, error) {
	if len(args) == 1 {
		v, err := strconv.Atoi(strings.TrimPrefix(args[0], "v"))
		if err != nil {
			return 0, usagef("%q is not a release, such as v3; perigee releases lists them", args[0])
		}
		return v, nil
	}
	complete := 0
	for _, r := range releases {
		if r.Status != api.ReleaseComplete {
			continue
		}
		if complete++; complete == 2 {
			return r.Version, nil
		}
	}
	return 0, hint(fmt.Errorf("there is no older complete release to go back to"), "perigee releases lists them")
}
