//go:build !linux

package cli

import (
	"context"
	"errors"
)

var errLabLinuxOnly = errors.New("a lab runs on Linux only: it is made of network namespaces")

func (e *env) labUp(context.Context, labFlags) error { return errLabLinuxOnly }

func (e *env) labDown(context.Context, string, bool) error { return errLabLinuxOnly }

func (e *env) labExec(context.Context, string, string, []string) error { return errLabLinuxOnly }
