package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// CertificateSummary is a custom name of an app and its certificate in short.
type CertificateSummary struct {
	Hostname               string    `json:"hostname"`
	Status                 string    `json:"status" enum:"active,pending" doc:"active: visitors get a certificate for the name"`
	DNSProvider            string    `json:"dns_provider,omitempty" doc:"Not told here"`
	AcmeDNSConfigured      bool      `json:"acme_dns_configured" doc:"Always false: names are proven over HTTP and TLS"`
	AcmeALPNConfigured     bool      `json:"acme_alpn_configured"`
	AcmeHTTPConfigured     bool      `json:"acme_http_configured"`
	OwnershipTxtConfigured bool      `json:"ownership_txt_configured" doc:"Always false in lists, which ask no DNS server"`
	Configured             bool      `json:"configured"`
	AcmeRequested          bool      `json:"acme_requested" doc:"The cloud gets certificates for the name by itself"`
	HasCustomCertificate   bool      `json:"has_custom_certificate"`
	HasFlyCertificate      bool      `json:"has_fly_certificate" doc:"The cloud got one by itself"`
	CreatedAt              time.Time `json:"created_at"`
	UpdatedAt              time.Time `json:"updated_at"`
}

// ListCertificatesResponse is the answer of GET /v1/apps/{app}/certificates.
type ListCertificatesResponse struct {
	Certificates []CertificateSummary `json:"certificates"`
	NextCursor   string               `json:"next_cursor,omitempty"`
	TotalCount   int                  `json:"total_count"`
}

// Certificate is all about the certificates of one custom name.
type Certificate struct {
	Hostname         string                `json:"hostname"`
	Configured       bool                  `json:"configured" doc:"The name leads to this cloud"`
	AcmeRequested    bool                  `json:"acme_requested" doc:"The cloud gets certificates for the name by itself"`
	Status           string                `json:"status" enum:"active,pending" doc:"active: visitors get a certificate for the name"`
	DNSProvider      string                `json:"dns_provider,omitempty" doc:"Not told here"`
	RateLimitedUntil *time.Time            `json:"rate_limited_until,omitempty" doc:"Not told here"`
	Certificates     []CertificateDetail   `json:"certificates"`
	Validation       CertificateValidation `json:"validation"`
	DNSRequirements  DNSRequirements       `json:"dns_requirements"`
	DNSRecords       *DNSRecords           `json:"dns_records,omitempty" doc:"What the DNS says of the name now"`
	ValidationErrors []ValidationError     `json:"validation_errors,omitempty"`
}

// CertificateDetail is one certificate of a name.
type CertificateDetail struct {
	Source    string              `json:"source" enum:"custom,fly" doc:"custom: brought by its owner; fly: got by the cloud, from the authority that issuer names"`
	Status    string              `json:"status" enum:"active,pending,expired"`
	CreatedAt *time.Time          `json:"created_at,omitempty"`
	ExpiresAt *time.Time          `json:"expires_at,omitempty"`
	Issuer    string              `json:"issuer,omitempty"`
	Issued    []IssuedCertificate `json:"issued"`
}

// IssuedCertificate is a certificate by the kind of its key.
type IssuedCertificate struct {
	Type                 string    `json:"type" doc:"ecdsa or rsa"`
	ExpiresAt            time.Time `json:"expires_at"`
	CertificateAuthority string    `json:"certificate_authority,omitempty"`
}

// CertificateValidation is what of a name is in order.
type CertificateValidation struct {
	DNSConfigured          bool `json:"dns_configured"`
	ALPNConfigured         bool `json:"alpn_configured"`
	HTTPConfigured         bool `json:"http_configured"`
	OwnershipTxtConfigured bool `json:"ownership_txt_configured"`
}

// DNSRequirements says what the DNS should say of a name.
type DNSRequirements struct {
	A             []string      `json:"a"`
	AAAA          []string      `json:"aaaa"`
	CNAME         string        `json:"cname"`
	ACMEChallenge ACMEChallenge `json:"acme_challenge"`
	Ownership     Ownership     `json:"ownership"`
}

// ACMEChallenge would prove a name by DNS, which is not done here.
type ACMEChallenge struct {
	Name   string `json:"name"`
	Target string `json:"target"`
}

