//go:build linux

package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/tonistiigi/fsutil"
)

const maxDockerfile = 4 << 20

// Build makes an image. Errors of the project itself (a failing RUN, a wrong Dockerfile, a base image that is not
// there) are an *Error. It ends early, with everything it started, when ctx ends. A builder that died is replaced at
// the next call; the build that it took with it fails with an Error whose Lost is set and can be tried again.
func (e *Engine) Build(ctx context.Context, req Request, progress ProgressFunc) (Result, error) {
	begun := time.Now()
	if err := req.complete(); err != nil {
		return Result{}, err
	}
	c, err := e.connect(ctx)
	if err != nil {
		return Result{}, err
	}
	out, err := newLayout(e.cfg.Dir)
	if err != nil {
		return Result{}, err
	}
	defer out.remove()
	w := newWatcher(progress)
	resp, err := c.Solve(ctx, nil, e.solveOpt(req, out), w.statuses())
	w.wait()
	if err != nil {
		return Result{}, explain(ctx, err, req, w)
	}
	res := Result{
		Digest:       resp.ExporterResponse[exptypes.ExporterImageDigestKey],
		ConfigDigest: resp.ExporterResponse[exptypes.ExporterImageConfigDigestKey],
	}
	if req.wants(res.Digest) {
		if err := out.finish(resp.ExporterResponse[exptypes.ExporterImageDescriptorKey]); err != nil {
			return Result{}, err
		}
		if err := out.hand(ctx, req, res.Digest); err != nil {
			return Result{}, fmt.Errorf("cannot keep the built image: %w", err)
		}
		res.Imported = true
	}
	res.Duration = time.Since(begun)
	return res, nil
}

func (r *Request) wants(digest string) bool {
	return (r.Import != nil || r.ImportLayout != nil) && (r.Have == nil || !r.Have(digest))
}

// complete fills in the defaults and finds what is wrong with a request before a builder is started for it.
func (r *Request) complete() error {
	if r.Name == "" {
		r.Name = r.ContextDir
	}
	if r.Platform == "" {
		r.Platform = "linux/" + runtime.GOARCH
	}
	if _, err := platforms.Parse(r.Platform); err != nil {
		return &Error{Message: fmt.Sprintf("platform %q is not one: %v", r.Platform, err), Hint: `write it as "linux/amd64"`}
	}
	if r.Dockerfile == "" {
		r.Dockerfile = "Dockerfile"
	}
	r.Dockerfile = path.Clean(r.Dockerfile)
	if !fs.ValidPath(r.Dockerfile) {
		return &Error{Message: fmt.Sprintf("the Dockerfile %q is not in the context", r.Dockerfile),
			Hint: "name it by its path inside the folder that is built"}
	}
	if err := r.openContext(); err != nil {
		return err
	}
	return r.checkDockerfile()
}

func (r *Request) openContext() error {
	if r.ContextFS != nil {
		return nil
	}
	st, err := os.Stat(r.ContextDir)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("it is not a folder")
	}
	if err == nil {
		r.ContextFS, err = fsutil.NewFS(r.ContextDir)
	}
	if err != nil {
		return fmt.Errorf("cannot build the folder %q: %w", r.ContextDir, err)
	}
	return nil
}

// checkDockerfile refuses what BuildKit would say in less helpful words, and frontends that would have to be pulled
// and run: the built-in one is newer than any that "# syntax=docker/dockerfile:1" can ask for.
func (r *Request) checkDockerfile() error {
	data, err := r.readDockerfile()
	if err != nil {
		return &Error{Dockerfile: r.Dockerfile, Message: "there is no such file in the context",
			Hint: "add a Dockerfile to the folder, or name the right one"}
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return &Error{Dockerfile: r.Dockerfile, Message: "the file is empty", Hint: "it needs at least a FROM line"}
	}
	ref, _, loc, ok := parser.DetectSyntax(data)
	if !ok || ownFrontend(ref) {
		return nil
	}
	e := &Error{Dockerfile: r.Dockerfile, Message: fmt.Sprintf("the Dockerfile frontend %q cannot be used here", ref),
		Hint: "remove the syntax line, or ask for docker/dockerfile"}
	if len(loc) > 0 {
		e.Line = loc[0].Start.Line
	}
	return e
}

func ownFrontend(ref string) bool {
	ref = strings.TrimPrefix(ref, "docker.io/")
	name, _, _ := strings.Cut(ref, ":")
	name, _, _ = strings.Cut(name, "@")
	return name == "docker/dockerfile" || name == "docker/dockerfile-upstream"
}

// readDockerfile does not follow a link out of the context, where a device or a pipe might wait.
func (r *Request) readDockerfile() ([]byte, error) {
	var f io.ReadCloser
	var err error
	if r.ContextDir == "" {
		f, err = r.ContextFS.Open(r.Dockerfile)
	} else {
		f, err = openRegular(r.ContextDir, r.Dockerfile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDockerfile))
}

func openRegular(dir, name string) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	st, err := root.Stat(name)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a file", name)
	}
	if err != nil {
		return nil, err
	}
	return root.Open(name)
}

// solveOpt says to BuildKit what a Request says.
func (e *Engine) solveOpt(r Request, out *layout) client.SolveOpt {
	return client.SolveOpt{
		Frontend:            frontendName,
		FrontendAttrs:       r.attrs(),
		LocalMounts:         map[string]fsutil.FS{"context": r.ContextFS, "dockerfile": r.ContextFS},
		SharedKey:           r.Name,
		AllowedEntitlements: []string{string(entitlements.EntitlementNetworkHost)},
		Session: []session.Attachable{
			&keyring{lookups: []lookup{r.Auth, e.cfg.Auth}, dockerDir: e.cfg.DockerConfig},
			secretsprovider.FromMap(r.Secrets),
		},
		Exports: []client.ExportEntry{{
			Type:        client.ExporterOCI,
			Attrs:       map[string]string{"tar": "false", "compression": "uncompressed"},
			OutputStore: out,
		}},
		Internal: true, // no record in BuildKit's history: ours is the release
	}
}

func (r *Request) attrs() map[string]string {
	a := map[string]string{
		"filename":           r.Dockerfile,
		"platform":           r.Platform,
		"force-network-mode": "host",
		// Set, it keeps the frontend from pulling another one for a syntax line; checkDockerfile looked at that.
		"cmdline": "docker/dockerfile",
	}
	if r.Target != "" {
		a["target"] = r.Target
	}
	if r.NoCache {
		a["no-cache"] = ""
	}
	maps.Insert(a, prefixed("build-arg:", r.Args))
	maps.Insert(a, prefixed("label:", r.Labels))
	return a
}

func prefixed(prefix string, m map[string]string) func(yield func(k, v string) bool) {
	return func(yield func(k, v string) bool) {
		for k, v := range m {
			if !yield(prefix+k, v) {
				return
			}
		}
	}
}
