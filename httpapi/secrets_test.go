package httpapi

import (
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestSecretStatus: staged until machines are made or updated, then partial, then
// deployed.
func TestSecretStatus(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	value := "v"
	set, err := k.SetSecrets(t.Context(), "shop", map[string]*string{"KEY": &value})
	if err != nil || set.Version != 1 || set.Secrets[0].Status != api.SecretStaged {
		t.Fatalf("%+v, %v", set, err)
	}
	status := func(want string) {
		t.Helper()
		all, err := k.ListSecrets(t.Context(), "shop")
		if err != nil || len(all) != 1 || all[0].Status != want || all[0].Digest == "" {
			t.Errorf("%+v, %v, want %s", all, err, want)
		}
	}
	status(api.SecretStaged)
	least := uint64(1)
	req := api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}, MinSecretsVersion: &least}
	if _, err := k.CreateMachine(t.Context(), "shop", req); err != nil {
		t.Fatal(err)
	}
	status(api.SecretPartial)
	if _, err := k.UpdateMachine(t.Context(), "shop", m.ID, req); err != nil {
		t.Fatal(err)
	}
	status(api.SecretDeployed)
	least = 7
	if _, err := k.CreateMachine(t.Context(), "shop", req); !api.IsCode(err, api.CodeConflict) || !strings.Contains(err.Error(), "not yet 7") {
		t.Errorf("a version that is not known: %v", err)
	}
	for query, want := range map[string]int{"?min_version=1": 200, "?min_version=2": 409, "?min_version=x": 422, "?show_secrets=false": 200, "?show_secrets=true": 422} {
		resp, b := k.do(t, "GET", "/v1/apps/shop/secrets"+query, "Bearer "+secret, "")
		if resp.StatusCode != want || strings.Contains(string(b), `"v"`) {
			t.Errorf("%s: %d %s", query, resp.StatusCode, b)
		}
	}
	if resp, b := k.do(t, "POST", "/v1/apps/shop/secrets/KEY", "Bearer "+secret, `{"value":"w"}`); resp.StatusCode != 200 || !strings.Contains(string(b), `"name":"KEY"`) || !strings.Contains(string(b), `"version":2`) {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
	status(api.SecretStaged)
	// One that is removed is shown for as long as a machine has it.
	if _, err := k.SetSecrets(t.Context(), "shop", map[string]*string{"KEY": nil}); err != nil {
		t.Fatal(err)
	}
	all, err := k.AllSecrets(t.Context(), "shop")
	if err != nil || len(all.Secrets) != 0 || len(all.Removed) != 1 || all.Removed[0].Name != "KEY" || all.Removed[0].Status != api.SecretRemoved {
		t.Errorf("after the removal: %+v, %v", all, err)
	}
	machines, err := k.ListMachines(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range machines {
		if _, err := k.UpdateMachine(t.Context(), "shop", m.ID, api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}}); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := k.AllSecrets(t.Context(), "shop"); err != nil || len(all.Removed) != 0 {
		t.Errorf("after the deploy: %+v, %v", all, err)
	}
}
