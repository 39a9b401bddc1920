package flycompat

import (
	"context"
	_ "embed" // of the schema
	"encoding/json"
	"io"
	"net/http"
	"strings"

	graphql "github.com/graph-gophers/graphql-go"
	"github.com/graph-gophers/graphql-go/errors"
	"github.com/perigee-run/perigee/api"
)

//go:embed schema.graphql
var schemaText string

// schema carries out queries.
type schema interface {
	Exec(ctx context.Context, query, operation string, variables map[string]any) *graphql.Response
}

// newSchema joins the schema with the methods that answer. That they fit is
// checked here, so a mistake ends every test.
func newSchema() schema {
	return graphql.MustParseSchema(schemaText, &root{}, graphql.UseFieldResolvers(), graphql.MaxDepth(14), graphql.MaxSelections(2000),
		graphql.MaxQueryLength(64<<10), graphql.MaxParallelism(4), graphql.OverlapValidationLimit(20000))
}

// question is the body of a GraphQL request.
type question struct {
	Query     string         `json:"query"`
	Operation string         `json:"operationName"`
	Variables map[string]any `json:"variables"`
}

// graphql answers 200 whatever became of the query, as clients expect; only what
// is no GraphQL request at all is 400.
func (s *server) graphql(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "GraphQL requests are POSTed")
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusBadRequest, "cannot read the request: "+err.Error())
		return
	}
	var q question
	if err := json.Unmarshal(b, &q); err != nil || q.Query == "" {
		refuse(w, http.StatusBadRequest, "the body is not a GraphQL request: it needs query, and may have variables and operationName")
		return
	}
	ctx := context.WithValue(r.Context(), callerKey{}, s.as(r))
	write(w, http.StatusOK, plainly(s.schema.Exec(ctx, q.Query, q.Operation, q.Variables)))
}

// plainly says in one line that the cloud does not have what is asked for, where
// the schema would say it of each field.
func plainly(a *graphql.Response) *graphql.Response {
	for _, e := range a.Errors {
		if strings.HasPrefix(e.Message, "Cannot query field") || strings.HasPrefix(e.Message, "Unknown type") {
			e.Message = "this cloud has nothing that could answer: " + e.Message + " docs/flyctl.md lists what works"
			e.Extensions = map[string]any{"code": "UNPROCESSABLE", "reason": api.CodeUnsupported}
			a.Errors = []*errors.QueryError{e}
			break
		}
	}
	return a
}

// fault is an error of the API in GraphQL's shape.
type fault struct{ e *api.Error }

// Error is the API's message, with what to do about it.
func (f fault) Error() string {
	if f.e.Hint != "" {
		return f.e.Message + "; " + f.e.Hint
	}
	return f.e.Message
}

// faultCodes are the words that flyctl knows for the API's codes.
var faultCodes = map[string]string{
	api.CodeUnauthorized: "UNAUTHORIZED", api.CodeForbidden: "UNAUTHORIZED", api.CodeNotFound: "NOT_FOUND", api.CodeBadRequest: "INVALID_ARGUMENTS",
	api.CodeInvalid: "INVALID", api.CodeInternal: "INTERNAL_SERVER_ERROR", api.CodeUnreachable: "SERVER_ERROR", api.CodeNoQuorum: "SERVER_ERROR",
}

// Extensions carries the code to the client.
func (f fault) Extensions() map[string]any {
	code := faultCodes[f.e.Code]
	if code == "" {
		code = "UNPROCESSABLE"
	}
	return map[string]any{"code": code, "reason": f.e.Code}
}

// faulty gives an error GraphQL's shape; nil stays nil.
func faulty(err error) error {
	if err == nil {
		return nil
	}
	return fault{api.AsError(err)}
}

// refuse answers a request that is none, in the API's shape.
func refuse(w http.ResponseWriter, status int, words string) {
	write(w, status, api.Error{Message: words, Code: api.CodeBadRequest})
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"cannot write the answer","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client may be gone
}
