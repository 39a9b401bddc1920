package httpapi

import (
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
	"github.com/perigee-run/perigee/token/caveat"
)

// TestSomeMachines: a token for single machines sees those in lists, and no other.
func TestSomeMachines(t *testing.T) {
	k := newKit(t)
	mine, other := k.machine(t, "shop"), api.Machine{}
	var err error
	if other, err = k.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}}); err != nil {
		t.Fatal(err)
	}
	k.machine(t, "far")
	made, err := k.CreateToken(t.Context(), "personal", api.CreateTokenRequest{Kind: api.TokenMachineExec, App: "shop", Machines: []string{mine.ID}})
	if err != nil {
		t.Fatal(err)
	}
	narrow, err := api.NewClient(api.ClientConfig{Addr: k.url, Token: made.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer narrow.Close()
	list, err := narrow.ListMachines(t.Context(), "shop")
	if err != nil || len(list) != 1 || list[0].ID != mine.ID {
		t.Errorf("it sees %+v, %v", list, err)
	}
	org, err := narrow.ListOrgMachines(t.Context(), "personal", api.MachineFilter{})
	if err != nil || len(org.Machines) != 1 || org.Machines[0].ID != mine.ID {
		t.Errorf("in the org it sees %+v, %v", org, err)
	}
	if _, err := narrow.GetMachine(t.Context(), "shop", other.ID); !api.IsCode(err, api.CodeForbidden) {
		t.Errorf("another machine: %v", err)
	}
	if _, err := narrow.ListMachines(t.Context(), "far"); !api.IsCode(err, api.CodeForbidden) {
		t.Errorf("another app: %v", err)
	}
	if r, err := narrow.Exec(t.Context(), "shop", mine.ID, api.ExecRequest{Command: []string{"true"}}); err != nil || r.ExitCode != 0 {
		t.Errorf("exec: %+v, %v", r, err)
	}
}

// TestMayEnter: a certificate is for what the token reaches, all of it where none is named.
func TestMayEnter(t *testing.T) {
	k := newKit(t)
	k.app(t, "shop")
	k.app(t, "web")
	limit := func(name string, words ...string) caveat.Caveat { return caveat.Caveat{Name: name, Words: words} }
	all := token.Limits{limit(caveat.Org, "personal"), limit(caveat.Actions, "reads", "shells")}
	for _, tt := range []struct {
		limits               token.Limits
		apps, machines, want string // the certificate's apps and machines; "no" where it is refused
	}{
		{all, "", "", " "}, {all, "shop", "m1", "shop m1"}, {all, "none", "", "no"},
		{append(slices.Clip(all), limit(caveat.Apps, "shop", "web")), "", "", "shop,web "}, {append(slices.Clip(all), limit(caveat.Apps, "shop")), "shop", "m1", "shop m1"},
		{append(slices.Clip(all), limit(caveat.Apps, "shop")), "shop,web", "", "no"},
		{append(slices.Clip(all), limit(caveat.Machines, "m1", "m2")), "", "", " m1,m2"}, {append(slices.Clip(all), limit(caveat.Machines, "m1", "m2")), "shop", "m2", "shop m2"},
		{append(slices.Clip(all), limit(caveat.Machines, "m1")), "shop", "m1,m2", "no"},
		{append(slices.Clip(all), limit(caveat.Machines, "m1"), limit(caveat.Machines, "m2")), "shop", "", "no"},
		{token.Limits{limit(caveat.Org, "other")}, "shop", "", "no"}, {token.Limits{limit(caveat.Org, "personal"), limit(caveat.Actions, "reads")}, "", "", "no"},
	} {
		c := &call{server: k.server, who: Principal{Scope: tt.limits}}
		split := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
		in := api.SSHCertificateRequest{Apps: split(tt.apps), Machines: split(tt.machines)}
		got := "no"
		if err := c.mayEnter("personal", &in); err == nil {
			got = strings.Join(in.Apps, ",") + " " + strings.Join(in.Machines, ",")
		}
		if got != tt.want {
			t.Errorf("%v of apps %q and machines %q: %q, want %q", tt.limits, tt.apps, tt.machines, got, tt.want)
		}
	}
	c := &call{server: k.server, who: Principal{Scope: token.Full{}}}
	if err := c.mayEnter("personal", &api.SSHCertificateRequest{}); err != nil {
		t.Errorf("the cloud's own: %v", err)
	}
}
