package httpapi

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/token"
)

// guest lets in a machine.
type guest struct{ app, machine string }

func (g guest) Authenticate(*http.Request) (Principal, error) {
	return Principal{Name: "machine:" + g.machine, App: g.app, Machine: g.machine, Scope: token.Grant("personal", []string{g.app}, reads, changes)}, nil
}

// TestNap: a machine that asks for it is answered first, sleeps though it has hung up,
// and who asked stands in the audit log, also where it came to nothing.
func TestNap(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	inside := httptest.NewServer(k.server.Handler(guest{"shop", m.ID}))
	defer inside.Close()
	client, err := api.NewClient(api.ClientConfig{Addr: inside.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.SuspendMachine(t.Context(), "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	client.Close() // it has hung up
	if _, err := k.WaitMachine(t.Context(), "shop", m.ID, api.WaitOptions{States: []string{api.StateSuspended}, Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := k.StartMachine(t.Context(), "shop", m.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := k.AcquireLease(t.Context(), "shop", m.ID, api.LeaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := client.SuspendMachine(t.Context(), "shop", m.ID); err != nil {
		t.Errorf("it is told before anything is done: %v", err)
	}
	k.server.naps.Store(m.ID, true)
	if err := client.SuspendMachine(t.Context(), "shop", m.ID); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("while it is being put to sleep: %v", err)
	}
	inside.Close() // waits for what runs
	codes := map[string]int{}
	for _, e := range k.audit.all {
		if e.Operation == "Machines_suspend" && e.Who == "machine:"+m.ID && e.Machine == m.ID {
			codes[e.Code]++
		}
	}
	if codes[""] != 1 || codes[api.CodeConflict] != 2 {
		t.Errorf("audited %v of %+v", codes, k.audit.all)
	}
}

// TestAlone: what goes on without its connection ends with the server.
func TestAlone(t *testing.T) {
	base, end := context.WithCancel(t.Context())
	server := &http.Server{BaseContext: func(net.Listener) context.Context { return base }}
	gone, hangUp := context.WithCancel(context.WithValue(t.Context(), http.ServerContextKey, server))
	c := &call{r: httptest.NewRequestWithContext(gone, "POST", "/", nil)}
	ctx, done := c.alone(time.Minute)
	defer done()
	hangUp()
	if ctx.Err() != nil {
		t.Error("it ends with its connection")
	}
	end()
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Error("it outlives the server")
	}
}
