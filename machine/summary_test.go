package machine

import (
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
)

func someSummary(i int) Summary {
	env := map[string]string{}
	for n := range 20 {
		env[fmt.Sprint("SETTING_", n)] = "a value of some length"
	}
	version := uint64(3)
	return Summary{
		ID: fmt.Sprintf("%014x", i), App: "shop", Org: "acme", Name: fmt.Sprint("quiet-river-", i), Node: fmt.Sprint("n", i%100), Region: "fra",
		Group: "app", PrivateIP: fmt.Sprintf("fdaa:0:1::%x", i), State: api.StateStarted, Since: time.Now().UTC(), Healthy: true,
		Checks: []CheckSummary{{"http", "passing"}}, Version: newVersion(), Release: 4, SecretsVersion: &version,
		Config: &api.MachineConfig{Image: "registry/shop@sha256:abc", Env: env, Guest: &api.Guest{CPUs: 1, MemoryMB: 256}, Services: []api.Service{{Protocol: "tcp", InternalPort: 8080, Ports: []api.Port{{Port: 443, Handlers: []string{"tls", "http"}}}}}},
		Image:  api.ImageRef{Registry: "registry", Repository: "shop", Digest: "sha256:abc", Labels: map[string]string{"a": "b"}}, CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC(),
	}
}

// Ten thousand machines of one app share their configuration.
func TestSummariesAreSmall(t *testing.T) {
	const n = 10_000
	wire := make([][]byte, n)
	for i := range wire {
		b, err := json.Marshal(someSummary(i))
		if err != nil {
			t.Fatal(err)
		}
		wire[i] = b
	}
	before, all := heap(), make([]Summary, n)
	began := time.Now()
	for i, b := range wire {
		if err := json.Unmarshal(b, &all[i]); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	each := (heap() - before) / n
	t.Logf("%d bytes on the wire, %d in memory and %s to read, each", len(wire[0]), each, took/n)
	if each > 1500 {
		t.Errorf("a machine takes %d bytes", each)
	}
	for i := range all {
		if all[i].Config != all[0].Config {
			t.Fatal("configurations are not shared")
		}
	}
	if !all[7].Equal(someSummaryAgain(t, wire[7])) || all[7].Equal(all[8]) {
		t.Error("Equal is wrong")
	}
	all = nil
	for range 100 {
		if configs.Len() == 0 {
			return
		}
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("%d configurations that nobody holds are kept", configs.Len())
}

func someSummaryAgain(t *testing.T, b []byte) (s Summary) {
	t.Helper()
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestSummaryOfAMachine(t *testing.T) {
	d := newWorld(t).run()
	m, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app", Env: map[string]string{"A": "b"}}, SkipServiceRegistration: true, IdempotencyKey: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	s, ok := d.Summary(m.ID)
	if !ok || s.Node != "n1" || s.Region != "fra" || s.Org != "acme" || !s.Cordoned || !s.Healthy || s.SecretsVersion == nil || *s.SecretsVersion != 3 || s.CreateKey != "k1" {
		t.Errorf("%+v, %v", s, ok)
	}
	got, st := s.Machine(), s.Status()
	if got.ID != m.ID || got.InstanceID != m.InstanceID || !maps.Equal(got.Config.Env, m.Config.Env) || got.PrivateIP != m.PrivateIP || st.Addr.IsValid() || st.Group != "app" {
		t.Errorf("%+v, %+v", got, st)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if back := someSummaryAgain(t, b); !back.Equal(s) {
		t.Errorf("%+v became %+v", s, back)
	}
	again, err := d.Create(t.Context(), "shop", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app"}, IdempotencyKey: "k1"})
	if err != nil || again.ID != m.ID {
		t.Errorf("the same key made %s, %v", again.ID, err)
	}
	if other, err := d.Create(t.Context(), "blog", api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app"}, IdempotencyKey: "k1"}); err != nil || other.ID == m.ID {
		t.Errorf("another app's key made %s, %v", other.ID, err)
	}
	if err := d.Destroy(t.Context(), m.ID, true, ""); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Summary(m.ID); ok || len(d.Summaries()) != 1 {
		t.Error("a destroyed machine has a summary")
	}
}

// The key outlives a crash of the daemon.
func TestKeyOutlivesACrash(t *testing.T) {
	w := newWorld(t)
	d := w.run()
	req := api.CreateMachineRequest{Config: &api.MachineConfig{Image: "app"}, IdempotencyKey: "k1"}
	m, err := d.Create(t.Context(), "shop", req)
	if err != nil {
		t.Fatal(err)
	}
	d.crash()
	d = w.run()
	if again, err := d.Create(t.Context(), "shop", req); err != nil || again.ID != m.ID || len(d.List("shop")) != 1 {
		t.Errorf("made %s, not %s: %v", again.ID, m.ID, err)
	}
}

func FuzzSummary(f *testing.F) {
	b, _ := json.Marshal(someSummary(1))
	f.Add(b)
	f.Add([]byte(`{"config":null,"image":null,"checks":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Summary
		if json.Unmarshal(b, &s) != nil {
			return
		}
		_, _ = s.Machine(), s.Status()
		out, err := json.Marshal(s)
		if err != nil {
			return // a time that JSON cannot hold
		}
		if back := someSummaryAgain(t, out); !back.Equal(s) {
			t.Errorf("%s became %s", b, out)
		}
	})
}