// Ownership is a TXT record that shows whose a name is. It is looked for and told, and
// nothing depends on it here.
type Ownership struct {
	Name     string `json:"name"`
	AppValue string `json:"app_value"`
	OrgValue string `json:"org_value"`
}

// DNSRecords is what the DNS says of a name.
type DNSRecords struct {
	A                  []string `json:"a"`
	AAAA               []string `json:"aaaa"`
	CNAME              []string `json:"cname"`
	ResolvedAddresses  []string `json:"resolved_addresses"`
	SOA                *string  `json:"soa,omitempty" doc:"Not looked for here"`
	ACMEChallengeCNAME *string  `json:"acme_challenge_cname,omitempty" doc:"Not looked for here"`
	OwnershipTXT       *string  `json:"ownership_txt,omitempty"`
}

// ValidationError is something that keeps a certificate from a name.
type ValidationError struct {
	Code        *string   `json:"code,omitempty"`
	Message     string    `json:"message"`
	Remediation string    `json:"remediation,omitempty"`
	Timestamp   time.Time `json:"timestamp"`
}

// CreateCertificateRequest asks for a certificate (POST …/certificates/acme).
type CreateCertificateRequest struct {
	Hostname string `json:"hostname" doc:"Name in full, such as shop.example.com; *.example.com is any one label"`
}

// ImportCertificateRequest brings a certificate (POST …/certificates/custom).
type ImportCertificateRequest struct {
	Hostname   string `json:"hostname"`
	Fullchain  string `json:"fullchain" doc:"PEM: the certificate, then those that vouch for it"`
	PrivateKey string `json:"private_key" doc:"PEM of the key"`
}

func certificatePath(app, host, verb string) string {
	return pathf("/apps/%s/certificates/%s", app, host) + verb
}

// ListCertificates returns the app's custom names with their certificates in short.
func (c *Client) ListCertificates(ctx context.Context, app, cursor string, limit int) (r ListCertificatesResponse, err error) {
	q := url.Values{}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return r, c.call(ctx, http.MethodGet, pathf("/apps/%s/certificates", app), q, nil, &r)
}

// CreateCertificate gives the app a custom name, and has the cloud get a certificate for
// it.
func (c *Client) CreateCertificate(ctx context.Context, app, host string) (r Certificate, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/apps/%s/certificates/acme", app), nil, CreateCertificateRequest{Hostname: host}, &r)
}

// ImportCertificate brings a certificate for a custom name, which the app gets if it does
// not have it.
func (c *Client) ImportCertificate(ctx context.Context, app string, req ImportCertificateRequest) (r Certificate, err error) {
	return r, c.call(ctx, http.MethodPost, pathf("/apps/%s/certificates/custom", app), nil, req, &r)
}

// GetCertificate returns all about the certificates of a custom name.
func (c *Client) GetCertificate(ctx context.Context, app, host string) (r Certificate, err error) {
	return r, c.call(ctx, http.MethodGet, certificatePath(app, host, ""), nil, nil, &r)
}

// CheckCertificate is GetCertificate after a certificate was asked for, if there is none.
func (c *Client) CheckCertificate(ctx context.Context, app, host string) (r Certificate, err error) {
	return r, c.call(ctx, http.MethodPost, certificatePath(app, host, "/check"), nil, nil, &r)
}

// DeleteCertificate takes the name and its certificates from the app.
func (c *Client) DeleteCertificate(ctx context.Context, app, host string) error {
	return c.ok(ctx, http.MethodDelete, certificatePath(app, host, ""), nil, nil)
}

// DeleteACMECertificate has the cloud get no more certificates for the name.
func (c *Client) DeleteACMECertificate(ctx context.Context, app, host string) error {
	return c.ok(ctx, http.MethodDelete, certificatePath(app, host, "/acme"), nil, nil)
}

// DeleteCustomCertificate removes the certificate that was brought for the name.
func (c *Client) DeleteCustomCertificate(ctx context.Context, app, host string) error {
	return c.ok(ctx, http.MethodDelete, certificatePath(app, host, "/custom"), nil, nil)
}
