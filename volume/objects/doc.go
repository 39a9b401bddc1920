// Package objects keeps named pieces of bytes for snapshots: in a folder of the
// node, or in a bucket that is spoken to as S3 is.
//
// A piece is put whole or not at all, and is never changed; what was put is there
// after a crash. Names are of a-z, A-Z, 0-9, '_', '-', '.', and '/' between parts.
//
// To add a place, implement [Store], and run the suite of this package's tests
// over it.
package objects
