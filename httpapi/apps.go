package httpapi

import (
	"hash/fnv"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
	"github.com/perigee-run/perigee/token"
)

func (s *Server) listApps(c *call) (api.ListAppsResponse, error) {
	org := c.text("org_slug")
	out, hosts := api.ListAppsResponse{Apps: []api.App{}}, s.cfg.Apps.AllHosts()
	for _, a := range s.cfg.Apps.List() {
		if (org == "" || a.Org == org) && c.sees(a.Org, a.Name) {
			out.Apps = append(out.Apps, s.view(a, hosts[a.Name]))
		}
	}
	out.TotalApps = len(out.Apps)
	return out, nil
}

func (s *Server) createApp(c *call, in api.CreateAppRequest) (api.CreateAppResponse, error) {
	org := in.OrgSlug
	if org == "" {
		org = s.cfg.Apps.DefaultOrg()
	}
	c.about.Org, c.about.App = org, in.AppName
	if in.AppName == "" {
		c.about.App = in.Name
	}
	if err := c.may(token.Want{Class: owns, Org: org}); err != nil {
		return api.CreateAppResponse{}, err
	}
	a, err := s.cfg.Apps.Create(c.r.Context(), in)
	if err != nil {
		return api.CreateAppResponse{}, err
	}
	v := s.view(a, nil)
	return api.CreateAppResponse{ID: a.ID, CreatedAt: a.CreatedAt.UnixMilli(), Name: v.Name, Network: v.Network, Status: v.Status,
		InternalNumericID: v.InternalNumericID, Organization: v.Organization}, nil
}

// numeric is a number that stands for the app or the org, for clients that want one:
// fly-go has 31 bits for it.
func numeric(id string) int64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // it never fails
	return int64(h.Sum32() >> 1)
}

func (s *Server) showApp(c *call) (api.App, error) {
	a, err := s.cfg.Apps.Get(c.path("app_name"))
	if err != nil {
		return api.App{}, err
	}
	return s.view(a, s.cfg.Apps.Hosts(a.Name)), nil
}

// view is an app, with its custom names, as the API shows it.
func (s *Server) view(a app.App, hosts []string) api.App {
	v := api.App{
		ID: a.ID, Name: a.Name, Status: "pending", Network: a.Network, CreatedAt: a.CreatedAt,
		Organization:      api.Organization{Name: a.Org, Slug: a.Org, InternalNumericID: numeric(a.Org)},
		InternalNumericID: numeric(a.ID),
		MachineCount:      len(s.cfg.Machines.List(a.Name)), Hosts: hosts,
	}
	if s.cfg.Volumes != nil {
		all, _ := s.cfg.Volumes.List(a.Name) // an app that has just gone has none
		v.VolumeCount = len(all)
	}
	if r, ok := s.cfg.Apps.CompleteRelease(a.Name, 0); ok {
		v.Release = r.Version
	}
	name, url := s.cfg.Address(a.Name)
	v.CnameTarget = name
	if v.Release > 0 || v.MachineCount > 0 {
		v.Status, v.Hostname, v.URL = "deployed", name, url
	}
	return v
}

func (s *Server) deleteApp(c *call) error {
	return s.cfg.Deploys.DestroyApp(c.r.Context(), c.path("app_name"))
}

// app returns the app of the path, which must be there.
func (s *Server) app(c *call) (string, error) {
	a, err := s.cfg.Apps.Get(c.path("app_name"))
	return a.Name, err
}

func (s *Server) setSecrets(c *call, in api.SetSecretsRequest) (api.SetSecretsResponse, error) {
	secrets, version, err := s.cfg.Apps.SetSecrets(c.r.Context(), c.path("app_name"), in.Values)
	return api.SetSecretsResponse{Secrets: s.spread(c.path("app_name"), secrets), Version: version}, err
}

func (s *Server) showSecret(c *call) (api.Secret, error) {
	list, err := s.listSecrets(c)
	if err != nil {
		return api.Secret{}, err
	}
	for _, sec := range list.Secrets {
		if sec.Name == c.path("secret_name") {
			return sec, nil
		}
	}
	return api.Secret{}, api.Errorf(api.CodeNotFound, "app %q has no secret %q", c.path("app_name"), api.Clip(c.path("secret_name")))
}

func (s *Server) setSecret(c *call, in api.SetSecretRequest) (api.Secret, error) {
	if in.Value == nil {
		return api.Secret{}, invalid("value", "the secret has no value")
	}
	all, err := s.setSecrets(c, api.SetSecretsRequest{Values: map[string]*string{c.path("secret_name"): in.Value}})
	for _, sec := range all.Secrets {
		if sec.Name == c.path("secret_name") {
			return sec, err
		}
	}
	return api.Secret{}, err
}

func (s *Server) deleteSecret(c *call) (api.SetSecretsResponse, error) {
	return s.setSecrets(c, api.SetSecretsRequest{Values: map[string]*string{c.path("secret_name"): nil}})
}

func (s *Server) listHosts(c *call) (api.HostsResponse, error) {
	name, err := s.app(c)
	return api.HostsResponse{Hosts: s.cfg.Apps.Hosts(name)}, err
}

func (s *Server) addHost(c *call, in api.AddHostRequest) (api.HostsResponse, error) {
	if err := s.cfg.Apps.AddHost(c.r.Context(), c.path("app_name"), in.Host); err != nil {
		return api.HostsResponse{}, err
	}
	return s.listHosts(c)
}

func (s *Server) removeHost(c *call) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	return s.cfg.Apps.RemoveHost(c.r.Context(), name, c.path("host"))
}
