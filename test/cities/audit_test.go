//go:build linux

package cities

import (
	"net/http"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

// holder is who has a token, at the API of a city's node.
func (c *cloud) holder(city, token string) *api.Client {
	c.Helper()
	t := &http.Transport{DialContext: c.nodes[city].Dial}
	client, err := api.NewClient(api.ClientConfig{Addr: "http://127.0.0.1:4280", Token: token, Transport: t})
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(t.CloseIdleConnections)
	return client
}

// entries counts what the audit log, read in a city, has of a token: by operation, node
// and status, for the app shop.
func (c *cloud) entries(city, token string) map[string]int {
	c.Helper()
	list, err := c.nodes[city].Client().Audit(c.Context(), "personal", api.AuditQuery{App: "shop"})
	if err != nil || len(list.Missing) > 0 {
		c.Fatalf("the audit log in %s: %+v, %v", city, list, err)
	}
	got := map[string]int{}
	for _, e := range list.Entries {
		if e.Token == token && strings.HasSuffix(e.Who, "(ops)") && e.From != "" {
			got[strings.Join([]string{e.Operation, e.Node, http.StatusText(e.Status)}, " ")]++
		}
	}
	return got
}

// oneLog: what is done through either node stands once in one log, and a token that is
// revoked at one is useless at the other, also for what is under way there.
func (c *cloud) oneLog() {
	c.Helper()
	ctx := c.Context()
	made, err := c.nodes["iad"].Client().CreateToken(ctx, "personal", api.CreateTokenRequest{Kind: api.TokenOrg, Name: "ops"})
	if err != nil {
		c.Fatal(err)
	}
	iad, fra := c.holder("iad", made.Token), c.holder("fra", made.Token)
	machines, err := c.nodes["iad"].Client().ListMachines(ctx, "shop")
	if err != nil || len(machines) != 1 || machines[0].Node != "iad-1" {
		c.Fatalf("machines %+v, %v", machines, err)
	}
	c.eventually("fra knows the token", 10*time.Second, func() bool {
		_, err := fra.GetApp(ctx, "shop")
		return err == nil
	})
	if err := fra.CordonMachine(ctx, "shop", machines[0].ID); err != nil { // fra passes it on to iad
		c.Fatal(err)
	}
	if err := iad.UncordonMachine(ctx, "shop", machines[0].ID); err != nil {
		c.Fatal(err)
	}
	for _, city := range []string{"iad", "fra"} {
		got := c.entries(city, made.ID)
		if len(got) != 2 || got["Machines_cordon fra-1 OK"] != 1 || got["Machines_uncordon iad-1 OK"] != 1 {
			c.Errorf("the audit log in %s says %v", city, got)
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, err := range fra.Logs(ctx, "shop", api.LogQuery{Follow: true}) {
			if err != nil {
				return
			}
		}
	}()
	if err := c.nodes["iad"].Client().RevokeToken(ctx, "personal", made.ID); err != nil {
		c.Fatal(err)
	}
	c.eventually("fra refuses the token", 5*time.Second, func() bool {
		return api.IsCode(fra.StopMachine(ctx, "shop", machines[0].ID, api.StopRequest{}), api.CodeUnauthorized)
	})
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		c.Error("a stream at fra outlives the token")
	}
	list, err := c.nodes["iad"].Client().Audit(ctx, "personal", api.AuditQuery{App: "shop"})
	if err != nil || len(list.Entries) == 0 || list.Entries[0].Operation != "Machines_stop" || list.Entries[0].Node != "fra-1" || list.Entries[0].Status != http.StatusUnauthorized {
		c.Errorf("what was refused at fra is not the newest in iad's log: %+v, %v", list.Entries, err)
	}
}
