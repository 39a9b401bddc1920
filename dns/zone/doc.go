// Package zone is the authoritative server of the cloud's public domain: it
// answers <app>.<zone> with the edges nearest to the client, for clouds that have
// no addresses to announce by BGP.
//
// Where a client is, it learns from the subnet that its resolver passes on
// (EDNS0 client subnet, RFC 7871), else from the resolver's own address. That
// becomes a place by an operator's file of prefixes, then by an MMDB database
// with locations; the place becomes an edge by its distance to the edges'
// regions. A client in no known place gets any edge, by load.
//
// Edges are looked at anew for every answer, so one that is down or drains is
// not in the next. If no edge with an address of the asked family is in service,
// the least bad are given all the same: first those that drain, for they serve
// still, then those that are down. Our view of them may be wrong, whereas no
// answer at all is a certain failure, which resolvers would remember.
//
// It resolves for nobody, and is not the resolver of the machines: that is
// package dns. It needs no copy on other servers: every node that runs it
// answers from the same catalog, so it hands out no zone transfers.
//
// A new kind of name goes in names.go, a new source of places beside prefixes.go
// and mmdb.go.
package zone
