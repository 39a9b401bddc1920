package httpapi

import (
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// RepositoryApp is the app whose images a repository of the built-in registry holds:
// the first part of its name. A path without one is no app's.
func RepositoryApp(name string) string {
	if app, _, _ := strings.Cut(name, "/"); app != "" {
		return app
	}
	return "/"
}

// mayImages is asked wherever a caller names images. Those of the built-in registry
// belong to the app that their repository is named for, and are for those who may
// read it; who may call something of an app may use its own. Registries on the server's
// loopback are for who operates the cloud. Images from elsewhere are everyone's.
func (c *call) mayImages(refs ...string) error {
	for _, ref := range refs {
		if err := c.mayLoopback(ref); err != nil {
			return err
		}
		repo, local := c.server.cfg.Images.BuiltIn(ref)
		app := RepositoryApp(repo)
		if !local || app == c.path("app_name") {
			continue
		}
		if err := c.may(token.Want{Class: reads, Org: c.server.orgOf(app), App: app}); err != nil {
			return api.AsError(err).WithField("image")
		}
	}
	return nil
}

// mayLoopback keeps strangers from the services of the server's loopback, most of
// which trust whoever reaches them.
func (c *call) mayLoopback(ref string) error {
	if !c.server.cfg.Images.Loopback(ref) || c.may(token.Want{Class: operates}) == nil {
		return nil
	}
	return api.Errorf(api.CodeForbidden, "image %q is at the server's own loopback, where only the cloud's own token may have images from", api.Clip(ref)).
		WithField("image").WithHint("push the image to the built-in registry, or to one that has an address of its own")
}

// mayConfigs asks mayImages about all that configurations name.
func (c *call) mayConfigs(all ...*api.MachineConfig) error {
	var refs []string
	for _, m := range all {
		refs = append(refs, m.Image)
		for _, k := range m.Containers {
			refs = append(refs, k.Image)
		}
	}
	return c.mayImages(refs...)
}

// mayRelease asks mayImages about all that a release names.
func (c *call) mayRelease(in api.DeployRequest) error {
	if err := c.mayImages(in.Image); err != nil {
		return err
	}
	for _, g := range in.Groups {
		if err := c.mayConfigs(&g); err != nil {
			return err
		}
	}
	return nil
}
