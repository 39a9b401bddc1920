package api

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// AuditEntry is one call that somebody made, or was refused. It never holds what
// the call carried.
type AuditEntry struct {
	Time      time.Time `json:"time" doc:"When it ended, or began"`
	Request   string    `json:"request_id,omitempty"`
	Who       string    `json:"who,omitempty" doc:"Missing: nobody, the call had no valid token"`
	Token     string    `json:"token_id,omitempty"`
	From      string    `json:"from,omitempty" doc:"Address, or unix"`
	Node      string    `json:"node" doc:"Which answered"`
	Operation string    `json:"operation" doc:"As in the document"`
	Org       string    `json:"org,omitempty"`
	App       string    `json:"app,omitempty"`
	Machine   string    `json:"machine,omitempty"`
	Status    int       `json:"status" doc:"HTTP status; 0 where the call has begun: one that may last is written down at both ends"`
	Code      string    `json:"code,omitempty" doc:"Why not, a code of Error"`
	TookMS    int64     `json:"took_ms"`
	Skipped   int       `json:"skipped,omitempty" doc:"So many refused calls before this one were not written down: there were too many at once"`
}

// AuditList is entries, newest first.
type AuditList struct {
	Entries []AuditEntry `json:"entries"`
	// Missing nodes did not answer.
	Missing []string `json:"missing,omitempty" doc:"Nodes that could not be asked: what they recorded is not here"`
}

// AuditQuery says which entries Audit gives.
type AuditQuery struct {
	App   string
	Since time.Time // leave out what is older
	Limit int       // at most so many, the newest; 0: 100
}

// Audit returns who did what in an org, newest first; org "" stands for all of the
// cloud.
func (c *Client) Audit(ctx context.Context, org string, q AuditQuery) (r AuditList, err error) {
	v := url.Values{}
	if q.App != "" {
		v.Set("app", q.App)
	}
	if !q.Since.IsZero() {
		v.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	path := pathf("/audit")
	if org != "" {
		path = pathf("/orgs/%s/audit", org)
	}
	return r, c.call(ctx, http.MethodGet, path, v, nil, &r)
}
