package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// NextCursorHeader is on answers that a limit cut short: it goes into the query
// parameter cursor of the next call.
const NextCursorHeader = "fly-next-cursor"

// MachineFilter says which machines are listed.
type MachineFilter struct {
	Region         string
	States         []string          // one of these
	Metadata       map[string]string // all of these
	IncludeDeleted bool              // also those destroyed lately
	Summary        bool              // without configuration, events and checks
	IncludeLeases  bool
	UpdatedAfter   time.Time // ListOrgMachines only
	Cursor         string
	Limit          int // 1000 at most; 0: all, of an org's a thousand
}

func (f MachineFilter) query() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"region": f.Region, "state": strings.Join(f.States, ","), "cursor": f.Cursor} {
		if v != "" {
			q.Set(name, v)
		}
	}
	for name, v := range map[string]bool{"include_deleted": f.IncludeDeleted, "summary": f.Summary, "include_leases": f.IncludeLeases} {
		if v {
			q.Set(name, "true")
		}
	}
	for k, v := range f.Metadata {
		q.Set("metadata."+k, v)
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	if !f.UpdatedAfter.IsZero() {
		q.Set("updated_after", f.UpdatedAfter.UTC().Format(time.RFC3339Nano))
	}
	return q
}

// OrgMachines is a part of an org's machines (GET /v1/orgs/{org}/machines).
type OrgMachines struct {
	Machines      []OrgMachine `json:"machines"`
	NextCursor    string       `json:"next_cursor,omitempty" doc:"Into cursor for the next part; missing with the last"`
	LastMachineID string       `json:"last_machine_id,omitempty" doc:"The last one of this part"`
	LastUpdatedAt time.Time    `json:"last_updated_at,omitzero" doc:"The latest change among those of this part"`
}

// OrgMachine is a machine with its app.
type OrgMachine struct {
	Machine
	AppID   string `json:"app_id"`
	AppName string `json:"app_name"`
}

// ListMachinesBy returns machines of the app, oldest first, and the cursor of the next
// part, "" if there is none.
func (c *Client) ListMachinesBy(ctx context.Context, app string, f MachineFilter) (m []Machine, next string, err error) {
	h, err := c.callHead(ctx, http.MethodGet, pathf("/apps/%s/machines", app), f.query(), nil, &m)
	return m, h.Get(NextCursorHeader), err
}

// ListOrgMachines returns machines of all apps of an org, oldest first.
func (c *Client) ListOrgMachines(ctx context.Context, org string, f MachineFilter) (m OrgMachines, err error) {
	return m, c.call(ctx, http.MethodGet, pathf("/orgs/%s/machines", org), f.query(), nil, &m)
}
