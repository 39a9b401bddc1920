package node

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/audit"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/httpapi"
	"github.com/perigee-run/perigee/token"
)

// auditPatience is how long another node's entries are waited for.
const auditPatience = 5 * time.Second

// openAudit opens what this node keeps of who did what.
func (n *Node) openAudit(ctx context.Context) (err error) {
	n.audit, err = audit.New(ctx, audit.Config{JetStream: n.catalog.JetStream(), Node: n.cfg.Name, Room: n.roomForLogs, Logger: n.log})
	return err
}

// auditor is the audit log of all nodes; httpapi.Audit.
type auditor struct{ n *Node }

// Record implements httpapi.Audit: the node that answered keeps it.
func (a auditor) Record(e api.AuditEntry) { a.n.audit.Record(e) }

// Audit implements httpapi.Audit.
func (a auditor) Audit(ctx context.Context, org string, q api.AuditQuery) (api.AuditList, error) {
	var out api.AuditList
	var err error
	if out.Entries, err = a.n.audit.Read(ctx, org, q); err != nil || fleet.CallerOf(ctx).Node != "" {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, auditPatience)
	defer cancel()
	var mu sync.Mutex // guards out
	var all sync.WaitGroup
	for _, o := range a.n.others() {
		all.Go(func() {
			l, err := a.n.askAudit(ctx, o.Name, org, q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				a.n.log.Debug("cannot read the audit log of a node", "node", o.Name, "err", err)
				out.Missing = append(out.Missing, o.Name)
			}
			out.Entries = append(out.Entries, l.Entries...)
		})
	}
	all.Wait()
	slices.Sort(out.Missing)
	slices.SortStableFunc(out.Entries, func(x, y api.AuditEntry) int { return y.Time.Compare(x.Time) })
	out.Entries = out.Entries[:min(len(out.Entries), audit.Limit(q))]
	return out, nil
}

func (n *Node) askAudit(ctx context.Context, node, org string, q api.AuditQuery) (api.AuditList, error) {
	client, err := fleet.Over(n.cluster).Client(node)
	if err != nil {
		return api.AuditList{}, err
	}
	return client.Audit(ctx, org, q)
}

// auditPush writes down a push to the registry, or one that was refused.
func (n *Node) auditPush(r *http.Request, p httpapi.Principal, status int) {
	w := registryWant(r)
	refused := status == http.StatusUnauthorized || status == http.StatusForbidden
	if !refused && (w.Class != token.Changes || !strings.Contains(r.URL.Path, "/manifests/")) {
		return
	}
	if p.Node != "" || refused && p.Name == "" && r.Header.Get("Authorization") == "" {
		return // docker asks without a token first, to hear which kind is wanted
	}
	n.audit.Record(api.AuditEntry{Who: p.Name, Token: p.Token, From: httpapi.From(r), Operation: "Registry_" + strings.ToLower(r.Method), Org: n.orgOfApp(w.App), App: w.App, Status: status})
}

var _ httpapi.Audit = auditor{}
