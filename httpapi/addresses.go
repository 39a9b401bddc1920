package httpapi

import "github.com/perigee-run/perigee/api"

func (s *Server) listIPs(c *call) (api.ListIPsResponse, error) {
	ips, err := s.cfg.Apps.ListIPs(c.path("app_name"))
	return api.ListIPsResponse{IPs: ips}, err
}

func (s *Server) allocateIP(c *call, in api.AllocateIPRequest) (api.IPAssignment, error) {
	return s.cfg.Apps.AllocateIP(c.r.Context(), c.path("app_name"), in)
}

func (s *Server) releaseIP(c *call) error {
	return s.cfg.Apps.ReleaseIP(c.r.Context(), c.path("app_name"), c.path("ip"))
}
