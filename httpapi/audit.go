package httpapi

import (
	"context"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// Audit keeps who did what.
type Audit interface {
	// Record writes an entry down before it returns.
	Record(e api.AuditEntry)
	// Audit reads the entries of an org, "" being all, newest first; of this node
	// alone where another node asks.
	Audit(ctx context.Context, org string, q api.AuditQuery) (api.AuditList, error)
}

func (s *Server) auditRoutes() []route {
	query := []param{{"app", "string", "Only of this app"}, {"since", "string", "A time (RFC 3339), or how long ago, such as 10m"}, {"limit", "integer", "At most so many, the newest; default 100, at most 10000"}}
	return []route{
		{rGet, pOrg + "/audit", owns, "Audit_list", "List who did what in the org, newest first", query, get(s.listAudit)},
		{rGet, "/v1/audit", operates, "Audit_list_all", "List who did what in the cloud, newest first", query, get(s.listAudit)},
	}
}

func (s *Server) listAudit(c *call) (api.AuditList, error) {
	var err error
	q := api.AuditQuery{App: c.text("app")}
	if q.Limit, err = c.int("limit"); err != nil {
		return api.AuditList{}, err
	}
	if q.Limit < 0 || q.Limit > 10_000 {
		return api.AuditList{}, invalid("limit", "limit is %d; it can be 1 to 10000", q.Limit)
	}
	if q.Since, err = since(c.text("since")); err != nil {
		return api.AuditList{}, err
	}
	if s.cfg.Audit == nil {
		return api.AuditList{Entries: []api.AuditEntry{}}, nil
	}
	return s.cfg.Audit.Audit(c.r.Context(), c.path("org_slug"), q)
}

// audited reports whether a call of the route is written down though it was let
// in: it changes something, runs a command, or opens a session.
func (r *route) audited() bool {
	switch r.access {
	case execs, shells:
		return true
	case changes, owns, operates:
		return r.method != http.MethodGet
	}
	return false
}

// audit writes down a call that has ended.
func (c *call) audit(began time.Time) {
	status := http.StatusInternalServerError // it panicked, with nothing sent
	if rec, ok := c.w.(*Recorder); ok && rec.Status != 0 {
		status = rec.Status
	}
	if refused := status == http.StatusUnauthorized || status == http.StatusForbidden; refused || c.route.audited() {
		c.record(began, status)
	}
}

// auditBegin writes down a call that may last, so that what it did is known though
// nobody lives to see its end.
func (c *call) auditBegin() {
	if c.route.audited() && c.route.lasts() {
		c.record(time.Now(), 0)
	}
}

// record makes an entry, with what the call was about when it began: afterwards its
// app may be gone. What another node passes on, that node has written down.
func (c *call) record(began time.Time, status int) {
	if c.server.cfg.Audit == nil || c.who.Node != "" {
		return
	}
	c.server.cfg.Audit.Record(api.AuditEntry{
		Time: time.Now().UTC(), Request: c.w.Header().Get(api.RequestIDHeader), Who: c.who.Name, Token: c.who.Token, From: From(c.r), Operation: c.route.id,
		Org: c.about.Org, App: c.about.App, Machine: c.about.Machine, Status: status, Code: c.code, TookMS: time.Since(began).Milliseconds(),
	})
}

// From is where a call comes from: an address, or unix.
func From(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || strings.HasPrefix(r.RemoteAddr, "@") {
		return "unix"
	}
	return host
}
