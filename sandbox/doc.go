// Package sandbox is the node's side of machine isolation.
package sandbox
