// Package http1 reads and writes the raw bytes of HTTP/1: heads and chunked bodies. It copies the lines that travel on
// in one pass, without a header map and without allocating, and it refuses whatever two parsers could read in two ways
// (RFC 9112 and its history of request smuggling): bare LF, folded lines, two lengths, odd transfer codings.
//
// It is not for connections, timeouts or decisions: those belong to package router. A further header that must not
// pass through belongs in Private (requests) or responsePrivate.
package http1
