package httpapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// fill puts real names into a path of the document.
func fill(path, machine string) string {
	return strings.NewReplacer("{app_name}", "shop", "{machine_id}", machine, "{secret_name}", "KEY", "{host}", "shop.example.com",
		"{node_name}", "n1", "{token_id}", "abcd2345", "{version}", "1", "{digest}", "sha256:a", "{key}", "tier", "{org_slug}", "personal", "{volume_id}", "vol_1").Replace(path)
}

// TestConformance walks every operation of the document against a running
// server.
func TestConformance(t *testing.T) {
	k := newKit(t)
	m := k.machine(t, "shop")
	value := "v"
	if _, err := k.SetSecrets(t.Context(), "shop", map[string]*string{"KEY": &value}); err != nil {
		t.Fatal(err)
	}
	for _, err := range k.Deploy(t.Context(), "shop", api.DeployRequest{Image: "one", Groups: map[string]api.MachineConfig{"app": {}}}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := k.AddHost(t.Context(), "shop", "shop.example.com"); err != nil {
		t.Fatal(err)
	}
	_, b := k.do(t, "GET", "/openapi.json", "", "")
	doc := document(t, b)
	seen := 0
	for path, item := range doc.Paths {
		for method, op := range item {
			method = strings.ToUpper(method)
			seen++
			t.Run(op.OperationID, func(t *testing.T) {
				at := fill(path, m.ID)
				unauthorized(t, k, method, at, op)
				badBodies(t, k, doc, method, at, op)
				if method == "GET" && !strings.HasSuffix(path, "/stream") && !strings.HasSuffix(path, "/wait") {
					shows(t, k, doc, at, op)
				}
			})
		}
	}
	if seen != len((&Server{}).routes()) || seen < 50 {
		t.Errorf("the document has %d operations, the table %d", seen, len((&Server{}).routes()))
	}
}

func document(t *testing.T, b []byte) *openAPI {
	t.Helper()
	var doc openAPI
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("document is of version %q", doc.OpenAPI)
	}
	return &doc
}

// openAPI is the part of the document that the walk needs, read as any client
// would.
type openAPI struct {
	OpenAPI    string
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*schema }
}

// schema is the part of a schema that the walk needs.
type schema struct {
	Type       any    // a word, or a list of words
	Ref        string `json:"$ref"`
	OneOf      []any
	AnyOf      []any
	Items      *schema
	Properties map[string]*schema
	Enum       []any
	Additional any `json:"additionalProperties"`
}

func (s *schema) kind() string {
	switch t := s.Type.(type) {
	case string:
		return t
	case []any:
		return t[0].(string)
	}
	return ""
}

// operation is the part of an operation that the walk needs.
type operation struct {
	OperationID string
	Class       string `json:"x-perigee-class"`
	AsksEach    bool   `json:"x-perigee-asks-each"`
	Security    []any
	RequestBody *struct{ Content map[string]media }
	Responses   map[string]struct{ Content map[string]media }
}

type media struct{ Schema *schema }

// unauthorized checks that nobody gets in without the token, whatever the body.
func unauthorized(t *testing.T, k *kit, method, path string, op *operation) {
	if len(op.Security) == 0 {
		if resp, _ := k.do(t, method, path, "", ""); resp.StatusCode != 200 {
			t.Errorf("open operation answers %d", resp.StatusCode)
		}
		return
	}
	for _, token := range []string{"", "Bearer wrong", "Bearer ", "Bearer " + secret + "x", "Basic Zm9vOmJhcg==", secret, "Digest " + secret} {
		resp, b := k.do(t, method, path, token, "{")
		if resp.StatusCode != 401 || !isError(b, api.CodeUnauthorized) {
			t.Errorf("with %q: %d %s", token, resp.StatusCode, b)
		}
	}
}

func isError(b []byte, code string) bool {
	var e api.Error
	return json.Unmarshal(b, &e) == nil && e.Code == code && e.Message != ""
}

// badBodies sends what is not JSON, and each field of a wrong type.
func badBodies(t *testing.T, k *kit, doc *openAPI, method, path string, op *operation) {
	if op.RequestBody == nil || op.RequestBody.Content["application/json"].Schema == nil {
		return
	}
	for body, want := range map[string]int{"{": 400, "[]": 400, "null": 400, "1": 400, "{} x": 400, `{"a":1}{`: 400, strings.Repeat("[", 20000): 400} {
		resp, b := k.do(t, method, path, "Bearer "+secret, body)
		if resp.StatusCode != want || !isError(b, api.CodeBadRequest) || resp.Header.Get(api.RequestIDHeader) == "" {
			t.Errorf("body %.20s: %d %s", body, resp.StatusCode, b)
		}
	}
	name := strings.TrimPrefix(op.RequestBody.Content["application/json"].Schema.Ref, "#/components/schemas/")
	for field, s := range doc.Components.Schemas[name].Properties {
		wrong := map[string]string{"string": "7", "integer": `"x"`, "number": `"x"`, "boolean": `"x"`, "object": "[]", "array": "{}", "": "[true]"}[s.kind()]
		resp, b := k.do(t, method, path, "Bearer "+secret, fmt.Sprintf(`{%q:%s}`, field, wrong))
		var e api.Error
		if err := json.Unmarshal(b, &e); err != nil || resp.StatusCode != 422 || e.Field != field {
			t.Errorf("field %s as %s: %d %s", field, wrong, resp.StatusCode, b)
		}
	}
}

// shows checks that an answer is as the document says.
func shows(t *testing.T, k *kit, doc *openAPI, path string, op *operation) {
	resp, b := k.do(t, "GET", path, "Bearer "+secret, "")
	if resp.StatusCode == 404 && isError(b, api.CodeNotFound) && (strings.Contains(op.OperationID, "lease") || strings.Contains(op.OperationID, "Certificate")) || strings.Contains(op.OperationID, "metadata_key") {
		return // there is none
	}
	if resp.StatusCode == 422 && isError(b, api.CodeUnsupported) && strings.Contains(path, "/ssh") {
		return // there is no SSH server here
	}
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, b)
	}
	m := op.Responses["200"].Content["application/json"].Schema
	if m == nil {
		return
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	fits(t, doc, "", m, v)
}

// fits checks a value against a schema.
func fits(t *testing.T, doc *openAPI, at string, s *schema, v any) {
	if s.Ref != "" {
		s = doc.Components.Schemas[strings.TrimPrefix(s.Ref, "#/components/schemas/")]
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		t.Errorf("%s is %v, not one of %v", at, v, s.Enum)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, e := range v {
			p := s.Properties[name]
			if extra, ok := s.Additional.(map[string]any); p == nil && ok {
				ref, _ := extra["$ref"].(string)
				p = &schema{Type: extra["type"], Ref: ref, Additional: extra["additionalProperties"]}
			}
			if p == nil || s.kind() != "object" {
				t.Errorf("%s.%s is not in the document", at, name)
				continue
			}
			fits(t, doc, at+"."+name, p, e)
		}
	case []any:
		if s.kind() != "array" {
			t.Errorf("%s is a list, not %v", at, s.Type)
			return
		}
		for _, e := range v {
			fits(t, doc, at+"[]", s.Items, e)
		}
	case string:
		if s.kind() != "string" && s.OneOf == nil && s.Type != nil {
			t.Errorf("%s is text, not %v", at, s.Type)
		}
	case float64:
		if s.kind() != "integer" && s.kind() != "number" && s.Type != nil {
			t.Errorf("%s is a number, not %v", at, s.Type)
		}
	}
}
