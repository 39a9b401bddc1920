package httpapi

import (
	"net/http"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

func (s *Server) orgRoutes() []route {
	return []route{
		{rGet, "/v1/orgs", reads, "Orgs_list", "List the orgs that the caller sees", nil, get(s.listOrgs)},
		{rPost, "/v1/orgs", operates, "Orgs_create", "Make an org", nil, take(s.createOrg).with(http.StatusCreated)},
		{rGet, pOrg, reads, "Orgs_show", "Show an org", nil, get(s.showOrg)},
	}
}

// org is the org of the path, which must be there.
func (s *Server) org(c *call) (string, error) {
	o, err := s.cfg.Apps.GetOrg(c.path("org_slug"))
	return o.Slug, err
}

// orgThere is the error of a call about an org that is not there.
func (c *call) orgThere() error {
	if slug := c.path("org_slug"); slug != "" && c.server.cfg.Apps.OrgNumber(slug) == 0 {
		_, err := c.server.org(c)
		return err
	}
	return nil
}

func (s *Server) listOrgs(c *call) (api.OrgList, error) {
	out := api.OrgList{Orgs: []api.Org{}}
	for _, o := range s.cfg.Apps.Orgs() {
		if s.seesOrg(c, o.Slug) {
			out.Orgs = append(out.Orgs, o)
		}
	}
	return out, nil
}

// seesOrg: who sees an app of the org knows of it too.
func (s *Server) seesOrg(c *call, org string) bool {
	if c.may(token.Want{Class: reads, Org: org}) == nil {
		return true
	}
	for _, a := range s.cfg.Apps.List() {
		if a.Org == org && c.sees(org, a.Name) {
			return true
		}
	}
	return false
}

func (s *Server) createOrg(c *call, in api.CreateOrgRequest) (api.Org, error) {
	return s.cfg.Apps.CreateOrg(c.r.Context(), in.Slug)
}

func (s *Server) showOrg(c *call) (api.Org, error) {
	return s.cfg.Apps.GetOrg(c.path("org_slug"))
}
