// Package token says who may do what: the classes of calls, the scope of whoever
// makes one, and the question that every door asks before it does anything.
//
// A call is a [Want]: its class, and the org, app and machine that it is about. A
// [Scope] answers it. The faces (the API, what flyctl speaks, the SSH server) know
// no more than these two; where a scope comes from is their caller's business.
package token
