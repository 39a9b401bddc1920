package httpapi

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/perigee-run/perigee/api"
)

// TestWalk makes the calls of every file in testdata/walk against a running server and
// holds each answer to the document: its path, status, fields and types, with nothing in
// it that is not documented. What the document has and no answer ever had fails too, and
// so does an operation that no file calls, once with success and once without. The form
// of the files is in testdata/walk/README.
func TestWalk(t *testing.T) {
	files, err := filepath.Glob("testdata/walk/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	book := newBook(t)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			w := &walker{book: book, k: newKit(t), vars: map[string]string{}}
			w.vars["chain"], w.vars["key"] = issue(t, time.Now().Add(time.Hour), "shop.example.com")
			w.walk(t, f)
		})
	}
	book.complete(t) // before strangers: that they are refused is no walk's merit
	book.strangers(t)
}

// cannotHere are operations that cannot succeed against the stand-ins of this test, with
// where they are tested.
var cannotHere = map[string]string{
	"Machines_exec_stream": "a WebSocket: TestExecStream", "Machines_ssh": "a WebSocket: room ssh", "SSH_authority": "needs SSH: room ssh",
	"SSH_issue": "needs SSH: room ssh", "SSH_issue_app": "needs SSH: room ssh", "Tokens_oidc": "needs a machine's own token: room token",
	"Nodes_drain": "needs another node: test/cities", "Nodes_rotate_key": "needs a mesh: room mesh", "Nodes_remove": "needs another node: test/cities",
	"Nodes_recover": "needs a lost majority: room catalog",
}

// neverRefused are operations that refuse nobody whom they know.
var neverRefused = []string{"Orgs_list", "Tokens_current"}

// strangers calls every operation without a token.
func (b *book) strangers(t *testing.T) {
	w := &walker{book: b, k: newKit(t), vars: map[string]string{}}
	for path, item := range b.doc.Paths {
		for method, op := range item {
			if len(op.Security) == 0 {
				continue
			}
			w.prepare(t, strings.ToUpper(method)+" "+strings.NewReplacer("{", "", "}", "").Replace(path))
			w.request.Header.Del("Authorization")
			w.send(t, op.OperationID, "401 {\"code\":\"unauthorized\"}")
		}
	}
}

// book is the document and what of it was met.
type book struct {
	doc     *openAPI
	valid   validator.Validator
	succeed map[string]bool // operations that did
	failed  map[string]bool
	seen    map[string]bool // fields of answers, as SCHEMA.FIELD
	answers map[string]bool // schemas that answers have
}

func newBook(t *testing.T) *book {
	k := newKit(t)
	_, b := k.do(t, "GET", "/openapi.json", "", "")
	doc, err := libopenapi.NewDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(doc, config.WithoutSecurityValidation())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, e := range errs {
			t.Errorf("the document is not OpenAPI 3.1: %s: %s %v", e.Message, e.Reason, e.SchemaValidationErrors)
		}
	}
	return &book{doc: document(t, b), valid: v, succeed: map[string]bool{}, failed: map[string]bool{}, seen: map[string]bool{}, answers: map[string]bool{}}
}

// unmet are fields that no walk can meet, with the reason.
var unmet = map[string]string{
	"Certificate.dns_provider": "never told", "Certificate.rate_limited_until": "never told", "CertificateSummary.dns_provider": "never told",
	"DNSRecords.soa": "never told", "DNSRecords.acme_challenge_cname": "never told", "ValidationError.code": "never told",
	"IPAssignment.service_name": "not used", "EventRequest.restart_count": "takes a crash and a second",
	"Error.logs": "only with deploys, in streams", "Machine.home_region": "takes a second region", "OrgMachine.home_region": "takes a second region",
	"OrgMachine.lease": "in the lists of one app alone", "OrgMachine.nonce": "with creations alone", "ImageRef.tag": "the stand-in's images have none", "ImageRef.labels": "the stand-in's images have none",
	"AuditEntry.skipped": "takes a flood: room audit", "AuditList.missing": "takes a node that is down: room audit",
	"ClusterNode.fault": "takes a failed upgrade", "ClusterNode.http": "the node tells, not the stand-in", "ClusterNode.https": "the node tells, not the stand-in",
	"ClusterNode.leaving": "takes a drain", "ClusterNode.seen_at": "takes another node", "ClusterNode.started_at": "the node tells, not the stand-in",
	"ClusterNode.synced": "the node tells, not the stand-in", "ClusterNode.version": "the node tells, not the stand-in", "JoinToken.nodes": "takes a node that joins: room cluster",
	"CreateTokenResponse.last_used_at": "it is new", "CreateTokenResponse.revoked_at": "it is new", "TokenInfo.last_used_at": "written down later",
	"CurrentToken.restricted_to_machine": "takes a machine's own token: room token", "CurrentToken.source_machine_id": "takes a machine's own token: room token",
	"Volume.problem": "takes a broken store: room volume",
}

