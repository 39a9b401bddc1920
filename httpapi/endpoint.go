package httpapi

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/perigee-run/perigee/api"
)

// endpoint serves calls and says in the OpenAPI document what it takes and gives.
type endpoint interface {
	serve(c *call) error
	describe(op *huma.Operation, reg huma.Registry)
}

// none is the body, or the answer, of an endpoint that has none.
type none struct{}

// verb is an endpoint with a JSON body and a JSON answer.
type verb[I, O any] struct {
	status int
	each   bool
	do     func(c *call, in I) (O, error)
}

// get is an endpoint without a body.
func get[O any](do func(c *call) (O, error)) verb[none, O] {
	return verb[none, O]{status: http.StatusOK, do: func(c *call, _ none) (O, error) { return do(c) }}
}

// take is an endpoint with a body.
func take[I, O any](do func(c *call, in I) (O, error)) verb[I, O] {
	return verb[I, O]{status: http.StatusOK, do: do}
}

// act is an endpoint without a body that has nothing to tell.
func act(do func(c *call) error) verb[none, api.OKResponse] {
	return get(func(c *call) (api.OKResponse, error) { return api.OKResponse{OK: true}, do(c) })
}

// actOn is an endpoint with a body that has nothing to tell.
func actOn[I any](do func(c *call, in I) error) verb[I, api.OKResponse] {
	return take(func(c *call, in I) (api.OKResponse, error) { return api.OKResponse{OK: true}, do(c, in) })
}

// with gives an endpoint another status than 200.
func (v verb[I, O]) with(status int) verb[I, O] {
	v.status = status
	return v
}

// asking says that the endpoint is about several machines, and its handler asks the
// caller's scope for each: a token that reaches some of them may call it.
func (v verb[I, O]) asking() verb[I, O] {
	v.each = true
	return v
}

func (v verb[I, O]) asksEach() bool { return v.each }

func (v verb[I, O]) serve(c *call) error {
	var in I
	if _, ok := any(in).(none); !ok {
		if err := c.read(&in); err != nil {
			return err
		}
	}
	out, err := v.do(c, in)
	if err != nil {
		return err
	}
	c.answer(v.status, out)
	return nil
}

func (v verb[I, O]) describe(op *huma.Operation, reg huma.Registry) {
	body[I](op, reg)
	answers[O](op, reg, v.status, "application/json")
}

// stream is an endpoint with a JSON body and an answer of many lines.
type stream[I, L any] struct {
	do func(c *call, in I, send func(L)) error
}

// progress is a stream of [api.Progress].
func progress[I any](do func(c *call, in I, send func(api.Progress)) error) endpoint {
	return stream[I, api.Progress]{do}
}

func (s stream[I, L]) serve(c *call) error {
	var in I
	if _, ok := any(in).(none); !ok {
		if err := c.read(&in); err != nil {
			return err
		}
	}
	return s.run(c, in)
}

// run sends the lines. Before the first one an error is an answer like any
// other; afterwards it is the last line.
func (s stream[I, L]) run(c *call, in I) error {
	out := &lines[L]{c: c}
	err := s.do(c, in, out.send)
	if err == nil {
		out.begin()
		return nil
	}
	if !out.begun {
		return err
	}
	c.code = asError(err).Code
	if _, ok := any(*new(L)).(api.Progress); !ok {
		panic(http.ErrAbortHandler) // the client sees that the stream broke off
	}
	out.write(api.Progress{Time: time.Now().UTC(), Kind: "error", Message: err.Error(), Error: asError(err)})
	return nil
}

func (s stream[I, L]) describe(op *huma.Operation, reg huma.Registry) {
	body[I](op, reg)
	answers[L](op, reg, http.StatusOK, "application/x-ndjson")
}

// upload is a stream whose request body is bytes of the media type.
type upload struct {
	media string
	do    func(c *call, send func(api.Progress)) error
}

func (u upload) serve(c *call) error {
	// The answer begins while the body still arrives.
	if err := http.NewResponseController(c.w).EnableFullDuplex(); err != nil && c.r.ProtoMajor == 1 {
		c.server.cfg.Logger.Debug("cannot answer while the body arrives", "error", err)
	}
	// A body that is not read to its end leaves the connection in disorder: it
	// is closed, after the answer.
	c.w.Header().Set("Connection", "close")
	defer func() { _, _ = io.CopyN(io.Discard, c.r.Body, drainLimit) }()
	return stream[none, api.Progress]{func(c *call, _ none, send func(api.Progress)) error { return u.do(c, send) }}.run(c, none{})
}

// drainLimit is how much of an unwanted body is taken, so that a client which
// sends little gets to read the answer before the connection closes.
const drainLimit = 1 << 20

func (u upload) describe(op *huma.Operation, reg huma.Registry) {
	op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		u.media: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
	}}
	answers[api.Progress](op, reg, http.StatusOK, "application/x-ndjson")
}

// raw is an endpoint that writes its answer itself.
type raw struct {
	media string
	do    func(c *call) error
}

func (r raw) serve(c *call) error { return r.do(c) }

func (r raw) describe(op *huma.Operation, _ huma.Registry) {
	status := "200"
	if r.media == "" {
		status = "101"
	}
	op.Responses = map[string]*huma.Response{status: {Description: "OK"}}
	if r.media != "" {
		op.Responses[status].Content = map[string]*huma.MediaType{r.media: {}}
	}
}

// lines writes NDJSON, each line at once.
type lines[L any] struct {
	c     *call
	begun bool
}

func (l *lines[L]) begin() {
	if l.begun {
		return
	}
	l.begun = true
	h := l.c.w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // for proxies in between
	l.c.w.WriteHeader(http.StatusOK)
	l.flush()
}

func (l *lines[L]) send(v L) {
	l.begin()
	l.write(v)
}

func (l *lines[L]) write(v any) {
	_ = json.NewEncoder(l.c.w).Encode(v) // a client that is gone shows in the context
	l.flush()
}

func (l *lines[L]) flush() { _ = http.NewResponseController(l.c.w).Flush() }

func body[I any](op *huma.Operation, reg huma.Registry) {
	t := reflect.TypeFor[I]()
	if t == reflect.TypeFor[none]() {
		return
	}
	op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{
		"application/json": {Schema: reg.Schema(t, true, op.OperationID+"Request")},
	}}
}

func answers[O any](op *huma.Operation, reg huma.Registry, status int, media string) {
	r := &huma.Response{Description: http.StatusText(status)}
	if t := reflect.TypeFor[O](); t != reflect.TypeFor[none]() {
		r.Content = map[string]*huma.MediaType{media: {Schema: reg.Schema(t, true, op.OperationID+"Response")}}
	}
	op.Responses = map[string]*huma.Response{statusText(status): r}
}
