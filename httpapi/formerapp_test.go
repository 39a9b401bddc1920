package httpapi

import (
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestMachinesOfAFormerAppAreNotListed: who makes an app of a name that another org's
// had sees nothing of that one's machines.
func TestMachinesOfAFormerAppAreNotListed(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	if _, err := k.apps.EnsureOrg(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	if err := k.DestroyMachine(t.Context(), "shop", m.ID, true); err != nil {
		t.Fatal(err)
	}
	for _, org := range []string{"other", "personal"} {
		if err := k.DeleteApp(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		if _, err := k.CreateApp(t.Context(), api.CreateAppRequest{AppName: "shop", OrgSlug: org}); err != nil {
			t.Fatal(err)
		}
		all, _, err := k.ListMachinesBy(t.Context(), "shop", api.MachineFilter{IncludeDeleted: true})
		if err != nil || len(all) != 0 {
			t.Errorf("the new app of %s has %+v, %v", org, all, err)
		}
		if _, b := k.do(t, "GET", "/v1/orgs/"+org+"/machines?include_deleted=true", "Bearer "+secret, ""); string(b) == "" || strings.Contains(string(b), m.ID) {
			t.Errorf("org %s has %s", org, b)
		}
	}
	if got := k.machines.Deleted(t.Context(), "shop"); len(got) != 1 {
		t.Errorf("the node remembers %+v", got)
	}
}

func TestImageNameWithoutTag(t *testing.T) {
	for want, i := range map[string]api.ImageRef{"shop": {Repository: "shop"}, "shop:v1": {Repository: "shop", Tag: "v1"}} {
		if got := imageName(i); got != want {
			t.Errorf("%+v is %q", i, got)
		}
	}
}