// complete reports what was not met.
func (b *book) complete(t *testing.T) {
	for path, item := range b.doc.Paths {
		for method, op := range item {
			if !b.succeed[op.OperationID] && cannotHere[op.OperationID] == "" {
				t.Errorf("no file of testdata/walk has %s (%s %s) succeed", op.OperationID, strings.ToUpper(method), path)
			}
			if len(op.Security) > 0 && !b.failed[op.OperationID] && !slices.Contains(neverRefused, op.OperationID) {
				t.Errorf("no file of testdata/walk has %s (%s %s) fail", op.OperationID, strings.ToUpper(method), path)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.answers)) {
		for _, f := range slices.Sorted(maps.Keys(b.doc.Components.Schemas[name].Properties)) {
			if at := name + "." + f; !b.seen[at] && unmet[at] == "" {
				t.Errorf("the document has %s, and no answer of the walks has it", at)
			}
		}
	}
}

// operation finds what a request calls.
func (b *book) operation(method, path string) (*operation, string) {
	have := strings.Split(strings.Trim(path, "/"), "/")
	var found *operation
	at := ""
	for pattern, item := range b.doc.Paths {
		want := strings.Split(strings.Trim(pattern, "/"), "/")
		fits := len(want) == len(have)
		for i := 0; fits && i < len(want); i++ {
			fits = want[i] == have[i] || strings.HasPrefix(want[i], "{")
		}
		// The one with fewer names of the caller's is meant, as the server takes it.
		if op := item[strings.ToLower(method)]; fits && op != nil && (found == nil || strings.Count(pattern, "{") < strings.Count(at, "{")) {
			found, at = op, pattern
		}
	}
	return found, at
}

// note remembers which fields a value has, and reports those that the document lacks. A
// configuration comes back as it was sent: of it, met is false, and what it could have
// is not asked for.
func (b *book) note(t *testing.T, at string, s *schema, v any, met bool) {
	s, name := b.resolve(s)
	if s == nil {
		return
	}
	if met = met && name != "MachineConfig"; met && name != "" {
		b.answers[name] = true
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if met {
				b.seen[name+"."+k] = true
			}
			b.note(t, at+"."+k, b.entry(t, at+"."+k, s, k), e, met)
		}
	case []any:
		for _, e := range v {
			b.note(t, at+"[]", s.Items, e, met)
		}
	}
}

// entry is the schema of a field. What is an object without any fields may have any.
func (b *book) entry(t *testing.T, at string, s *schema, field string) *schema {
	if p := s.Properties[field]; p != nil {
		return p
	}
	if extra, ok := s.Additional.(map[string]any); ok {
		return reread(extra)
	}
	if len(s.Properties) > 0 || s.kind() != "object" && s.kind() != "" {
		t.Errorf("%s is not in the document", at)
	}
	return nil
}

// resolve follows references, also those of what may be null; the name is of the last one.
func (b *book) resolve(s *schema) (*schema, string) {
	if s == nil {
		return nil, ""
	}
	for _, one := range slices.Concat(s.OneOf, s.AnyOf) {
		if m, _ := one.(map[string]any); m["$ref"] != nil {
			s = reread(m)
		}
	}
	name := strings.TrimPrefix(s.Ref, "#/components/schemas/")
	if s.Ref != "" {
		s = b.doc.Components.Schemas[name]
	}
	return s, name
}

