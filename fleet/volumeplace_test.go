package fleet_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/volume"
)

// free is what n2 says of its volumes: for each app one named data, which no machine has.
type free []string

func (f free) List() (out []catalog.PublishedEntry[volume.Summary]) {
	for _, app := range f {
		out = append(out, catalog.PublishedEntry[volume.Summary]{Node: "n2", Key: "vol_" + app, Value: volume.Summary{AppID: "a1",
			Volume: api.Volume{ID: "vol_" + app, App: app, Name: "data", Node: "n2", State: api.VolumeCreated, HostStatus: "ok"}}})
	}
	return out
}

// provider is the volumes as n1 sees them, with n2 answering for new ones as create does.
func provider(t *testing.T, create http.HandlerFunc) *fleet.Volumes {
	c := newCloud(t, "n1", "n2")
	c.nodes[1].around = func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/", h)
		mux.HandleFunc("POST /v1/apps/{app}/volumes", create)
		return mux
	}
	place := func(context.Context, string, api.CreateVolumeRequest, []string) (string, error) { return "n2", nil }
	return must[*fleet.Volumes](t)(c.nodes[0].fleet.NewVolumes(fleet.VolumesConfig{Local: bare{}, Said: free{"shop", "blog"}, Apps: bare{}, Place: place}))
}

var twoMounts = []api.Mount{{Name: "data", Path: "/data"}, {Name: "cache", Path: "/cache"}}

// TestProvideTakesBack: a machine whose second volume cannot be made leaves the first
// one to whoever tries again.
func TestProvideTakesBack(t *testing.T) {
	full := true
	v := provider(t, func(w http.ResponseWriter, _ *http.Request) {
		if full {
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(api.Errorf(api.CodeConflict, "there is no room"))
			return
		}
		json.NewEncoder(w).Encode(api.Volume{ID: "vol_new", App: "shop", Name: "cache", Node: "n2", State: api.VolumeCreated, HostStatus: "ok"})
	})
	if _, _, err := v.Provide(t.Context(), "shop", "", "", twoMounts); !api.IsCode(err, api.CodeConflict) {
		t.Fatalf("a volume that cannot be made: %v", err)
	}
	full = false
	out, words, err := v.Provide(t.Context(), "shop", "", "", twoMounts)
	if err != nil || out[0].Volume != "vol_shop" || out[1].Volume != "vol_new" {
		t.Errorf("tried again: %+v, %q, %v", out, words, err)
	}
}

// TestSlowNodeHoldsUpItsAppAlone: while a node makes a volume for one app, another gets
// its own.
func TestSlowNodeHoldsUpItsAppAlone(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	v := provider(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		json.NewEncoder(w).Encode(api.Volume{ID: "vol_new", App: "shop", Name: "cache", Node: "n2", State: api.VolumeCreated, HostStatus: "ok"})
	})
	slow := make(chan error)
	go func() {
		_, _, err := v.Provide(t.Context(), "shop", "", "", twoMounts)
		slow <- err
	}()
	<-asked
	brief, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	got := make(chan []api.Mount)
	go func() {
		out, _, _ := v.Provide(brief, "blog", "", "", twoMounts[:1])
		got <- out
	}()
	select {
	case out := <-got:
		if len(out) != 1 || out[0].Volume != "vol_blog" {
			t.Errorf("the other app: %+v", out)
		}
	case <-brief.Done():
		t.Error("another app waits for the node")
		go func() { <-got }()
	}
	close(answer)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}
