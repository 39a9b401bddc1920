package httpapi

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// lookUp compares what the DNS says with what it should. A wildcard is asked for by a
// name that it covers. The resolver is the node's, and a name is whatever a tenant says:
// what it answers of networks that are not public is kept back.
func (s *Server) lookUp(ctx context.Context, out *api.Certificate) {
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	host := strings.Replace(out.Hostname, "*", "perigee-check", 1)
	rec := &api.DNSRecords{A: []string{}, AAAA: []string{}, CNAME: []string{}, ResolvedAddresses: []string{}}
	out.DNSRecords = rec
	want := slices.Concat(out.DNSRequirements.A, out.DNSRequirements.AAAA)
	ips, err := s.cfg.Resolver.LookupNetIP(ctx, "ip", host)
	open := slices.DeleteFunc(slices.Clone(ips), func(ip netip.Addr) bool { return !public(ip.Unmap()) && !slices.Contains(want, ip.Unmap().String()) })
	hidden := len(open) < len(ips)
	note(rec, open)
	if alias := s.alias(ctx, host); alias != "" && (!hidden || alias == out.DNSRequirements.CNAME) {
		rec.CNAME = append(rec.CNAME, alias)
	}
	here := slices.ContainsFunc(rec.ResolvedAddresses, func(ip string) bool { return slices.Contains(want, ip) }) ||
		slices.Contains(rec.CNAME, out.DNSRequirements.CNAME)
	out.Configured = here
	out.Validation = api.CertificateValidation{DNSConfigured: here, ALPNConfigured: here, HTTPConfigured: here, OwnershipTxtConfigured: s.owned(ctx, out)}
	if !here {
		out.ValidationErrors = append(out.ValidationErrors, astray(out, host, hidden, err))
	}
}

func note(rec *api.DNSRecords, ips []netip.Addr) {
	for _, ip := range ips {
		ip = ip.Unmap()
		rec.ResolvedAddresses = append(rec.ResolvedAddresses, ip.String())
		if ip.Is4() {
			rec.A = append(rec.A, ip.String())
		} else {
			rec.AAAA = append(rec.AAAA, ip.String())
		}
	}
}

// alias is the name that the host is an alias of, "" if it is none.
func (s *Server) alias(ctx context.Context, host string) string {
	alias, err := s.cfg.Resolver.LookupCNAME(ctx, host)
	if alias = strings.TrimSuffix(alias, "."); err != nil || strings.EqualFold(alias, host) {
		return ""
	}
	return alias
}

// astray says that the name does not lead here.
func astray(out *api.Certificate, host string, hidden bool, err error) api.ValidationError {
	e := api.ValidationError{Message: host + " does not lead to this cloud", Timestamp: time.Now().UTC()}
	r := out.DNSRequirements
	switch want := slices.Concat(r.A, r.AAAA); {
	case err != nil:
		e.Message = host + " leads nowhere: " + lookupWords(err)
	case len(out.DNSRecords.ResolvedAddresses) > 0:
		e.Message += ", but to " + strings.Join(out.DNSRecords.ResolvedAddresses, ", ")
	case hidden:
		e.Message += ", but to an address that is not public"
	case len(want) == 0:
		e.Message += ", whose public addresses are not known"
	}
	if r.CNAME != "" {
		e.Remediation = "make it an alias (CNAME) of " + r.CNAME + ", or point it at the addresses of dns_requirements"
	}
	return e
}

// lookupWords is why a name was not found, without the address of who was asked.
func lookupWords(err error) string {
	var e *net.DNSError
	switch {
	case errors.As(err, &e) && e.IsNotFound:
		return "there is no such host"
	case errors.As(err, &e) && e.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return "the DNS did not answer in time"
	}
	return "the DNS did not answer"
}

// shared is the range that providers use for many customers at once (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// public reports whether an address is one of the Internet.
func public(ip netip.Addr) bool {
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !shared.Contains(ip)
}
