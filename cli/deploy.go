package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/appconfig"
	"github.com/perigee-run/perigee/build/buildcontext"
	"github.com/spf13/cobra"
)

type deployFlags struct {
	dir         string
	image       string
	dockerfile  string
	target      string
	buildArgs   []string
	noCache     bool
	strategy    string
	waitTimeout time.Duration
	description string
	count       int
	regions     []string
}

func deployCmd(e *env) *cobra.Command {
	var f deployFlags
	c := &cobra.Command{
		Use: "deploy [FOLDER]", Short: "Build and run a new release of the app", Args: maxArgs(1),
		Long: `Build the folder's Dockerfile, or take an image, and run it as a new release.

The deploy is rolling: new machines start beside the old ones, must pass their
checks, and only then take over. When one does not, the deploy fails at once
with the app's own last lines, and the old release goes on serving.

--image takes a reference (nginx:1.27), an archive made by docker save or
another tool (app.tar), or the folder of an OCI layout.`,
		Example: `  perigee deploy
  perigee deploy ./shop --build-arg VERSION=1.2
  perigee deploy --image registry.example.com/shop@sha256:…
  perigee deploy --image shop.tar --strategy immediate`,
		RunE: func(c *cobra.Command, args []string) error {
			f.dir = "."
			if len(args) == 1 {
				f.dir = args[0]
			}
			return e.deploy(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringVarP(&f.image, "image", "i", "", "reference, archive or OCI layout to run instead of building")
	fl.StringVar(&f.dockerfile, "dockerfile", "", "path of the Dockerfile (default: the configuration's, else Dockerfile)")
	fl.StringVar(&f.target, "target", "", "stage of the Dockerfile to build (default: the last)")
	fl.StringArrayVar(&f.buildArgs, "build-arg", nil, "NAME=VALUE for the Dockerfile's ARG, many times")
	fl.BoolVar(&f.noCache, "no-cache", false, "run every build step again")
	fl.StringVar(&f.strategy, "strategy", "", "rolling, immediate, canary or bluegreen")
	fl.DurationVar(&f.waitTimeout, "wait-timeout", 0, "how long each machine may take to pass its checks (default 5m)")
	fl.StringVarP(&f.description, "message", "m", "", "words for the list of releases")
	fl.IntVar(&f.count, "count", 0, "machines to run of each process group (default: as many as there are, else 1)")
	fl.StringSliceVarP(&f.regions, "region", "r", nil, "regions to run in instead of the configuration's, with commas between")
	c.RegisterFlagCompletionFunc("strategy", cobra.FixedCompletions([]string{"rolling", "immediate", "canary", "bluegreen"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (e *env) deploy(ctx context.Context, f deployFlags) error {
	began := time.Now()
	cfg, dir, err := e.loadConfig(f.dir)
	if err != nil {
		return err
	}
	if cfg.App == "" {
		return hint(usagef("no app is named"), "add app = \"name\" to the configuration, or use --app")
	}
	req, err := e.deployRequest(cfg, dir, f)
	if err != nil {
		return err
	}
	if err := checkSource(cfg, dir, f); err != nil {
		return err
	}
	client, err := e.client()
	if err != nil {
		return err
	}
	made, err := e.ensureApp(ctx, client, cfg.App)
	if err != nil {
		return err
	}
	show := e.newProgress()
	if req.Image, err = e.imageFor(ctx, client, cfg, dir, f, show); err != nil {
		return e.unmake(ctx, client, cfg.App, made, err)
	}
	rel, err := e.follow(ctx, client, cfg.App, client.Deploy(ctx, cfg.App, req), show)
	if err != nil {
		return e.unmake(ctx, client, cfg.App, made, err)
	}
	return e.deployed(ctx, client, rel, time.Since(began))
}

// unmake takes back an app that this command made and that is still empty: a
// refused deploy changes nothing. Where the connection broke, nobody knows what
// the node goes on with, and the app stays.
func (e *env) unmake(ctx context.Context, c *api.Client, app string, made bool, cause error) error {
	if made && refused(cause) && isEmpty(ctx, c, app) && c.DeleteApp(ctx, app) == nil && !e.json {
		fmt.Fprintf(e.Err, "%s removed app %s again\n", e.paint(dim, "·"), app)
	}
	return e.explain(cause)
}

// refused reports whether err is somebody's clear no.
func refused(err error) bool {
	var a *api.Error
	var u usageError
	return errors.As(err, &a) || errors.As(err, &u)
}

// isEmpty reports whether an app has neither releases nor machines.
func isEmpty(ctx context.Context, c *api.Client, app string) bool {
	releases, err := c.ListReleases(ctx, app)
	if err != nil || len(releases) > 0 {
		return false
	}
	machines, err := c.ListMachines(ctx, app)
	return err == nil && len(machines) == 0
}

// deployRequest turns the configuration and the flags into the node's words.
func (e *env) deployRequest(cfg *appconfig.Config, dir string, f deployFlags) (api.DeployRequest, error) {
	var req api.DeployRequest
	groups, err := appconfig.MachineConfigs(cfg, dir)
	if err != nil {
		return req, usageError{err}
	}
	req.Groups = groups
	req.Strategy = first(f.strategy, cfg.Deploy.Strategy)
	req.Description = f.description
	req.MaxUnavailable = cfg.Deploy.MaxUnavailable
	where(&req, cfg, f)
	if f.count > 0 {
		req.Counts = map[string]int{}
		for g := range groups {
			req.Counts[g] = f.count
		}
	}
	if req.ReleaseCommand, err = cfg.ReleaseCommand(); err != nil {
		return req, usageError{err}
	}
	if f.waitTimeout > 0 {
		req.WaitTimeout = api.D(f.waitTimeout)
	} else {
		req.WaitTimeout = cfg.Deploy.WaitTimeout
	}
	req.ReleaseCmdTimeout = cfg.Deploy.ReleaseCommandTimeout
	req.Definition, err = definition(cfg)
	return req, err
}

// where says in which regions the release is to run. A number on the command
// line counts more than those of the configuration.
func where(req *api.DeployRequest, cfg *appconfig.Config, f deployFlags) {
	req.PrimaryRegion = cfg.PrimaryRegion
	req.Regions = cfg.Regions.Names()
	if req.Spread = cfg.Spread(); f.count > 0 {
		req.Spread = nil
	}
	if len(f.regions) > 0 {
		req.Regions, req.Spread = f.regions, nil
		if !slices.Contains(f.regions, req.PrimaryRegion) {
			req.PrimaryRegion = f.regions[0]
		}
	}
}

func definition(cfg *appconfig.Config) (map[string]any, error) {
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(b, &m)
}

// ensureApp creates the app if it is not there, and says whether it did.
func (e *env) ensureApp(ctx context.Context, c *api.Client, name string) (made bool, err error) {
	_, err = c.GetApp(ctx, name)
	if !api.IsCode(err, api.CodeNotFound) {
		return false, e.explain(err)
	}
	if _, err := c.CreateApp(ctx, api.CreateAppRequest{AppName: name}); err != nil {
		return false, e.explain(err)
	}
	if !e.json {
		fmt.Fprintf(e.Err, "%s created app %s\n", e.paint(green, "✓"), name)
	}
	return true, nil
}

// imageFor returns the reference to deploy: a given one, an uploaded archive
// or layout, or what the folder builds.
func (e *env) imageFor(ctx context.Context, c *api.Client, cfg *appconfig.Config, dir string, f deployFlags, show *progressView) (string, error) {
	image := first(f.image, cfg.Build.Image)
	switch {
	case image == "":
		return e.buildFolder(ctx, c, cfg, dir, f, show)
	case isFile(image):
		file, err := os.Open(image)
		if err != nil {
			return "", err
		}
		defer file.Close()
		fi, err := file.Stat()
		if err != nil {
			return "", err
		}
		show.note("upload %s (%s)", image, bytesText(fi.Size()))
		return show.image(c.ImportImage(ctx, cfg.App, file))
	case isDir(image):
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeLayout(w, image)) }()
		defer r.Close()
		return show.image(c.ImportImage(ctx, cfg.App, r))
	}
	return image, nil
}

// checkSource finds out before anything is asked of the node whether what is to
// be deployed is there at all.
func checkSource(cfg *appconfig.Config, dir string, f deployFlags) error {
	image := first(f.image, cfg.Build.Image)
	switch {
	case image == "":
		path := filepath.Join(dir, f.file(cfg))
		if !isFile(path) {
			return hint(usagef("cannot find %s", path), "write a Dockerfile, name it with --dockerfile, or deploy an image with --image")
		}
	case isDir(image):
		if !isFile(filepath.Join(image, "index.json")) {
			return hint(usagef("%s is a folder, but not an OCI layout: it has no index.json", image), "to build a Dockerfile, give the folder as argument: perigee deploy %s", image)
		}
	case looksLikePath(image) && !isFile(image):
		return hint(usagef("there is no file %s", image), "--image takes a reference, an archive or the folder of an OCI layout")
	}
	return nil
}

// file is the path of the Dockerfile in the folder.
func (f deployFlags) file(cfg *appconfig.Config) string {
	return first(f.dockerfile, cfg.Build.Dockerfile, "Dockerfile")
}

// looksLikePath tells a file that is not there from a reference.
func looksLikePath(image string) bool {
	for _, p := range []string{"/", "./", "../", "~"} {
		if strings.HasPrefix(image, p) {
			return true
		}
	}
	for _, s := range []string{".tar", ".tgz", ".tar.gz", ".tar.zst"} {
		if strings.HasSuffix(image, s) {
			return true
		}
	}
	return false
}

func (e *env) buildFolder(ctx context.Context, c *api.Client, cfg *appconfig.Config, dir string, f deployFlags, show *progressView) (string, error) {
	dockerfile := f.file(cfg)
	args := map[string]string{}
	for k, v := range cfg.Build.Args {
		args[k] = v
	}
	for _, a := range f.buildArgs {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return "", hint(usagef("--build-arg %q has no value", a), "write it as NAME=VALUE")
		}
		args[k] = v
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(buildcontext.Write(w, dir, filepath.ToSlash(dockerfile))) }()
	defer r.Close()
	show.note("build %s", filepath.Join(dir, dockerfile))
	return show.image(c.Build(ctx, cfg.App, api.BuildOptions{Dockerfile: filepath.ToSlash(dockerfile), Target: first(f.target, cfg.Build.Target), Args: args, NoCache: f.noCache}, r))
}

// deployed tells of the release that was made, where one was.
func (e *env) deployed(ctx context.Context, c *api.Client, rel *api.Release, took time.Duration) error {
	if rel == nil {
		return nil
	}
	if e.json {
		return e.printJSON(rel)
	}
	fmt.Fprintf(e.Out, "%s %s release v%d is live after %s\n", e.paint(green, "✓"), rel.App, rel.Version, took.Round(time.Millisecond))
	if app, err := c.GetApp(ctx, rel.App); err == nil && app.URL != "" {
		fmt.Fprintf(e.Out, "  %s\n", app.URL)
	}
	return nil
}
