package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/catalog"
	"github.com/perigee-run/perigee/token"
)

// call is one request on its way through an endpoint.
type call struct {
	server *Server
	route  *route
	who    Principal
	w      http.ResponseWriter
	r      *http.Request
	warned map[string]bool
	code   string     // of the error that the call ended with
	about  token.Want // what the path says that it is about, when it began
}

// bodyTimeout is how long a JSON body may take to arrive.
const bodyTimeout = 30 * time.Second

// path returns a segment of the path.
func (c *call) path(name string) string { return c.r.PathValue(name) }

// nonce is that of the caller's lease.
func (c *call) nonce() string { return c.r.Header.Get(api.NonceHeader) }

// query returns the values of a query parameter, which the route must declare.
func (c *call) query(name string) []string {
	if !slices.ContainsFunc(c.route.query, func(p param) bool { return p.name == name }) {
		panic("route " + c.route.id + " does not declare query parameter " + name)
	}
	return c.r.URL.Query()[name]
}

func (c *call) text(name string) string {
	if v := c.query(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c *call) bool(name string) (bool, error) {
	s := c.text(name)
	if s == "" {
		return len(c.query(name)) > 0 && c.r.URL.Query().Has(name), nil // ?force
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, invalid(name, "%s is %q; it can be true or false", name, s)
	}
	return v, nil
}

func (c *call) int(name string) (int, error) {
	s := c.text(name)
	if s == "" {
		return 0, nil
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		return 0, invalid(name, "%s is %q; it must be a whole number", name, s)
	}
	return v, nil
}

// duration reads seconds, or Go's text; nil if the parameter is missing.
func (c *call) duration(name string) (*api.Duration, error) {
	s := c.text(name)
	if s == "" {
		return nil, nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n < 1e9 {
		return api.D(time.Duration(n * float64(time.Second))), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return nil, invalid(name, "%s is %q; it must be seconds, or a number with a unit such as 1m30s", name, s)
	}
	return api.D(d), nil
}

// read reads the JSON body into v, a pointer. An empty body leaves v alone.
func (c *call) read(v any) error {
	rc := http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // a test's recorder has none
	b, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, c.server.cfg.MaxBody))
	_ = rc.SetReadDeadline(time.Time{})
	if err != nil {
		return bodyError(err)
	}
	if len(strings.TrimSpace(string(b))) == 0 {
		b = []byte("{}")
	}
	unknown, err := check(b, v)
	for _, f := range unknown {
		c.warn("unknown field " + f + " is ignored")
	}
	return err
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		e := api.Errorf(api.CodeBadRequest, "the body has more than %d bytes", tooLarge.Limit)
		e.Status = http.StatusRequestEntityTooLarge
		return e
	}
	return api.Errorf(api.CodeBadRequest, "cannot read the body: %v", err)
}

// warn puts a warning into the answer's head.
func (c *call) warn(text string) {
	if c.warned[text] || len(c.warned) >= 20 {
		return
	}
	c.warned[text] = true
	c.w.Header().Add("Warning", "299 perigee "+strconv.Quote(text))
}

// answer writes v as JSON.
func (c *call) answer(status int, v any) {
	if status == http.StatusNoContent {
		c.w.WriteHeader(status)
		return
	}
	writeJSON(c.w, status, v)
}

// fail answers with an error. Nobody hears it when the client is gone.
func (c *call) fail(err error) {
	e := asError(err)
	c.code = e.Code
	if e.Code == api.CodeInternal && c.r.Context().Err() == nil {
		c.server.cfg.Logger.Error("request failed", "request", c.w.Header().Get(api.RequestIDHeader), "operation", c.route.id, "error", err)
	}
	writeError(c.w, e)
}

// asError says in the API's words what went wrong.
func asError(err error) *api.Error {
	var known *api.Error
	var q *catalog.NoQuorumError
	if !errors.As(err, &known) && errors.As(err, &q) {
		return api.Errorf(api.CodeNoQuorum, "%s", q.Words).WithHint("perigee nodes shows who is away; what runs goes on meanwhile")
	}
	return api.AsError(err)
}

func writeError(w http.ResponseWriter, e *api.Error) {
	status := e.Status
	if status == 0 {
		status = api.Codes[e.Code]
	}
	if status == 0 {
		status = http.StatusInternalServerError
	}
	shown := *e
	if shown.Kind == "" {
		shown.Kind = api.KindOf(e.Code)
	}
	writeJSON(w, status, &shown)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"cannot write the answer","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client may be gone
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, format, a...).WithField(field)
}
