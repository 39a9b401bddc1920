package httpapi

import (
	"encoding/json"
	"testing"
)

// TestDocumentHasMetadataFilters: metadata.KEY=VALUE of the lists is in the document, as
// parameters whose names are the client's.
func TestDocumentHasMetadataFilters(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []struct {
				Name, In, Style string
				Explode         bool
				Schema          struct {
					Type          string
					PropertyNames struct{ Pattern string }
				}
			}
		}
	}
	if err := json.Unmarshal(newKit(t).server.json, &doc); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/apps/{app_name}/machines", "/v1/orgs/{org_slug}/machines"} {
		found := false
		for _, p := range doc.Paths[path]["get"].Parameters {
			found = found || p.Name == "metadata.KEY" && p.In == "query" && p.Style == "form" && p.Explode && p.Schema.Type == "object" &&
				p.Schema.PropertyNames.Pattern == `^metadata\..`
		}
		if !found {
			t.Errorf("%s: %+v", path, doc.Paths[path]["get"].Parameters)
		}
	}
}