// reread makes a schema of what was read as anything.
func reread(m map[string]any) *schema {
	raw, _ := json.Marshal(m) // it was JSON
	s := &schema{}
	_ = json.Unmarshal(raw, s)
	return s
}

type walker struct {
	*book
	k    *kit
	vars map[string]string

	request *http.Request
	body    string
	head    http.Header
	answer  []byte
}

// walk runs the lines of a file.
func (w *walker) walk(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		at := fmt.Sprintf("%s:%d", filepath.Base(file), n)
		switch kind {
		case ">":
			w.prepare(t, rest)
		case "+":
			name, value, _ := strings.Cut(rest, ": ")
			w.request.Header.Set(name, w.fill(value))
			if value == "-" {
				w.request.Header.Del(name)
			}
		case "<":
			w.send(t, at, rest)
		case "=":
			w.capture(t, at, rest)
		default:
			t.Fatalf("%s: cannot read %q", at, line)
		}
	}
}

func (w *walker) fill(s string) string {
	for k, v := range w.vars {
		s = strings.ReplaceAll(s, "{"+k+"}", v)
	}
	return s
}

func (w *walker) prepare(t *testing.T, rest string) {
	method, rest, _ := strings.Cut(rest, " ")
	path, body, _ := strings.Cut(rest, " ")
	for _, v := range []string{"chain", "key"} { // they have lines
		q, _ := json.Marshal(w.vars[v])
		body = strings.ReplaceAll(body, `"{`+v+`}"`, string(q))
	}
	w.body = w.fill(body)
	var err error
	w.request, err = http.NewRequestWithContext(t.Context(), method, w.k.url+w.fill(path), strings.NewReader(w.body))
	if err != nil {
		t.Fatal(err)
	}
	w.request.Header.Set("Authorization", "Bearer "+secret)
	if body != "" {
		w.request.Header.Set("Content-Type", "application/json")
	}
}

// send makes the prepared request and compares the answer with what is expected, and
// with the document.
func (w *walker) send(t *testing.T, at, want string) {
	status, shape, _ := strings.Cut(want, " ")
	resp, err := http.DefaultTransport.RoundTrip(w.request)
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	defer resp.Body.Close()
	if w.answer, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	w.head = resp.Header
	if strconv.Itoa(resp.StatusCode) != status {
		t.Errorf("%s: %s %s: %d %s, want %s", at, w.request.Method, w.request.URL.RequestURI(), resp.StatusCode, w.answer, want)
	}
	if resp.Header.Get(api.RequestIDHeader) == "" {
		t.Errorf("%s: the answer has no %s", at, api.RequestIDHeader)
	}
	if shape != "" {
		w.matches(t, at, w.fill(shape))
	}
	w.hold(t, at, resp)
}

// hold holds the answer to the document.
func (w *walker) hold(t *testing.T, at string, resp *http.Response) {
	op, _ := w.operation(w.request.Method, w.request.URL.Path)
	if op == nil {
		t.Errorf("%s: %s %s is not in the document", at, w.request.Method, w.request.URL.Path)
		return
	}
	if resp.StatusCode < 400 {
		w.succeed[op.OperationID] = true
	} else {
		w.failed[op.OperationID] = true
	}
	content, there := op.Responses[strconv.Itoa(resp.StatusCode)]
	if !there {
		t.Errorf("%s: the document has no status %d for %s", at, resp.StatusCode, op.OperationID)
		return
	}
	full := resp.Header.Get("Content-Type")
	media, _, _ := strings.Cut(full, ";")
	if media == "application/x-ndjson" {
		w.holdLines(t, at, content.Content[media].Schema)
		return
	}
	if content.Content[media].Schema == nil && !slices.Contains(slices.Collect(maps.Keys(content.Content)), full) && len(w.answer) > 0 {
		t.Errorf("%s: the document has no %q for status %d of %s", at, media, resp.StatusCode, op.OperationID)
	}
	if media != "application/json" {
		return
	}
	resp.Body = io.NopCloser(bytes.NewReader(w.answer))
	w.request.Body = io.NopCloser(strings.NewReader(w.body))
	if ok, errs := w.valid.ValidateHttpResponse(w.request, resp); !ok {
		for _, e := range errs {
			t.Errorf("%s: %s: %s: %s %v\n%s", at, op.OperationID, e.Message, e.Reason, e.SchemaValidationErrors, w.answer)
		}
	}
	var v any
	if err := json.Unmarshal(w.answer, &v); err != nil {
		t.Errorf("%s: %v", at, err)
	}
	w.note(t, at+": "+op.OperationID, content.Content[media].Schema, v, true)
}

