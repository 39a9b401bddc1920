package httpapi

import (
	"github.com/perigee-run/perigee/api"
)

func (s *Server) showNode(c *call) (api.NodeInfo, error) { return s.cfg.Node.Info(c.r.Context()) }

func (s *Server) stopNode(c *call) error {
	machines, err := c.bool("machines")
	if err != nil {
		return err
	}
	return s.cfg.Node.Stop(c.r.Context(), machines)
}
