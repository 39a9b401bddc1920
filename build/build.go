//go:build linux

package build

import (
	"context"
	"io"
	"time"

	"github.com/perigee-run/perigee/build/progress"
	"github.com/tonistiigi/fsutil"
)

// Request is one image to build. The zero value of every field but the context is useful.
type Request struct {
	// Name says what is built, for example an app's name. Builds of one name share what the builder remembers of their
	// context, so that only changed files are read again. Default: the context folder's path.
	Name string
	// ContextDir is the folder that COPY reads from. Links in it are not followed out of it.
	ContextDir string
	// ContextFS stands in for ContextDir when the context is not a plain folder.
	ContextFS fsutil.FS
	// Dockerfile is the slash-separated path of the Dockerfile in the context. Default: "Dockerfile".
	Dockerfile string
	// Args are the values of the Dockerfile's ARG lines.
	Args map[string]string
	// Target is the stage to build. Default: the last one.
	Target string
	// Labels are put on the image.
	Labels map[string]string
	// NoCache runs every step again.
	NoCache bool
	// Secrets are what RUN --mount=type=secret,id=… reads. They never become part of the image or the cache.
	Secrets map[string][]byte
	// Auth is asked before the engine's Config.Auth. Nil knows nothing.
	Auth func(host string) (user, secret string)
	// Platform is "os/arch" or "os/arch/variant". Default: linux and this node's own architecture.
	Platform string

	// Have reports whether the image of this manifest digest is kept already; then it is not handed over. Nil means no.
	Have func(digest string) bool
	// ImportLayout takes the finished image as an OCI layout folder, which it must leave as it is and which is gone
	// afterwards. Its blobs are links into the build cache: what the importer has already costs nothing. What the build
	// made is in uncompressed layers; layers of a base image are as its registry had them.
	ImportLayout func(ctx context.Context, digest, dir string) error
	// Import is for an importer that wants one stream: the same layout as a tar. It is not called when ImportLayout is
	// set. An archive that breaks off ends in an error, never in io.EOF. With neither, the build only warms the cache.
	Import func(ctx context.Context, digest string, archive io.Reader) error
}

// Result is a finished build.
type Result struct {
	// Digest is the manifest's digest. The same context and Dockerfile with a warm cache give the same digest.
	Digest string `json:"digest"`
	// ConfigDigest is the image configuration's digest.
	ConfigDigest string `json:"config_digest,omitempty"`
	// Imported says that the image was handed over; false when Have said yes or nobody takes it.
	Imported bool `json:"imported"`
	// Duration is the whole build with the import.
	Duration time.Duration `json:"duration"`
}

// Usage is what the build cache holds.
type Usage struct {
	Bytes   int64 `json:"bytes"`   // all of it
	InUse   int64 `json:"in_use"`  // of which a running build holds this much
	Records int   `json:"records"` // number of cached results
}

// ProgressFunc is told every event of a build, one at a time and in order, and never after Build returned. It must
// not block for long: the build's output waits for it.
type ProgressFunc func(progress.Event)