// holdLines holds each line of a stream to the schema of one.
func (w *walker) holdLines(t *testing.T, at string, s *schema) {
	for line := range bytes.Lines(w.answer) {
		var v any
		if err := json.Unmarshal(line, &v); err != nil {
			t.Errorf("%s: %v in %s", at, err, line)
			continue
		}
		fits(t, &openAPI{Components: w.doc.Components}, at, s, v)
	}
}

// matches compares the answer with a shape: objects may have more, "*" is anything, "..."
// any more elements. The last line of a stream is meant.
func (w *walker) matches(t *testing.T, at, shape string) {
	var want, got any
	if err := json.Unmarshal([]byte(shape), &want); err != nil {
		t.Fatalf("%s: %v in %s", at, err, shape)
	}
	last := bytes.TrimSpace(w.answer)
	if i := bytes.LastIndexByte(last, '\n'); i >= 0 {
		last = last[i+1:]
	}
	if err := json.Unmarshal(last, &got); err != nil {
		t.Errorf("%s: %v in %s", at, err, w.answer)
		return
	}
	if why := unlike(want, got, ""); why != "" {
		t.Errorf("%s: %s\n%s", at, why, w.answer)
	}
}

func unlike(want, got any, at string) string {
	switch want := want.(type) {
	case map[string]any:
		have, isObject := got.(map[string]any)
		if !isObject {
			return fmt.Sprintf("%s is %v, want an object", at, got)
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if why := unlike(want[k], have[k], at+"."+k); why != "" {
				return why
			}
		}
		return ""
	case []any:
		have, isList := got.([]any)
		if !isList {
			return fmt.Sprintf("%s is %v, want a list", at, got)
		}
		if n := len(want); n > 0 && want[n-1] == "..." && len(have) >= n-1 {
			want, have = want[:n-1], have[:n-1]
		}
		if len(have) != len(want) {
			return fmt.Sprintf("%s has %d elements, want %d", at, len(have), len(want))
		}
		for i := range want {
			if why := unlike(want[i], have[i], fmt.Sprintf("%s[%d]", at, i)); why != "" {
				return why
			}
		}
		return ""
	}
	if want != got && !(want == "*" && got != nil) {
		return fmt.Sprintf("%s is %v, want %v", at, got, want)
	}
	return ""
}

// capture keeps a part of the answer, or a header of it, under a name.
func (w *walker) capture(t *testing.T, at, rest string) {
	name, from, _ := strings.Cut(rest, " ")
	if header, ok := strings.CutPrefix(from, "@"); ok {
		w.vars[name] = w.head.Get(header)
	} else {
		var v any
		_ = json.Unmarshal(w.answer, &v) // what is not there is reported below
		for _, key := range strings.Split(from, ".") {
			if i, err := strconv.Atoi(key); err == nil {
				list, _ := v.([]any)
				v = nil
				if i < len(list) {
					v = list[i]
				}
				continue
			}
			m, _ := v.(map[string]any)
			v = m[key]
		}
		w.vars[name] = fmt.Sprint(v)
	}
	if w.vars[name] == "" || w.vars[name] == "<nil>" {
		t.Fatalf("%s: the answer has no %s:\n%s", at, from, w.answer)
	}
}
