package zone

import (
	"fmt"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	fixedTTL  = 300   // seconds, of the operator's records
	serverTTL = 86400 // seconds, of name servers: they do not move
)

// fixedRecords are those that do not depend on edges and apps.
func fixedRecords(cfg Config) (map[string][]dns.RR, error) {
	all := map[string][]dns.RR{}
	for _, ns := range cfg.NameServers {
		name, _ := fullName(ns.Name) // checked
		all[cfg.Zone] = append(all[cfg.Zone], &dns.NS{Hdr: header(cfg.Zone, dns.TypeNS, serverTTL), Ns: name})
		if dns.IsSubDomain(cfg.Zone, name) {
			all[name] = append(all[name], records(name, ns.Addrs, serverTTL)...)
		}
	}
	for _, line := range cfg.Records {
		rr, err := fixedRecord(cfg.Zone, line)
		if err != nil {
			return nil, err
		}
		name := rr.Header().Name
		all[name] = append(all[name], rr)
	}
	return all, checkAliases(all)
}

func fixedRecord(zone, line string) (dns.RR, error) {
	if strings.ContainsAny(line, "\n\r") || strings.HasPrefix(strings.TrimSpace(line), "$") {
		return nil, fmt.Errorf("cannot use record %q: want one line, without directives", line)
	}
	p := dns.NewZoneParser(strings.NewReader(line+"\n"), zone, "")
	p.SetDefaultTTL(fixedTTL)
	rr, _ := p.Next()
	if err := p.Err(); err != nil || rr == nil {
		return nil, fmt.Errorf(`cannot use record %q: %w; want a line as in a zone file, @ CAA 0 issue "letsencrypt.org"`, line, orEmpty(err))
	}
	h := rr.Header()
	h.Name = dns.CanonicalName(h.Name)
	if !dns.IsSubDomain(zone, h.Name) {
		return nil, fmt.Errorf("cannot use record %q: %s is not in zone %s", line, h.Name, zone)
	}
	switch h.Rrtype {
	case dns.TypeSOA, dns.TypeNS, dns.TypeDS, dns.TypeDNAME, dns.TypeOPT:
		return nil, fmt.Errorf("cannot use record %q: the zone makes its own SOA and NS records and delegates nothing", line)
	}
	return rr, nil
}

func orEmpty(err error) error {
	if err == nil {
		return fmt.Errorf("it is empty")
	}
	return err
}

// checkAliases refuses a CNAME beside other records, which resolvers do not take.
func checkAliases(all map[string][]dns.RR) error {
	for name, rrs := range all {
		for _, rr := range rrs {
			if rr.Header().Rrtype == dns.TypeCNAME && len(rrs) > 1 {
				return fmt.Errorf("cannot use the records of %s: a CNAME must be the only one", name)
			}
		}
	}
	return nil
}

// startOfAuthority is the SOA but for its serial.
func startOfAuthority(cfg Config) dns.SOA {
	first, _ := fullName(cfg.NameServers[0].Name) // checked
	user, host, _ := strings.Cut(cfg.Mailbox, "@")
	return dns.SOA{
		Hdr: header(cfg.Zone, dns.TypeSOA, seconds(cfg.NegativeTTL)), Ns: first,
		Mbox:    strings.ReplaceAll(user, ".", `\.`) + "." + dns.Fqdn(host),
		Refresh: seconds(time.Hour), Retry: seconds(10 * time.Minute), Expire: seconds(14 * 24 * time.Hour), Minttl: seconds(cfg.NegativeTTL),
	}
}
