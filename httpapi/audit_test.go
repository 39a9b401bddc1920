package httpapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// audited is an audit log in memory.
type audited struct {
	mu  sync.Mutex
	all []api.AuditEntry
}

func (a *audited) Record(e api.AuditEntry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, e)
}

func (a *audited) Audit(_ context.Context, org string, q api.AuditQuery) (api.AuditList, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := api.AuditList{Entries: []api.AuditEntry{}}
	for _, e := range a.all {
		if org == "" || e.Org == org {
			out.Entries = append(out.Entries, e)
		}
	}
	return out, nil
}

// TestAudit: what changes something and what was refused is written down, with who
// and what and nothing that the call carried.
func TestAudit(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	tok, err := k.CreateToken(t.Context(), "personal", api.CreateTokenRequest{Kind: api.TokenReadOnly, Name: "look"})
	if err != nil {
		t.Fatal(err)
	}
	k.audit.all = nil
	canary := "c4n4ry"
	k.do(t, "GET", "/v1/apps/shop", "Bearer "+secret, "")
	k.do(t, "POST", "/v1/apps/shop/secrets?x="+canary, "Bearer "+secret, `{"values":{"KEY":"`+canary+`"}}`)
	k.do(t, "POST", "/v1/apps/shop/machines/"+m.ID+"/exec", "Bearer "+secret, `{"command":["true","`+canary+`"]}`)
	k.do(t, "POST", "/v1/apps/shop/machines/"+m.ID+"/stop", "Bearer "+tok.Token, "")
	k.do(t, "GET", "/v1/apps/shop", "Bearer "+canary, "")
	k.do(t, "POST", "/v1/apps", "Bearer "+secret, "{}")
	var got []string
	list, err := k.Audit(t.Context(), "", api.AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Entries {
		got = append(got, strings.TrimSpace(fmt.Sprint(e.Operation, " ", e.Org, " ", e.App, " ", e.Status, " ", e.Code, " ", strings.ReplaceAll(e.Who, tok.ID, "ID"), " ", e.Machine == m.ID)))
		if e.Request == "" || e.From != "127.0.0.1" || e.Time.IsZero() || strings.Contains(fmt.Sprint(e), canary) {
			t.Errorf("%+v", e)
		}
	}
	want := []string{"Secrets_update personal shop 200  token false", "Machines_exec personal shop 0  token true", "Machines_exec personal shop 200  token true",
		"Machines_stop personal shop 403 forbidden token:ID (look) true", "Apps_show personal shop 401 unauthorized  false", "Apps_create personal  422 invalid token false"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("entries are\n%s", strings.Join(got, "\n"))
	}
	if list, err := k.Audit(t.Context(), "personal", api.AuditQuery{}); err != nil || len(list.Entries) != 6 {
		t.Errorf("%+v, %v", list, err)
	}
}
