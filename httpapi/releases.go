package httpapi

import (
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

func (s *Server) listReleases(c *call) ([]api.Release, error) {
	name, err := s.app(c)
	if err != nil {
		return nil, err
	}
	out := []api.Release{}
	for _, r := range s.cfg.Apps.Releases(name) {
		out = append(out, r.Release)
	}
	return out, nil
}

func (s *Server) showRelease(c *call) (api.Release, error) {
	n, err := releaseVersion(c)
	if err != nil {
		return api.Release{}, err
	}
	r, err := s.cfg.Apps.Release(c.path("app_name"), n)
	return r.Release, err
}

func (s *Server) deploy(c *call, in api.DeployRequest, send func(api.Progress)) error {
	if err := c.mayRelease(in); err != nil {
		return err
	}
	_, err := s.cfg.Deploys.Deploy(c.r.Context(), c.path("app_name"), in, send)
	return err
}

func (s *Server) rollback(c *call, in api.RollbackRequest, send func(api.Progress)) error {
	if in.Version < 0 {
		return invalid("version", "version is %d; releases are numbered from 1", in.Version)
	}
	_, err := s.cfg.Deploys.Rollback(c.r.Context(), c.path("app_name"), in.Version, send)
	return err
}

func (s *Server) scale(c *call, in api.ScaleRequest, send func(api.Progress)) error {
	_, err := s.cfg.Deploys.Scale(c.r.Context(), c.path("app_name"), in, send)
	return err
}

func (s *Server) build(c *call, send func(api.Progress)) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	o := api.BuildOptions{Dockerfile: c.text("dockerfile"), Target: c.text("target"), Args: map[string]string{}}
	if o.NoCache, err = c.bool("no_cache"); err != nil {
		return err
	}
	for _, a := range c.query("arg") {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return invalid("arg", "build argument %q is not NAME=VALUE", api.Clip(k))
		}
		o.Args[k] = v
	}
	if s.cfg.Builder == nil {
		return api.Errorf(api.CodeUnsupported, "this node does not build images").WithHint("deploy an image instead")
	}
	ref, err := s.cfg.Builder.Build(c.r.Context(), name, c.who.Scope, o, c.r.Body, send)
	if err != nil {
		return err
	}
	send(imageDone(ref))
	return nil
}

func imageDone(ref string) api.Progress {
	return api.Progress{Time: time.Now().UTC(), Kind: "done", Image: ref}
}

func (s *Server) logs(c *call, _ none, send func(api.LogLine)) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	q := api.LogQuery{Machine: c.text("machine"), Region: c.text("region")}
	if q.Lines, err = c.int("lines"); err != nil {
		return err
	}
	if q.Follow, err = c.bool("follow"); err != nil {
		return err
	}
	if q.Since, err = since(c.text("since")); err != nil {
		return err
	}
	if s.cfg.Logs == nil {
		return nil
	}
	q.Mark = c.who.Node != "" // a node that gathers lines wants to know where the past ends
	return s.tail(c, name, q, send)
}

func (s *Server) tail(c *call, name string, q api.LogQuery, send func(api.LogLine)) error {
	for l, err := range s.cfg.Logs.Logs(c.r.Context(), name, q) {
		if c.r.Context().Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		send(l)
	}
	return nil
}

// since reads a time, or how long ago.
func since(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, invalid("since", "since is %q; it must be a time such as 2026-01-31T10:00:00Z, or how long ago, such as 10m", api.Clip(text))
}
