//go:build linux

package build

import (
	"context"
	"io"

	"github.com/perigee-run/perigee/build/buildcontext"
)

// ContextLimits bound an uploaded build context; the zero value is 2 GiB and 200,000 files.
type ContextLimits = buildcontext.Limits

// ErrContextTooLarge is wrapped by what ReadContext returns for a context beyond its limits.
var ErrContextTooLarge = buildcontext.ErrTooLarge

// ReadContext unpacks a context that a client sent into the new folder dir, see buildcontext.Read. Builds of one
// Request.Name are quickest when their contexts keep the files' times, as it does.
func ReadContext(ctx context.Context, r io.Reader, dir string, limits ContextLimits) error {
	return buildcontext.Read(ctx, r, dir, limits)
}
