package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/app"
)

// Certificates knows those that the cloud gets by itself.
type Certificates interface {
	// Peek returns the one for a host and who gave it; nil if there is none yet.
	Peek(ctx context.Context, host string) (*x509.Certificate, string)
	// Obtain asks for one, unless there is one.
	Obtain(ctx context.Context, host string) error
	// Addresses are those that the app's names should lead to.
	Addresses(app string) []netip.Addr
}

// Resolver asks the DNS; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
}

const (
	pCertificates = pApp + "/certificates"
	lookupWait    = 2 * time.Second
)

func (s *Server) certificateRoutes() []route {
	list := []param{{"limit", "integer", "At most so many, 1 to 1000"}, {"cursor", "string", "Go on after the part that gave it"}, {"filter", "string", "Only names that hold this"}}
	return []route{
		{rGet, pCertificates, reads, "App_Certificates_list", "List the app's custom names with their certificates", list, get(s.listCertificates)},
		{rPost, pCertificates + "/acme", changes, "App_Certificates_acme_create", "Give the app a custom name, and get a certificate for it", nil, take(s.createCertificate).with(201)},
		{rPost, pCertificates + "/custom", changes, "App_Certificates_custom_create", "Bring a certificate and its key for a custom name", nil, take(s.importCertificate).with(201)},
		{rGet, pCertificates + "/{host}", reads, "App_Certificates_show", "Show the certificates of a custom name, and what the DNS says of it", nil, get(s.showCertificate)},
		{rPost, pCertificates + "/{host}/check", changes, "App_Certificates_check", "Look again, and get a certificate if there is none", nil, get(s.checkCertificate)},
		{rDelete, pCertificates + "/{host}", changes, "App_Certificates_delete", "Take a custom name and its certificates from the app", nil, act(s.deleteCertificate)},
		{rDelete, pCertificates + "/{host}/acme", changes, "App_Certificates_acme_delete", "Get no more certificates for the name", nil, act(s.deleteACME)},
		{rDelete, pCertificates + "/{host}/custom", changes, "App_Certificates_custom_delete", "Forget the certificate that was brought for the name", nil, act(s.deleteCustom)},
	}
}

func (s *Server) listCertificates(c *call) (api.ListCertificatesResponse, error) {
	name, err := s.app(c)
	if err != nil {
		return api.ListCertificatesResponse{}, err
	}
	limit, err := c.int("limit")
	if err != nil {
		return api.ListCertificatesResponse{}, err
	}
	if limit < 0 || limit > maxPage || limit == 0 && c.text("limit") != "" {
		return api.ListCertificatesResponse{}, invalid("limit", "limit is %d; it can be 1 to %d", limit, maxPage)
	}
	out := api.ListCertificatesResponse{Certificates: []api.CertificateSummary{}}
	for _, h := range s.cfg.Apps.HostsOf(name) {
		if !strings.Contains(h.Name, c.text("filter")) {
			continue
		}
		out.TotalCount++
		if h.Name <= c.text("cursor") {
			continue
		}
		if limit > 0 && len(out.Certificates) == limit {
			out.NextCursor = out.Certificates[limit-1].Hostname
			limit = -1 // count the rest
		}
		if limit >= 0 {
			out.Certificates = append(out.Certificates, s.summary(c.r.Context(), h))
		}
	}
	return out, s.lookUpAll(c.r.Context(), name, out.Certificates)
}

func (s *Server) summary(ctx context.Context, h app.Host) api.CertificateSummary {
	own, _ := s.automatic(ctx, h)
	ready := own != nil || good(h.Custom)
	out := api.CertificateSummary{Hostname: h.Name, Status: "pending", Configured: ready, AcmeALPNConfigured: own != nil, AcmeHTTPConfigured: own != nil,
		AcmeRequested: h.ACME, HasCustomCertificate: h.Custom != nil, HasFlyCertificate: own != nil, CreatedAt: h.CreatedAt, UpdatedAt: h.UpdatedAt}
	if ready {
		out.Status = "active"
	}
	return out
}

// automatic is the certificate that the cloud has for the name by itself.
func (s *Server) automatic(ctx context.Context, h app.Host) (*x509.Certificate, string) {
	if s.cfg.Certificates == nil || !h.ACME {
		return nil, ""
	}
	leaf, by := s.cfg.Certificates.Peek(ctx, h.Name)
	if leaf == nil || time.Now().After(leaf.NotAfter) {
		return nil, ""
	}
	return leaf, by
}

func good(c *tls.Certificate) bool { return c != nil && time.Now().Before(c.Leaf.NotAfter) }

func (s *Server) createCertificate(c *call, in api.CreateCertificateRequest) (api.Certificate, error) {
	name := c.path("app_name")
	if err := s.cfg.Apps.AddHost(c.r.Context(), name, in.Hostname); err != nil {
		if e := api.AsError(err); e.Field == "host" {
			err = e.WithField("hostname")
		}
		return api.Certificate{}, err
	}
	if err := s.cfg.Apps.SetACME(c.r.Context(), name, in.Hostname, true); err != nil {
		return api.Certificate{}, err
	}
	s.begin(in.Hostname)
	return s.certificate(c.r.Context(), name, in.Hostname)
}

func (s *Server) importCertificate(c *call, in api.ImportCertificateRequest) (api.Certificate, error) {
	if err := s.cfg.Apps.ImportCertificate(c.r.Context(), c.path("app_name"), in); err != nil {
		return api.Certificate{}, err
	}
	return s.certificate(c.r.Context(), c.path("app_name"), in.Hostname)
}

