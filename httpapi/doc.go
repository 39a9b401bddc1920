// Package httpapi is the node's HTTP face: Fly's Machines API by its paths and
// shapes, Perigee's own endpoints beside it, and the OpenAPI document of both.
//
// It decides nothing. It authenticates, asks the caller's scope (access.go), reads the request, calls the room that
// decides, and writes the answer; every refusal has the shape of [api.Error].
// The image registry's /v2/ and the router are not part of it.
//
// # How an endpoint is made
//
// All endpoints stand in tables, one for each subject, which routes.go joins: method,
// path, access, operation, handler. Access is a class of package token; before the handler runs, the caller's
// scope is asked about the class, the app ({app_name}), the org ({org_slug}) and the
// machine of the path. A handler that touches or lists what the path does not name
// asks itself: call.may, call.mayApp, call.sees. A handler is a plain function from a call and a body type to an
// answer type. The OpenAPI document is made from the same table and the same
// types (by Huma's schema generator), and the body is checked against the same
// types (check.go), so the document cannot drift from the wire. To add an
// endpoint, add its types to package api, and a row and its handler to the file of its
// subject.
//
// # What clients may rely on
//
//   - every answer has a fly-request-id
//   - malformed JSON is 400; a wrong value is 422 with the field named
//   - unknown fields of a body are accepted, for clients written for Fly send
//     some, and named in a Warning header, so that a misspelling is not silent
//   - streams are application/x-ndjson; once one has begun with 200, a failure is
//     its last line, of kind error
//   - to hang up does not stop a deploy; it does stop a pull, an import, a build
//     and a command
package httpapi
