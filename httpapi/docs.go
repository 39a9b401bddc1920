package httpapi

import (
	"bytes"
	"html/template"
	"maps"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// page is the document for people: one file, nothing from elsewhere.
func page(doc *huma.OpenAPI, routes []route) ([]byte, error) {
	data := pageData{Title: doc.Info.Title + " API", Text: doc.Info.Description, Routes: routes}
	for name, s := range doc.Components.Schemas.Map() {
		t := pageType{Name: name}
		for _, f := range slices.Sorted(maps.Keys(s.Properties)) {
			t.Fields = append(t.Fields, pageField{f, kind(s.Properties[f]), s.Properties[f].Description})
		}
		data.Types = append(data.Types, t)
	}
	slices.SortFunc(data.Types, func(a, b pageType) int { return strings.Compare(a.Name, b.Name) })
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, data)
	return b.Bytes(), err
}

type pageData struct {
	Title, Text string
	Routes      []route
	Types       []pageType
}

type pageType struct {
	Name   string
	Fields []pageField
}

type pageField struct{ Name, Kind, Doc string }

// kind is a schema's type in a few words.
func kind(s *huma.Schema) string {
	switch {
	case s == nil:
		return "any"
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case len(s.OneOf) > 0:
		return kind(s.OneOf[0]) + " or " + kind(s.OneOf[1])
	case s.Items != nil:
		return "list of " + kind(s.Items)
	case s.Type == huma.TypeObject:
		if elem, ok := s.AdditionalProperties.(*huma.Schema); ok {
			return "map of " + kind(elem)
		}
	case s.Type == "":
		return "any"
	}
	return s.Type
}

// Method, Path, ID, Summary and Query show a route to the template.
func (r route) Method() string  { return r.method }
func (r route) Path() string    { return r.path }
func (r route) ID() string      { return r.id }
func (r route) Summary() string { return r.summary }
func (r route) Query() string {
	var names []string
	for _, p := range r.query {
		names = append(names, p.name)
	}
	return strings.Join(names, ", ")
}

var pageTemplate = template.Must(template.New("docs").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
td{padding:.2rem .8rem .2rem 0;vertical-align:top}code{font-size:.95em}h3{margin:1.5rem 0 .3rem}small{opacity:.7}</style>
<h1>{{.Title}}</h1><p>{{.Text}} The document for programs: <a href="/openapi.json">openapi.json</a>, <a href="/openapi.yaml">openapi.yaml</a>.</p>
<h2>Endpoints</h2><table>
{{range .Routes}}<tr id="{{.ID}}"><td><b>{{.Method}}</b></td><td><code>{{.Path}}</code></td><td>{{.Summary}}{{with .Query}}<br><small>{{.}}</small>{{end}}</td></tr>
{{end}}</table><h2>Types</h2>
{{range .Types}}<h3 id="type-{{.Name}}">{{.Name}}</h3><table>{{range .Fields}}<tr><td><code>{{.Name}}</code></td><td>{{.Kind}}</td><td>{{.Doc}}</td></tr>{{end}}</table>
{{end}}</html>
`))
