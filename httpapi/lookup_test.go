package httpapi

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// splitHorizon is the DNS of a company, whose names inside lead to its own networks.
type splitHorizon map[string][]string

func (d splitHorizon) LookupNetIP(_ context.Context, _, host string) (out []netip.Addr, _ error) {
	for _, ip := range d[host] {
		out = append(out, netip.MustParseAddr(ip))
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.0.0.2:53", IsNotFound: true}
	}
	return out, nil
}

func (splitHorizon) LookupCNAME(context.Context, string) (string, error) {
	return "db1.rack7.corp.", nil
}
func (splitHorizon) LookupTXT(context.Context, string) ([]string, error) { return nil, nil }

// TestPrivateAnswersStayInside: what the node's resolver knows of networks that are not
// public is not shown to who adds such a name, unless it is where the cloud itself is.
func TestPrivateAnswersStayInside(t *testing.T) {
	s := &Server{cfg: Config{Resolver: splitHorizon{
		"db.corp.example": {"10.1.2.3", "fd00::7", "::ffff:192.168.3.3", "100.64.0.9", "127.0.0.1", "169.254.1.1", "fe80::1"}, "both.example.com": {"10.1.2.3", "192.0.2.1"},
		"out.example.com": {"192.0.2.1"}, "lan.example.com": {"10.9.9.9"},
	}}}
	for host, want := range map[string]struct {
		shown []string
		alias bool
		says  string
	}{
		"db.corp.example":  {[]string{}, false, "not public"},
		"both.example.com": {[]string{"192.0.2.1"}, false, "192.0.2.1"},
		"out.example.com":  {[]string{"192.0.2.1"}, true, "192.0.2.1"},
		"lan.example.com":  {[]string{"10.9.9.9"}, true, ""},
		"none.example.com": {[]string{}, true, "there is no such host"},
	} {
		c := &api.Certificate{Hostname: host, DNSRequirements: api.DNSRequirements{A: []string{"10.9.9.9"}, CNAME: "shop.node.example"}}
		s.lookUp(t.Context(), c)
		if !slices.Equal(c.DNSRecords.ResolvedAddresses, want.shown) || (len(c.DNSRecords.CNAME) > 0) != want.alias || c.Configured != (want.says == "") {
			t.Errorf("%s: %+v", host, c.DNSRecords)
		}
		all, _ := json.Marshal(c)
		if !strings.Contains(string(all), want.says) || strings.Contains(string(all), "10.1.2.3") || strings.Contains(string(all), "10.0.0.2") {
			t.Errorf("%s: %s", host, all)
		}
	}
}
