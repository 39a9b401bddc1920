package machine

import (
	"errors"
	"testing"

	"github.com/perigee-run/perigee/api"
)

// TestNoProgram: a program that is not there differs from one that may not run.
func TestNoProgram(t *testing.T) {
	for text, code := range map[string]string{
		`error finding executable "x" in PATH [/bin]: no such file or directory`: api.CodeInvalid,
		`error finding executable "x" in PATH [/bin]: permission denied`:         api.CodeUnsupported,
		`failed to load /x: no such file or directory`:                           api.CodeInvalid,
		`failed to load /x: exec format error`:                                   api.CodeUnsupported,
	} {
		err := errors.New(text)
		if got := api.AsError(noProgram(err, "m", "x")); !commandFault(err) || got.Code != code || got.Field != "command" {
			t.Errorf("%s: %s of field %q, want %s", text, got.Code, got.Field, code)
		}
	}
}
