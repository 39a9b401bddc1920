package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/perigee-run/perigee/api"
)

// brokenOff marks the end of a stream that its node did not bring to an end: the node is
// gone, or its daemon.
func brokenOff(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return hint(unreachable{err}, "the node does not answer any more; try again when it does")
		}
	}
	return err
}

// whyEnded looks why a session broke off: also a token that was revoked, or has expired,
// ends it.
func (e *env) whyEnded(ctx context.Context, err error) error {
	var broke unreachable
	if !errors.As(err, &broke) {
		return err
	}
	client, app, fault := e.forApp()
	if fault != nil {
		return err
	}
	if _, no := client.ListMachines(ctx, app); api.IsCode(no, api.CodeUnauthorized) || api.IsCode(no, api.CodeForbidden) {
		return fmt.Errorf("the session was ended: %w", no)
	}
	return err
}
