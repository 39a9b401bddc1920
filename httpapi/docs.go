package httpapi

import (
	"bytes"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// page is the document for people: one file, nothing from elsewhere. What it says is in
// doc; routes are the order in which it is said.
func page(doc *huma.OpenAPI, routes []route) ([]byte, error) {
	data := pageData{Title: doc.Info.Title + " API", Text: doc.Info.Description}
	for _, r := range routes {
		op := operationOf(doc.Paths[r.path], r.method)
		if op == nil {
			continue // not for clients, so not in the document
		}
		data.add(r.tag(), pageOperation{
			ID: r.id, Method: r.method, Path: r.path, Summary: r.summary, Class: string(r.access),
			Params: pageParams(op), Body: bodyKind(op), Answers: pageAnswers(op),
		})
	}
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
	Groups      []pageGroup
	Types       []pageType
}

// pageGroup is what the API does with one kind of thing.
type pageGroup struct {
	Name       string
	Operations []pageOperation
}

// add puts the operation into its group.
func (d *pageData) add(group string, op pageOperation) {
	i := slices.IndexFunc(d.Groups, func(g pageGroup) bool { return g.Name == group })
	if i < 0 {
		i = len(d.Groups)
		d.Groups = append(d.Groups, pageGroup{Name: group})
	}
	d.Groups[i].Operations = append(d.Groups[i].Operations, op)
}

type pageOperation struct {
	ID, Method, Path, Summary, Class string

	Params  []pageField
	Body    pageKind // zero: none
	Answers []pageAnswer
}

type pageAnswer struct {
	Status, Words string
	Body          pageKind
}

type pageType struct {
	Name   string
	Fields []pageField
}

type pageField struct {
	Name string
	Kind pageKind
	Doc  string
}

// pageKind is a type in a few words; Type, if there is one, is the name of that of the
// page which stands after them.
type pageKind struct{ Words, Type string }

// operationOf is the path's operation of the method, nil if there is none.
func operationOf(p *huma.PathItem, method string) *huma.Operation {
	if p == nil {
		return nil
	}
	return map[string]*huma.Operation{http.MethodGet: p.Get, http.MethodPost: p.Post, http.MethodPut: p.Put,
		http.MethodPatch: p.Patch, http.MethodDelete: p.Delete, http.MethodHead: p.Head}[method]
}

// pageParams are the operation's parameters that its path does not show.
func pageParams(op *huma.Operation) (out []pageField) {
	for _, p := range op.Parameters {
		switch k := kind(p.Schema); p.In {
		case "path":
		case "query":
			out = append(out, pageField{"?" + p.Name, k, p.Description})
		default:
			out = append(out, pageField{p.Name + ":", k, p.Description})
		}
	}
	return out
}

func bodyKind(op *huma.Operation) pageKind {
	if op.RequestBody == nil {
		return pageKind{}
	}
	return contentKind(op.RequestBody.Content)
}

// pageAnswers are the operation's answers by status, the faults together at the end: they
// are all of one shape.
func pageAnswers(op *huma.Operation) (out []pageAnswer) {
	var faults []string
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		if status >= "400" {
			faults = append(faults, status)
			continue
		}
		r := op.Responses[status]
		out = append(out, pageAnswer{status, r.Description, contentKind(r.Content)})
	}
	if len(faults) > 0 {
		out = append(out, pageAnswer{strings.Join(faults, ", "), "What was wrong", pageKind{Type: "Error"}})
	}
	return out
}

// contentKind is the type of a body: that of JSON, else the media type.
func contentKind(content map[string]*huma.MediaType) pageKind {
	if m := content["application/json"]; m != nil && m.Schema != nil {
		return kind(m.Schema)
	}
	return pageKind{Words: strings.Join(slices.Sorted(maps.Keys(content)), " or ")}
}