func (s *Server) showCertificate(c *call) (api.Certificate, error) {
	name, err := s.app(c)
	if err != nil {
		return api.Certificate{}, err
	}
	return s.certificate(c.r.Context(), name, c.path("host"))
}

func (s *Server) checkCertificate(c *call) (api.Certificate, error) {
	name, err := s.app(c)
	if err != nil {
		return api.Certificate{}, err
	}
	h, err := s.cfg.Apps.HostOf(name, c.path("host"))
	if err != nil {
		return api.Certificate{}, err
	}
	var fault error
	if own, _ := s.automatic(c.r.Context(), h); own == nil && h.ACME && s.cfg.Certificates != nil {
		ctx, cancel := context.WithTimeout(c.r.Context(), obtainWait)
		defer cancel()
		fault = s.cfg.Certificates.Obtain(ctx, h.Name)
	}
	out, err := s.certificate(c.r.Context(), name, h.Name)
	if fault != nil {
		out.ValidationErrors = append(out.ValidationErrors, api.ValidationError{Message: fault.Error(), Timestamp: time.Now().UTC(),
			Remediation: "point the name's DNS records here and check again, or bring a certificate"})
	}
	return out, err
}

// certificate is all about one name.
func (s *Server) certificate(ctx context.Context, name, host string) (api.Certificate, error) {
	h, err := s.cfg.Apps.HostOf(name, host)
	if err != nil {
		return api.Certificate{}, err
	}
	a, err := s.cfg.Apps.Get(name)
	if err != nil {
		return api.Certificate{}, err
	}
	out := api.Certificate{Hostname: h.Name, Status: "pending", AcmeRequested: h.ACME, Certificates: []api.CertificateDetail{}}
	if h.Custom != nil {
		out.Certificates = append(out.Certificates, detail("custom", strings.Join(h.Custom.Leaf.Issuer.Organization, " "), h.Custom.Leaf, h.UpdatedAt))
	}
	if leaf, by := s.automatic(ctx, h); leaf != nil {
		out.Certificates = append(out.Certificates, detail("fly", by, leaf, leaf.NotBefore))
	}
	if slices.ContainsFunc(out.Certificates, func(d api.CertificateDetail) bool { return d.Status == "active" }) {
		out.Status = "active"
	}
	out.DNSRequirements = s.requirements(a, h.Name)
	s.lookUp(ctx, &out)
	return out, nil
}

func detail(source, issuer string, leaf *x509.Certificate, made time.Time) api.CertificateDetail {
	kind := strings.ToLower(leaf.PublicKeyAlgorithm.String())
	d := api.CertificateDetail{Source: source, Status: "active", Issuer: issuer, CreatedAt: &made, ExpiresAt: &leaf.NotAfter,
		Issued: []api.IssuedCertificate{{Type: kind, ExpiresAt: leaf.NotAfter, CertificateAuthority: issuer}}}
	if time.Now().After(leaf.NotAfter) {
		d.Status = "expired"
	}
	return d
}

// requirements says where the name should lead.
func (s *Server) requirements(a app.App, host string) api.DNSRequirements {
	bare := strings.TrimPrefix(host, "*.")
	alias, _ := s.cfg.Address(a.Name)
	r := api.DNSRequirements{A: []string{}, AAAA: []string{}, CNAME: alias, ACMEChallenge: api.ACMEChallenge{Name: "_acme-challenge." + bare},
		Ownership: api.Ownership{Name: "_fly-ownership." + bare, AppValue: "app-" + a.ID, OrgValue: "org-" + a.Org}}
	if s.cfg.Certificates == nil {
		return r
	}
	for _, ip := range s.cfg.Certificates.Addresses(a.Name) {
		if ip.Is4() {
			r.A = append(r.A, ip.String())
		} else {
			r.AAAA = append(r.AAAA, ip.String())
		}
	}
	return r
}

// owned looks for the record that shows whose the name is.
func (s *Server) owned(ctx context.Context, out *api.Certificate) bool {
	o := out.DNSRequirements.Ownership
	texts, err := s.cfg.Resolver.LookupTXT(ctx, o.Name)
	if err != nil || len(texts) == 0 {
		return false
	}
	out.DNSRecords.OwnershipTXT = &texts[0]
	return slices.Contains(texts, o.AppValue) || slices.Contains(texts, o.OrgValue)
}

func (s *Server) deleteCertificate(c *call) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	return s.cfg.Apps.RemoveHost(c.r.Context(), name, c.path("host"))
}

func (s *Server) deleteACME(c *call) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	return s.cfg.Apps.SetACME(c.r.Context(), name, c.path("host"), false)
}

func (s *Server) deleteCustom(c *call) error {
	name, err := s.app(c)
	if err != nil {
		return err
	}
	h, err := s.cfg.Apps.HostOf(name, c.path("host"))
	if err != nil {
		return err
	}
	if h.Custom == nil {
		return api.Errorf(api.CodeNotFound, "no certificate was brought for host %q", api.Clip(h.Name)).WithField("hostname")
	}
	return s.cfg.Apps.RemoveCustomCertificate(c.r.Context(), name, h.Name)
}

var _ Resolver = (*net.Resolver)(nil)

// Certify says who knows the certificates that the cloud gets by itself. It is called
// before anybody is served.
func (s *Server) Certify(c Certificates) { s.cfg.Certificates = c }
