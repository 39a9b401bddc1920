package machine

import (
	"errors"
	"fmt"

	"github.com/perigee-run/perigee/api"
)

// internal wraps a fault of ours with the thing it happened to. An error that
// speaks the API's words already is passed on.
func internal(err error, format string, a ...any) error {
	if isAPI(err) {
		return err
	}
	return fmt.Errorf(format+": %w", append(a, err)...)
}

// isAPI reports whether err speaks the API's words: the caller's fault, not ours.
func isAPI(err error) bool {
	var e *api.Error
	return errors.As(err, &e)
}
