package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Error is what every refused call answers: what was wrong, in words, and a
// code that programs may act on. Codes are public promises; see [Codes].
type Error struct {
	Message string   `json:"error" doc:"What was wrong, in words"`
	Code    string   `json:"code" doc:"A word that programs may act on"`
	Kind    string   `json:"status,omitempty" enum:",unknown,insufficient_capacity,volume_placement_capacity,name_taken" doc:"The code as far as Fly's clients know it"`
	Field   string   `json:"field,omitempty" doc:"The field of the request that is wrong"`
	Hint    string   `json:"hint,omitempty" doc:"What to do about it"`
	Logs    []string `json:"logs,omitempty" doc:"With deploy_failed: what the app itself said last"`
	Status  int      `json:"-" doc:"HTTP status"`
}

// The codes of [Error].
const (
	CodeInvalid      = "invalid"               // 422: a field has a value it cannot have
	CodeBadRequest   = "bad_request"           // 400: the body is not what the endpoint takes
	CodeUnauthorized = "unauthorized"          // 401: no token, or a wrong one
	CodeForbidden    = "forbidden"             // 403: the token does not reach this
	CodeNotFound     = "not_found"             // 404
	CodeNameTaken    = "name_taken"            // 409 (Fly: 422 with the same word)
	CodeConflict     = "conflict"              // 409: a lease, a version or a state is in the way
	CodePrecondition = "precondition"          // 412: the machine is not in a state for it
	CodeRateLimited  = "rate_limited"          // 429: too many calls in too short a time
	CodeTimeout      = "timeout"               // 408: what was waited for did not happen
	CodeCapacity     = "insufficient_capacity" // 422: the node cannot hold it
	CodeImage        = "image"                 // 422: the image cannot be had or used
	CodeDeployFailed = "deploy_failed"         // 422: the new release did not become healthy
	CodeBuildFailed  = "build_failed"          // 422: the Dockerfile did not build
	CodeUnsupported  = "unsupported"           // 422: the sandbox cannot do it
	CodeUnreachable  = "unreachable"           // 503: the machine's node does not answer
	CodeNoQuorum     = "no_quorum"             // 503: too few of those that keep the state answer
	CodeInternal     = "internal"              // 500: ours
)

// Codes gives the HTTP status of each code.
var Codes = map[string]int{
	CodeInvalid: http.StatusUnprocessableEntity, CodeBadRequest: http.StatusBadRequest,
	CodeUnauthorized: http.StatusUnauthorized, CodeForbidden: http.StatusForbidden,
	CodeNotFound: http.StatusNotFound, CodeNameTaken: http.StatusConflict,
	CodeConflict: http.StatusConflict, CodePrecondition: http.StatusPreconditionFailed,
	CodeTimeout: http.StatusRequestTimeout, CodeCapacity: http.StatusUnprocessableEntity,
	CodeImage: http.StatusUnprocessableEntity, CodeDeployFailed: http.StatusUnprocessableEntity,
	CodeBuildFailed: http.StatusUnprocessableEntity, CodeUnsupported: http.StatusUnprocessableEntity,
	CodeRateLimited: http.StatusTooManyRequests,
	CodeUnreachable: http.StatusServiceUnavailable, CodeNoQuorum: http.StatusServiceUnavailable, CodeInternal: http.StatusInternalServerError,
}

// kinds are the codes that Fly's clients know, in their words.
var kinds = map[string]string{CodeNameTaken: "name_taken", CodeCapacity: "insufficient_capacity"}

// KindVolumePlacement is the [Error.Kind] of a CodeCapacity where it is a volume that
// finds no room: Fly's clients try another place then.
const KindVolumePlacement = "volume_placement_capacity"

// KindOf is what Fly's clients call the code.
func KindOf(code string) string {
	if k := kinds[code]; k != "" {
		return k
	}
	return "unknown"
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// WithField returns a copy of e that names the field at fault.
func (e Error) WithField(f string) *Error { e.Field = f; return &e }

// WithHint returns a copy of e that says what to do.
func (e Error) WithHint(h string) *Error { e.Hint = h; return &e }

// WithKind returns a copy of e that Fly's clients know by that word.
func (e Error) WithKind(k string) *Error { e.Kind = k; return &e }

// Errorf makes an error with a code and its status.
func Errorf(code, format string, a ...any) *Error {
	return &Error{Code: code, Status: Codes[code], Message: fmt.Sprintf(format, a...)}
}

// AsError returns err as an *Error: itself where it is one, an internal error
// with its text otherwise; nil stays nil.
func AsError(err error) *Error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, "%v", err)
}

// IsCode reports whether err carries the code.
func IsCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
