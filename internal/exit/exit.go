// Package exit holds the exit codes of perigee and of perigeed join. They are
// promises to scripts (docs/exit-codes.md), so that both programs take them from
// here. It ends no process itself.
package exit

import (
	"context"
	"errors"

	"github.com/perigee-run/perigee/api"
)

// The exit codes.
const (
	OK          = 0
	Failure     = 1 // anything not named below
	Usage       = 2 // a flag, an argument or a configuration is wrong
	NotFound    = 3 // the app, machine, release or image does not exist
	Auth        = 4 // no token, or one that does not reach this
	Conflict    = 5 // a name is taken, or something that is there is in the way
	Deploy      = 6 // the build or the deploy failed; the old release serves
	Unreachable = 7 // no node answers, or too few of those that keep the state
	Interrupted = 130
)

var codes = map[string]int{
	api.CodeNotFound: NotFound, api.CodeUnauthorized: Auth, api.CodeForbidden: Auth,
	api.CodeConflict: Conflict, api.CodeNameTaken: Conflict,
	api.CodeDeployFailed: Deploy, api.CodeBuildFailed: Deploy,
	api.CodeInvalid: Usage, api.CodeBadRequest: Usage, api.CodeUnreachable: Unreachable, api.CodeNoQuorum: Unreachable,
}

// Of is the exit code of a program that ends with err, by the code of the
// [api.Error] in it.
func Of(err error) int {
	var a *api.Error
	switch {
	case err == nil:
		return OK
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.As(err, &a) && codes[a.Code] != 0:
		return codes[a.Code]
	}
	return Failure
}
