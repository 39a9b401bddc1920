// Package flycompat is what flyctl asks for beyond the Machines API: the GraphQL
// operations at /graphql, and the calls under /api/v1. With it an unmodified
// flyctl, and programs that use fly-go, work against a node.
//
// It decides nothing and knows nothing of the house. Each question becomes calls
// to the node's own API, made in the same process with the caller's own
// Authorization: so who may do what, what is refused and why, and what is done
// are the API's. Nothing else in the house knows of this package but node, which
// puts it in front of the API ([Wrap]).
//
// It is not for what the Machines API has already (machines, volumes, secrets,
// addresses, certificates), which flyctl asks for there.
//
// # How a question is answered
//
// schema.graphql holds the types, with only the fields that flyctl asks for and in
// our own words; graphql-go checks a query against it and calls the methods of the
// same name: those of the root in query.go and mutation.go, those of an app in
// app.go. The calls under /api/v1 stand in one table in rest.go.
//
// To answer a new question: add its field to schema.graphql and a method of that
// name, or a row to the table; then a file to testdata/requests with the request
// and what the answer must hold. If our API lacks the answer, add it there first,
// as an endpoint that is of use to everybody.
package flycompat
