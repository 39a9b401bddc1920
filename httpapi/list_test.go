package httpapi

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func ids(all []api.Machine) (out []string) {
	for _, m := range all {
		out = append(out, m.ID)
	}
	return out
}

// TestListInParts walks through a list by its cursors, while a machine goes.
func TestListInParts(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	var made []string
	for range 5 {
		m, err := k.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{SkipLaunch: true, Config: &api.MachineConfig{Image: "one"}})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, m.ID)
	}
	part, next, err := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{Limit: 2})
	if err != nil || next == "" || !slices.Equal(ids(part), made[:2]) {
		t.Fatalf("first part %v %q %v", ids(part), next, err)
	}
	if err := k.DestroyMachine(t.Context(), "shop", made[1], true); err != nil { // the one that the cursor names
		t.Fatal(err)
	}
	rest, end, err := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{Limit: 3, Cursor: next})
	if err != nil || end != "" || !slices.Equal(ids(rest), made[2:]) {
		t.Errorf("second part %v %q %v, want %v", ids(rest), end, err, made[2:])
	}
	all, _, err := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{IncludeDeleted: true})
	if err != nil || !slices.Equal(ids(all), made) || all[1].State != api.StateDestroyed {
		t.Errorf("with the destroyed one: %v %v", ids(all), err)
	}
	gone, _, _ := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{IncludeDeleted: true, States: []string{"destroyed"}})
	if !slices.Equal(ids(gone), made[1:2]) {
		t.Errorf("destroyed: %v", ids(gone))
	}
}

func TestListShowsWhatIsAskedFor(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	k.machine(t, "blog")
	if _, err := k.AcquireLease(t.Context(), "shop", m.ID, api.LeaseRequest{Description: "a deploy"}); err != nil {
		t.Fatal(err)
	}
	all, _, err := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{IncludeLeases: true, Region: "fra", States: []string{"started", "stopped"}})
	if err != nil || len(all) != 1 || all[0].Lease == nil || all[0].Lease.Description != "a deploy" || all[0].Lease.Nonce != "" {
		t.Errorf("with leases: %+v %v", all, err)
	}
	brief, _, _ := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{Summary: true})
	if len(brief) != 1 || brief[0].Config != nil || brief[0].Events != nil || brief[0].State != "started" {
		t.Errorf("summary: %+v", brief)
	}
	org, err := k.ListOrgMachines(t.Context(), "personal", api.MachineFilter{Limit: 1})
	if err != nil || len(org.Machines) != 1 || org.NextCursor == "" || org.Machines[0].AppName != "shop" || org.LastMachineID != m.ID {
		t.Fatalf("org: %+v %v", org, err)
	}
	rest, err := k.ListOrgMachines(t.Context(), "personal", api.MachineFilter{Cursor: org.NextCursor})
	if err != nil || len(rest.Machines) != 1 || rest.NextCursor != "" || rest.Machines[0].AppName != "blog" || rest.Machines[0].AppID == "" {
		t.Errorf("rest of the org: %+v %v", rest, err)
	}
	late, err := k.ListOrgMachines(t.Context(), "personal", api.MachineFilter{UpdatedAfter: time.Now().Add(time.Hour)})
	if err != nil || len(late.Machines) != 0 {
		t.Errorf("changed in the future: %+v %v", late, err)
	}
	if _, err := k.ListOrgMachines(t.Context(), "nobody", api.MachineFilter{}); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("org that is not there: %v", err)
	}
}

func TestListRefuses(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	for field, value := range map[string]string{"state": "running", "limit": "0", "cursor": "abc", "include_deleted": "perhaps", "updated_after": "noon"} {
		at := "/v1/apps/shop/machines?"
		if field == "updated_after" {
			at = "/v1/orgs/personal/machines?"
		}
		resp, b := k.do(t, "GET", at+url.Values{field: {value}}.Encode(), "Bearer "+secret, "")
		var e api.Error
		if json.Unmarshal(b, &e) != nil || resp.StatusCode != 422 || e.Field != field || !strings.Contains(e.Message, value) || e.Kind != "unknown" {
			t.Errorf("%s=%s: %d %s", field, value, resp.StatusCode, b)
		}
	}
	_, b := k.do(t, "POST", "/v1/apps", "Bearer "+secret, `{"name":"shop"}`)
	if !strings.Contains(string(b), `"status":"name_taken"`) {
		t.Errorf("a name that is taken: %s", b)
	}
}

func TestMemory(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	m, err := k.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one", Guest: &api.Guest{MemoryMB: 256, MaxMemoryMB: 1024}}})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := k.Memory(t.Context(), "shop", m.ID); err != nil || now.LimitMB != 256 || now.AvailableMB != 256 {
		t.Errorf("at first %+v %v", now, err)
	}
	if now, err := k.SetMemory(t.Context(), "shop", m.ID, 1000); err != nil || now.LimitMB != 1000 {
		t.Errorf("raised %+v %v", now, err)
	}
	if _, err := k.SetMemory(t.Context(), "shop", m.ID, 1025); !api.IsCode(err, api.CodeInvalid) {
		t.Errorf("above the most: %v", err)
	}
	if freed, err := k.ReclaimMemory(t.Context(), "shop", m.ID, 10); err != nil || freed != 5 {
		t.Errorf("reclaimed %d %v", freed, err)
	}
	if err := k.RestartMachine(t.Context(), "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	if now, err := k.Memory(t.Context(), "shop", m.ID); err != nil || now.LimitMB != 256 {
		t.Errorf("after a start %+v %v", now, err)
	}
	if err := k.StopMachine(t.Context(), "shop", m.ID, api.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Memory(t.Context(), "shop", m.ID); !api.IsCode(err, api.CodePrecondition) {
		t.Errorf("stopped: %v", err)
	}
}

// TestQuirksOfFlysClients sends what they send.
func TestQuirksOfFlysClients(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	base := "/v1/apps/shop/machines/" + m.ID
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/signal", `{"signal":1}`, `{"ok":true}`},
		{"POST", "/stop", `{"id":"` + m.ID + `","signal":"SIGTERM","timeout":"1s"}`, `{"ok":true}`},
		{"POST", "/start", "", `"previous_state":"stopped"`},
		{"POST", "/restart?force_stop=true&timeout=10s", "", `{"ok":true}`},
		{"GET", "/ps", "", `"listen_sockets":[]`},
		{"POST", "/exec", `{"cmd":"echo 'a b'","machine":true,"timeout":5}`, `"stdout":"a b\n"`},
		{"POST", "/exec", `{"cmd":"echo","container":"main"}`, `"field":"container"`},
		{"DELETE", "?kill=true", "", `{"ok":true}`},
	} {
		if _, b := k.do(t, c.method, base+c.path, "Bearer "+secret, c.body); !strings.Contains(string(b), c.want) {
			t.Errorf("%s %s %s: %s", c.method, c.path, c.body, b)
		}
	}
	resp, b := k.do(t, "POST", "/v1/apps?wait=true", "Bearer "+secret, `{"name":"blog","org_slug":"personal","network":"","app_role_id":""}`)
	var a api.CreateAppResponse
	if json.Unmarshal(b, &a) != nil || resp.StatusCode != 201 || a.Name != "blog" || a.Organization.Slug != "personal" || a.InternalNumericID == 0 {
		t.Errorf("created app: %d %s", resp.StatusCode, b)
	}
}
