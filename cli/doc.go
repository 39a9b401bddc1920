// Package cli is the `perigee` command: one verb per file, each a thin walk
// from flags to the public client and back to a table, a stream of lines or
// JSON. It runs on Linux, macOS and Windows and reaches a node only through
// package api.
//
// It decides nothing about apps or machines: the node does. A new verb is a
// new file with a function that returns a *cobra.Command, named in root.go.
package cli
