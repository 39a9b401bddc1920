package httpapi

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perigee-run/perigee/api"
	"golang.org/x/time/rate"
)

func (k *kit) limited(perSecond float64) { k.server.rates = newRates(perSecond) }

// TestRates: an operation on one machine, another operation, another machine, looks.
func TestRates(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	other, err := k.CreateMachine(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "one"}})
	if err != nil {
		t.Fatal(err)
	}
	k.limited(0.5) // three at once, then one in two seconds
	for i := range 3 {
		if err := k.CordonMachine(t.Context(), "shop", m.ID); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	resp, b := k.do(t, "POST", "/v1/apps/shop/machines/"+m.ID+"/cordon", "Bearer "+secret, "")
	if resp.StatusCode != 429 || !isError(b, api.CodeRateLimited) || resp.Header.Get("Retry-After") != "2" || !strings.Contains(string(b), "0.5 times a second") {
		t.Errorf("the fourth: %d %s, after %q", resp.StatusCode, b, resp.Header.Get("Retry-After"))
	}
	if err := k.CordonMachine(t.Context(), "shop", other.ID); err != nil {
		t.Errorf("another machine: %v", err)
	}
	if err := k.UncordonMachine(t.Context(), "shop", m.ID); err != nil {
		t.Errorf("another operation: %v", err)
	}
	for range 15 {
		if _, err := k.GetMachine(t.Context(), "shop", m.ID); err != nil {
			t.Fatalf("a look: %v", err)
		}
	}
	if _, err := k.GetMachine(t.Context(), "shop", m.ID); !api.IsCode(err, api.CodeRateLimited) {
		t.Errorf("too many looks: %v", err)
	}
}

// TestRatesOfNothing: what is not there is no key of its own, and another app's machine
// does not pay for calls under one's own app.
func TestRatesOfNothing(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	if _, err := k.CreateApp(t.Context(), api.CreateAppRequest{AppName: "mine"}); err != nil {
		t.Fatal(err)
	}
	k.limited(1)
	keys := func() int {
		k.server.rates.mu.Lock()
		defer k.server.rates.mu.Unlock()
		return len(k.server.rates.all)
	}
	before := keys()
	for i := range 30 {
		for _, path := range []string{"mine/machines/" + m.ID, fmt.Sprintf("mine/machines/%014x", i), fmt.Sprintf("none%d/machines/%014x", i, i)} {
			if resp, b := k.do(t, "POST", "/v1/apps/"+path+"/cordon", "Bearer "+secret, ""); resp.StatusCode != 404 && resp.StatusCode != 429 {
				t.Fatalf("%s: %d %s", path, resp.StatusCode, b)
			}
		}
	}
	if n := keys() - before; n > 2 {
		t.Errorf("90 calls on two apps, one of which is not there, made %d keys", n)
	}
	if err := k.CordonMachine(t.Context(), "shop", m.ID); err != nil {
		t.Errorf("the owner's call: %v", err)
	}
}

// TestRatesForget: tokens come back, and what was called long ago takes no memory.
func TestRatesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRates(1)
		for i := range maxRates {
			r.all[fmt.Sprint(i)] = rate.NewLimiter(1, 6)
			r.all[fmt.Sprint(i)].AllowN(time.Now(), 6)
		}
		kept := r.all["7"]
		r.forget(time.Now())
		if len(r.all) != 0 {
			t.Errorf("%d are kept beyond the most", len(r.all))
		}
		time.Sleep(6 * time.Second)
		if !kept.AllowN(time.Now(), 6) {
			t.Error("tokens do not come back")
		}
	})
}
