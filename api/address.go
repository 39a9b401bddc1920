package api

import (
	"context"
	"net/http"
	"time"
)

// IPAssignment is an address that belongs to one app.
type IPAssignment struct {
	IP          string    `json:"ip"`
	Type        string    `json:"type" doc:"v4, v6 or private_v6"`
	Region      string    `json:"region" doc:"global: every edge has it"`
	CreatedAt   time.Time `json:"created_at"`
	Shared      bool      `json:"shared" doc:"Always false here; shared addresses need no assignment"`
	ServiceName string    `json:"service_name,omitempty" doc:"Not used here"`
}

// ListIPsResponse is the answer of GET /v1/apps/{app}/ip_assignments.
type ListIPsResponse struct {
	IPs []IPAssignment `json:"ips"`
}

// AllocateIPRequest asks for an address (POST /v1/apps/{app}/ip_assignments).
type AllocateIPRequest struct {
	Type        string `json:"type" doc:"v4, v6 or private_v6, which every app has from the beginning; shared_v4 is refused in words"`
	Region      string `json:"region,omitempty" doc:"Empty or global"`
	OrgSlug     string `json:"org_slug,omitempty" doc:"Taken for Fly's clients and not looked at"`
	Network     string `json:"network,omitempty" doc:"Taken for Fly's clients and not looked at"`
	ServiceName string `json:"service_name,omitempty" doc:"Taken for Fly's clients and not looked at"`
}

// ListIPs returns the app's own addresses, oldest first.
func (c *Client) ListIPs(ctx context.Context, app string) ([]IPAssignment, error) {
	var r ListIPsResponse
	err := c.call(ctx, http.MethodGet, pathf("/apps/%s/ip_assignments", app), nil, nil, &r)
	return r.IPs, err
}

// AllocateIP gives the app an address of its own; CodeUnsupported if the cloud
// has no pool of the type, CodeCapacity if none is free.
func (c *Client) AllocateIP(ctx context.Context, app string, req AllocateIPRequest) (a IPAssignment, err error) {
	return a, c.call(ctx, http.MethodPost, pathf("/apps/%s/ip_assignments", app), nil, req, &a)
}

// ReleaseIP takes an address from the app.
func (c *Client) ReleaseIP(ctx context.Context, app, ip string) error {
	return c.ok(ctx, http.MethodDelete, pathf("/apps/%s/ip_assignments/%s", app, ip), nil, nil)
}
