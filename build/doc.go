// Package build turns a folder with a Dockerfile into an image. BuildKit is the engine; this room starts it, feeds it
// and ends it.
//
// The engine is a process of its own (Serve): an idle node pays nothing for it, a crashing build cannot hurt the
// daemon, and its memory goes when it goes. The daemon's side (Engine) starts that process on the first build, finds
// it again after a restart of its own, and hands every finished image, as an OCI archive, to whoever keeps images.
//
// Steps run in network namespaces that the daemon gives (Config.Networks), never in its own.
//
// The room does not fetch Git repositories, does not keep images, and does not know apps or releases: it is given a
// folder and a sink. A durable builder that starts from a commit stands in front of Engine.Build and changes nothing
// here. Two small packages beside it are free of heavy imports, so that the command line can use them on any system:
// buildcontext packs a folder for upload and unpacks it on the node, progress holds the build's events and writes them as plain lines.
//
// Where to add the next case: a new way to fail goes into explain (errors.go), a new build option into Request and
// solveOpt (solve.go), a new kind of live output into watcher (watch.go).
package build
