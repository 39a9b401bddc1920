package fleet_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/volume"
)

// bare is a node without volumes, whose snapshots are where all see them.
type bare struct{ fleet.LocalVolumes }

func (bare) Summary(string) (volume.Summary, bool)                { return volume.Summary{}, false }
func (bare) Summaries() map[string]volume.Summary                 { return nil }
func (bare) Shared() bool                                         { return true }
func (bare) Owner(string) (volume.Owner, error)                   { return volume.Owner{ID: "a1", Org: "personal"}, nil }
func (bare) List() (out []catalog.PublishedEntry[volume.Summary]) { return nil }

// said is what n2 says of one volume of its own.
type said struct{ volume.Summary }

func (s said) List() []catalog.PublishedEntry[volume.Summary] {
	return []catalog.PublishedEntry[volume.Summary]{{Node: "n2", Key: s.Volume.ID, Value: s.Summary}}
}

// TestLostAnswerMakesOneVolume: a creation whose answer is lost is asked for again
// under the same key.
func TestLostAnswerMakesOneVolume(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	var keys []string
	c.nodes[1].around = func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v1/apps/shop/volumes" {
				h.ServeHTTP(w, r)
				return
			}
			if keys = append(keys, r.Header.Get(api.IdempotencyHeader)); len(keys) == 1 {
				panic(http.ErrAbortHandler)
			}
			json.NewEncoder(w).Encode(api.Volume{ID: "vol_1", Node: "n2"})
		})
	}
	place := func(context.Context, string, api.CreateVolumeRequest, []string) (string, error) { return "n2", nil }
	v := must[*fleet.Volumes](t)(c.nodes[0].fleet.NewVolumes(fleet.VolumesConfig{Local: bare{}, Said: bare{}, Apps: bare{}, Place: place}))
	made := must[api.Volume](t)(v.Create(t.Context(), "shop", api.CreateVolumeRequest{}))
	if made.ID != "vol_1" || len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] {
		t.Errorf("%+v, keys %q", made, keys)
	}
}

// TestCopyOfALostVolume: the error says which snapshot there is.
func TestCopyOfALostVolume(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	s := said{volume.Summary{AppID: "a1", Volume: api.Volume{ID: "vol_1", App: "shop", Node: "n2", Region: "fra", State: api.VolumeCreated},
		Snapshots: []api.VolumeSnapshot{{ID: "vs_2", Status: api.SnapshotCreating}, {ID: "vs_1", Status: api.SnapshotCreated}}}}
	v := must[*fleet.Volumes](t)(c.nodes[0].fleet.NewVolumes(fleet.VolumesConfig{Local: bare{}, Said: s, Apps: bare{}}))
	c.nodes[1].cut.set("refused")
	for _, region := range []string{"", "syd"} {
		_, err := v.Create(t.Context(), "shop", api.CreateVolumeRequest{SourceVolumeID: "vol_1", Region: region})
		if e := api.AsError(err); e.Code != api.CodeUnreachable || e.Hint == "" || !strings.Contains(e.Hint, "--snapshot-id vs_1") {
			t.Errorf("in region %q: %+v", region, e)
		}
	}
}
