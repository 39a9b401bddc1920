package httpapi

import (
	"net/http"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestIPs: the calls for addresses of an app's own, as Fly's clients make them.
func TestIPs(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	resp, b := k.do(t, http.MethodGet, "/v1/apps/shop/ip_assignments", "Bearer "+secret, "")
	if resp.StatusCode != http.StatusOK || strings.TrimSpace(string(b)) != `{"ips":[]}` {
		t.Errorf("none yet: %d %s", resp.StatusCode, b)
	}
	resp, b = k.do(t, http.MethodPost, "/v1/apps/shop/ip_assignments", "Bearer "+secret, `{"type":"v6","region":"","org_slug":"personal","network":"","service_name":""}`)
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(b), `"ip":"2001:db8:f:`) || !strings.Contains(string(b), `"shared":false`) {
		t.Errorf("allocated: %d %s", resp.StatusCode, b)
	}
	ips, err := k.ListIPs(t.Context(), "shop")
	if err != nil || len(ips) != 1 {
		t.Fatalf("list: %v, %v", ips, err)
	}
	if _, err := k.AllocateIP(t.Context(), "shop", api.AllocateIPRequest{Type: "v4"}); !api.IsCode(err, api.CodeUnsupported) {
		t.Errorf("without a pool: %v", err)
	}
	if err := k.ReleaseIP(t.Context(), "shop", ips[0].IP); err != nil {
		t.Error(err)
	}
	if err := k.ReleaseIP(t.Context(), "shop", ips[0].IP); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("released twice: %v", err)
	}
	if _, err := k.ListIPs(t.Context(), "none"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("of no app: %v", err)
	}
	if resp, _ := k.do(t, http.MethodGet, "/v1/apps/shop/ip_assignments", "", ""); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %d", resp.StatusCode)
	}
}
