package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/version"
)

// classExtension tells in the document which class of calls an operation is of.
const classExtension = "x-perigee-class"

// eachExtension tells of those that a token for some machines may call: the answer is
// about the ones it reaches.
const eachExtension = "x-perigee-asks-each"

var segment = regexp.MustCompile(`\{([a-z_]+)\}`)

// document makes the OpenAPI document from the routes and their types.
func (s *Server) document() (err error) {
	config := huma.DefaultConfig("Perigee", version.Version)
	config.FieldsOptionalByDefault = true
	config.AllowAdditionalPropertiesByDefault = true
	// NewAPI hands the two settings above to the registry; no routes are made.
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	doc := huma.NewAPI(config, noAdapter{}).OpenAPI()
	doc.Info.Description = "Fly's Machines API by its paths and shapes, and Perigee's own endpoints beside it."
	doc.Info.License = &huma.License{Name: "Apache-2.0"}
	doc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer", Description: "The node's token; also taken as FlyV1 and as the password of basic authentication"}}
	reg := doc.Components.Schemas
	reg.RegisterTypeAlias(reflect.TypeFor[api.Duration](), reflect.TypeFor[durationSchema]())
	reg.RegisterTypeAlias(reflect.TypeFor[api.SignalName](), reflect.TypeFor[signalSchema]())
	reg.RegisterTypeAlias(reflect.TypeFor[api.Autostop](), reflect.TypeFor[autostopSchema]())
	fault := &huma.Response{Description: "What was wrong", Content: map[string]*huma.MediaType{"application/json": {Schema: reg.Schema(reflect.TypeFor[api.Error](), true, "")}}}
	for _, r := range s.routes() {
		doc.AddOperation(r.operation(reg, fault))
	}
	s.doc = doc
	if s.json, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("cannot write the OpenAPI document: %w", err)
	}
	if s.yaml, err = doc.YAML(); err != nil {
		return fmt.Errorf("cannot write the OpenAPI document: %w", err)
	}
	s.page, err = page(doc, s.routes())
	return err
}

// tag is the kind of thing that the operation is about. Operation ids are Fly's, where it
// has the operation, and those say it in more than one way.
func (r route) tag() string {
	kind, _, _ := strings.Cut(r.id, "_")
	switch kind {
	case "App", "Secret", "Volume", "Node":
		return kind + "s"
	case "createVolumeSnapshot":
		return "Volumes"
	}
	return kind
}

// operation is the route in the document's words.
func (r route) operation(reg huma.Registry, fault *huma.Response) *huma.Operation {
	op := &huma.Operation{Method: r.method, Path: r.path, OperationID: r.id, Summary: r.summary, Tags: []string{r.tag()}}
	for _, m := range segment.FindAllStringSubmatch(r.path, -1) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: m[1], In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	for _, p := range r.query {
		op.Parameters = append(op.Parameters, p.describe())
	}
	if strings.HasPrefix(r.path, pMachine) && (r.method != http.MethodGet || r.id == "Machines_show_lease") {
		op.Parameters = append(op.Parameters, &huma.Param{Name: api.NonceHeader, In: "header", Description: "Nonce of the caller's lease", Schema: &huma.Schema{Type: huma.TypeString}})
	}
	if r.id == "Machines_create" || r.id == "Volumes_create" {
		op.Parameters = append(op.Parameters, &huma.Param{Name: api.IdempotencyHeader, In: "header", Description: "A creation that is sent again under the same key makes nothing new", Schema: &huma.Schema{Type: huma.TypeString}})
	}
	if r.access != open {
		op.Security = []map[string][]string{{"token": {}}}
		op.Extensions = map[string]any{classExtension: r.access}
		if r.asksEach() {
			op.Extensions[eachExtension] = true
		}
	}
	r.endpoint.describe(op, reg)
	for _, status := range r.faults() {
		op.Responses[statusText(status)] = fault
	}
	return op
}

// describe is the parameter in the document's words. An object's names are the client's,
// and each of them is a parameter on the wire: that is what an exploded form is.
func (p param) describe() *huma.Param {
	out := &huma.Param{Name: p.name, In: "query", Description: p.doc, Schema: &huma.Schema{Type: p.kind}}
	if p.kind == huma.TypeObject {
		before, _, _ := strings.Cut(p.name, ".")
		yes := true
		out.Style, out.Explode, out.Schema.AdditionalProperties = "form", &yes, &huma.Schema{Type: huma.TypeString}
		out.Schema.Extensions = map[string]any{"propertyNames": map[string]string{"pattern": "^" + before + `\..`}}
	}
	return out
}

// faults are the statuses of the errors that the operation may answer.
func (r route) faults() []int {
	switch {
	case strings.HasPrefix(r.path, "/.well-known/"):
		return []int{http.StatusNotFound} // where nothing signs
	case r.access == open:
		return nil
	}
	out := []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusServiceUnavailable}
	if strings.Contains(r.path, "{") || len(r.query) > 0 || r.method != http.MethodGet {
		out = append(out, http.StatusNotFound)
	}
	if strings.HasPrefix(r.path, pMachine) {
		out = append(out, http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed)
	}
	if r.method != http.MethodGet {
		out = append(out, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusConflict, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge)
	}
	if _, ok := r.endpoint.(raw); ok && strings.HasPrefix(r.path, pMachine) {
		out = append(out, http.StatusBadRequest)
	}
	return out
}

func statusText(status int) string { return strconv.Itoa(status) }

// noAdapter serves nothing: the routes are served by routes.go.
type noAdapter struct{}

// Handle makes noAdapter a huma.Adapter.
func (noAdapter) Handle(*huma.Operation, func(huma.Context)) {}

// ServeHTTP does nothing.
func (noAdapter) ServeHTTP(http.ResponseWriter, *http.Request) {}

// durationSchema stands for api.Duration in the document.
type durationSchema struct{}

// Schema says what a duration may be.
func (durationSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "A number with a unit, such as 10s or 1m30s; a bare number is nanoseconds",
		OneOf: []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeInteger}}}
}

// signalSchema stands for api.SignalName in the document.
type signalSchema struct{}

// Schema says what a signal may be.
func (signalSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "A name such as SIGHUP, or a number", OneOf: []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeInteger}}}
}

// autostopSchema stands for api.Autostop in the document.
type autostopSchema struct{}

// Schema says what autostop may be.
func (autostopSchema) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Description: "off, stop or suspend; false and true mean off and stop",
		OneOf: []*huma.Schema{{Type: huma.TypeString, Enum: []any{"off", "stop", "suspend"}}, {Type: huma.TypeBoolean}}}
}