// kind is a schema's type.
func kind(s *huma.Schema) pageKind {
	switch {
	case s == nil:
		return pageKind{Words: "any"}
	case s.Ref != "":
		return pageKind{Type: s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]}
	case len(s.OneOf) > 0:
		one, other := kind(s.OneOf[0]), kind(s.OneOf[1])
		return pageKind{Words: fmt.Sprint(one.Words, one.Type, " or ", other.Words), Type: other.Type}
	case s.Items != nil:
		return kind(s.Items).after("list of ")
	case s.Type == huma.TypeObject:
		if elem, ok := s.AdditionalProperties.(*huma.Schema); ok {
			return kind(elem).after("map of ")
		}
	case s.Type == "":
		return pageKind{Words: "any"}
	}
	return pageKind{Words: s.Type}
}

func (k pageKind) after(words string) pageKind {
	k.Words = words + k.Words
	return k
}

var pageTemplate = template.Must(template.New("docs").Parse(`
{{- define "kind"}}{{.Words}}{{with .Type}}<a href="#type-{{.}}">{{.}}</a>{{end}}{{end -}}
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>
:root{color-scheme:light dark;--line:light-dark(#ddd,#444);--soft:light-dark(#666,#aaa);--get:light-dark(#06c,#7bf);--post:light-dark(#080,#7d7);--put:light-dark(#a60,#fb6);--delete:light-dark(#b00,#f88)}
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem}
code{font:.92em ui-monospace,monospace;overflow-wrap:anywhere}a{color:var(--get)}
nav a{margin-right:.9rem}h2{margin:2.2rem 0 .5rem}h3{margin:1.6rem 0 .3rem}
details{border-top:1px solid var(--line)}details:last-of-type{border-bottom:1px solid var(--line)}details>div{padding:.1rem 0 1rem 4.6rem}
summary{display:grid;grid-template-columns:4.6rem minmax(0,1fr) minmax(0,20rem);gap:0 .6rem;padding:.4rem 0;cursor:pointer}
summary span{color:var(--soft)}summary:hover{background:light-dark(#f6f6f6,#222)}
b.GET{color:var(--get)}b.POST{color:var(--post)}b.PUT,b.PATCH{color:var(--put)}b.DELETE{color:var(--delete)}
table{border-collapse:collapse}td{padding:.15rem 1.1rem .15rem 0;vertical-align:top}td:nth-child(2){white-space:nowrap}p{margin:.3rem 0}
@media(max-width:45rem){summary{grid-template-columns:4.6rem minmax(0,1fr)}summary span{grid-column:2}details>div{padding-left:0}td:nth-child(2){white-space:normal}}
</style>
<h1>{{.Title}}</h1>
<p>{{.Text}} The document for programs: <a href="/openapi.json">openapi.json</a>, <a href="/openapi.yaml">openapi.yaml</a>.</p>
<p>A call brings a token: <code>Authorization: Bearer …</code>. What a token may do goes by the class of the operation, which is with each.</p>
<nav><p>{{range .Groups}}<a href="#{{.Name}}">{{.Name}}</a> {{end}}<a href="#types">Types</a></p></nav>
{{range .Groups}}<h2 id="{{.Name}}">{{.Name}}</h2>
{{range .Operations}}<details id="{{.ID}}"><summary><b class="{{.Method}}">{{.Method}}</b><code>{{.Path}}</code><span>{{.Summary}}</span></summary><div>
<p><code>{{.ID}}</code>, class <code>{{.Class}}</code></p>
<table>{{range .Params}}<tr><td><code>{{.Name}}</code></td><td>{{template "kind" .Kind}}</td><td>{{.Doc}}</td></tr>{{end}}
{{- if or .Body.Words .Body.Type}}<tr><td>body</td><td>{{template "kind" .Body}}</td><td></td></tr>{{end}}
{{- range .Answers}}<tr><td>{{.Status}}</td><td>{{template "kind" .Body}}</td><td>{{.Words}}</td></tr>{{end}}</table></div></details>
{{end}}{{end}}<h2 id="types">Types</h2>
{{range .Types}}<h3 id="type-{{.Name}}">{{.Name}}</h3><table>{{range .Fields}}<tr><td><code>{{.Name}}</code></td><td>{{template "kind" .Kind}}</td><td>{{.Doc}}</td></tr>{{end}}</table>
{{end}}</html>
`))
