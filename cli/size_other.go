//go:build !unix

package cli

import (
	"context"

	"github.com/perigee-run/perigee/api"
)

// watchSize sends nothing: this system does not tell when a terminal changes.
func watchSize(context.Context, int) <-chan api.TerminalSize { return nil }
