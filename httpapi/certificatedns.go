package httpapi

import (
	"context"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/sync/errgroup"
)

// lookups is how many names of a list are asked for at the same time.
const lookups = 16

// lookUpAll says of each name whether the DNS leads it here, as lookUp does of one. All
// of them together have the time of one: what is not known by then does not lead here.
func (s *Server) lookUpAll(ctx context.Context, name string, all []api.CertificateSummary) error {
	a, err := s.cfg.Apps.Get(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(lookups)
	for i := range all {
		g.Go(func() error {
			c := api.Certificate{Hostname: all[i].Hostname, DNSRequirements: s.requirements(a, all[i].Hostname)}
			s.lookUp(ctx, &c)
			all[i].Configured, all[i].AcmeALPNConfigured, all[i].AcmeHTTPConfigured = c.Configured, c.Validation.ALPNConfigured, c.Validation.HTTPConfigured
			return nil
		})
	}
	return g.Wait()
}
