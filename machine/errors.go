package machine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/sandbox"
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

// commandFault reports whether the sandbox could not load the command: the
// image does not have it, or it is no program. gVisor has no error of its own
// for that, only these words.
func commandFault(err error) bool {
	text := err.Error()
	return strings.Contains(text, "failed to load ") || strings.Contains(text, "error finding executable")
}

// declined is internal for what the sandbox may decline: then it says why.
func declined(err error, id, done string) error {
	if errors.Is(err, sandbox.ErrState) || errors.Is(err, sandbox.ErrNotFound) {
		return api.Errorf(api.CodePrecondition, "machine %q cannot be %s: %v", id, done, err)
	}
	return internal(err, "machine %q cannot be %s", id, done)
}

func invalid(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeInvalid, "%s: "+format, append([]any{field}, a...)...).WithField(field)
}

func unsupported(field, format string, a ...any) *api.Error {
	return api.Errorf(api.CodeUnsupported, "%s: "+format, append([]any{field}, a...)...).WithField(field)
}
