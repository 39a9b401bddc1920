package ssh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
)

// What a session ends with when its program did not run, as shells and ssh have
// it.
const (
	exitNotAllowed = 126
	exitNoProgram  = 127
	exitNotRun     = 255
)

// shells are looked for in this order. The last ones are found in PATH.
var shells = []string{"/bin/bash", "/bin/sh", "/busybox/sh", "bash", "sh"}

// program is what a session runs: a shell, a command, or the file server.
type program interface {
	// did is what the machine's events say of it. Arguments are not in it: they
	// may hold secrets.
	did() string
	// run returns the exit code, or an error of a program that did not run.
	run(ctx context.Context, s *session) (int, error)
}

// run brings the machine up, runs p and tells the client what went wrong.
func (s *session) run(ctx context.Context, p program) int {
	if err := s.server.cfg.Machines.Enter(ctx, s.machine.ID); err != nil {
		return s.failed(err)
	}
	s.server.cfg.Noted(s.machine, s.grant)
	ended := s.note(ctx, p.did())
	code, err := p.run(ctx, s)
	if err != nil {
		code = s.failed(err)
	}
	ended(code)
	return code
}

// failed tells the client why nothing ran, or why it broke off.
func (s *session) failed(err error) int {
	var a *api.Error
	text, code := err.Error(), exitNotRun
	if errors.As(err, &a) {
		text = a.Message
		if a.Hint != "" {
			text += "; " + a.Hint
		}
		switch {
		case a.Field == "command" && a.Code == api.CodeUnsupported:
			code = exitNotAllowed
		case a.Field == "command":
			code = exitNoProgram
		}
	}
	end := "\n"
	if s.terminal {
		end = "\r\n" // the client's terminal is raw
	}
	_, _ = fmt.Fprint(s.ch.Stderr(), "perigee: ", text, end)
	return code
}

// exec runs a program of the machine's with the session's streams.
func (s *session) exec(ctx context.Context, args ...string) (int, error) {
	spec := s.spec()
	spec.Command = args
	return s.server.cfg.Machines.ExecStream(ctx, s.machine.ID, spec, s.streams())
}

// spec is what all programs of the session have in common.
func (s *session) spec() machine.ExecSpec {
	user := s.conn.User()
	env := map[string]string{"USER": user, "LOGNAME": user}
	maps.Copy(env, s.env)
	return machine.ExecSpec{Env: env, User: user, Terminal: s.terminal, Size: s.size}
}

func (s *session) streams() sandbox.Streams {
	return sandbox.Streams{Stdin: s.ch, Stdout: s.ch, Stderr: s.ch.Stderr(), Resize: s.sizes}
}

// notThere reports whether a program did not run since it cannot: the next one
// may.
func notThere(err error) bool {
	var a *api.Error
	return errors.As(err, &a) && a.Field == "command" && (a.Code == api.CodeInvalid || a.Code == api.CodeUnsupported)
}

// inShell runs the first shell that the machine has; ok is false if it has none.
func (s *session) inShell(ctx context.Context, args ...string) (code int, ok bool, err error) {
	for _, sh := range shells {
		if code, err = s.exec(ctx, append([]string{sh}, args...)...); !notThere(err) {
			return code, true, err
		}
	}
	return 0, false, nil
}

// shell is a login shell.
type shell struct{}

func (shell) did() string { return "shell" }

func (shell) run(ctx context.Context, s *session) (int, error) {
	code, ok, err := s.inShell(ctx, "-l")
	if !ok && err == nil {
		err = api.Errorf(api.CodeInvalid, "the image of machine %s has no shell", s.machine.ID).WithField("command").
			WithHint("run a program that is in it, by its path: perigee ssh console -C \"/app --version\"; perigee ssh sftp reaches its files")
	}
	return code, err
}

// command is a line for a shell; where there is none it is taken as words.
type command struct{ line string }

func (c command) did() string {
	if words, err := machine.Words(c.line); err == nil && len(words) > 0 {
		return words[0]
	}
	return "command"
}

func (c command) run(ctx context.Context, s *session) (int, error) {
	if strings.TrimSpace(c.line) == "" {
		return shell{}.run(ctx, s)
	}
	code, ok, err := s.inShell(ctx, "-c", c.line)
	if ok {
		return code, err
	}
	words, err := machine.Words(c.line)
	if err != nil {
		return 0, api.Errorf(api.CodeInvalid, "the image of machine %s has no shell, and the command is not plain words: %v", s.machine.ID, err).WithField("command")
	}
	code, err = s.exec(ctx, words...)
	if notThere(err) {
		a := api.AsError(err)
		err = api.Errorf(a.Code, "%s, and its image has no shell", a.Message).WithField("command").WithHint("name a program that is in the image by its path, without | and > and $")
	}
	return code, err
}

// files is SFTP, by a program of the node's: the image need not have one.
type files struct{}

func (files) did() string { return "sftp" }

func (files) run(ctx context.Context, s *session) (int, error) {
	spec := s.spec()
	spec.Program, spec.Terminal = string(sandbox.ProgramSFTP), false
	return s.server.cfg.Machines.ExecStream(ctx, s.machine.ID, spec, s.streams())
}
