// Package version says which Perigee this is. It is not for deciding what a
// peer can do: ask the peer.
package version

// Version is set by the linker from the repository's tag or commit.
var Version = "dev"
