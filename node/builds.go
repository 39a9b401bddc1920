package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/build"
	"github.com/perigee-run/perigee/build/progress"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/token"
)

// builder leads from an uploaded folder to an image in the store.
type builder struct{ n *Node }

// Build unpacks the context, builds it, and returns the image's reference by
// digest. Nothing but the image and the cache stays behind.
func (b builder) Build(ctx context.Context, app string, scope token.Scope, o api.BuildOptions, folder io.Reader, show func(api.Progress)) (string, error) {
	if b.n.builds == nil {
		return "", api.Errorf(api.CodeUnsupported, "this node does not build").WithHint("build elsewhere and deploy with --image")
	}
	parent, err := b.n.contextDir()
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "context") // ReadContext makes it
	if err := build.ReadContext(ctx, folder, dir, build.ContextLimits{}); err != nil {
		return "", api.Errorf(api.CodeBuildFailed, "%v", err)
	}
	pass, done := b.n.passes.give(scope)
	defer done()
	var made image.Image
	request := build.Request{
		Name: app, ContextDir: dir, Dockerfile: o.Dockerfile, Target: o.Target, Args: o.Args, NoCache: o.NoCache,
		Auth: b.n.registryAuth(pass),
		ImportLayout: func(ctx context.Context, _, layout string) (err error) {
			made, err = b.n.images.ImportLayout(ctx, layout, deploymentName(app), func(p image.Progress) { show(deploy.Layer(p)) })
			return err
		},
	}
	if _, err := b.n.builds.Build(ctx, request, plainLines(show)); err != nil {
		return "", buildError(err)
	}
	return deploy.Pinned(made), nil
}

// contextDir is a fresh folder for an uploaded context. What a crash left is
// removed when the node starts.
func (n *Node) contextDir() (string, error) {
	if err := os.MkdirAll(n.path("contexts"), 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(n.path("contexts"), "")
}

// deploymentName is the name that a built image gets in the registry.
func deploymentName(app string) string {
	return fmt.Sprintf("%s:deployment-%s", app, strings.ToLower(ulid.Make().String()))
}

// plainLines shows a build's events as lines of text.
func plainLines(show func(api.Progress)) build.ProgressFunc {
	var buf bytes.Buffer
	r := progress.NewRenderer(&buf)
	return func(e progress.Event) {
		r.Render(e)
		for line := range strings.Lines(buf.String()) {
			show(api.Progress{Time: e.Time, Kind: "build", ID: fmt.Sprint(e.Step), Message: strings.TrimRight(line, "\n")})
		}
		buf.Reset()
	}
}

// buildError puts what went wrong in a build into the API's words.
func buildError(err error) error {
	var e *build.Error
	if !errors.As(err, &e) {
		return err
	}
	out := api.Errorf(api.CodeBuildFailed, "%s", e.Error())
	if len(e.Log) > 0 {
		out.Message += "\n  " + strings.Join(e.Log, "\n  ")
	}
	out.Hint = e.Hint
	return out
}

// registryAuth lets a build into the built-in registry with its pass.
func (n *Node) registryAuth(pass string) func(host string) (user, secret string) {
	return func(host string) (user, secret string) {
		if slices.Contains(n.cfg.registryHosts(), host) {
			return "perigee", pass
		}
		return "", ""
	}
}
