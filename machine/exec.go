package machine

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
)

const (
	defaultExecTimeout = time.Minute
	maxExecTimeout     = 3600 // seconds
	maxExecOutput      = 1 << 20
)

// ExecSpec is a command with live streams.
type ExecSpec struct {
	Command  []string
	Program  string            // one of sandbox.Programs, in Command's place
	Env      map[string]string // added to the machine's own
	Dir      string            // default the machine's working directory
	User     string            // default the machine's user
	Terminal bool
	Size     sandbox.Size // of the terminal
	// Container is the name of the machine's only one, or "".
	Container string
}

// Exec runs a command in a running machine and returns what it wrote, at most
// a MiB of each stream. A machine that is paused or suspended is woken for it.
func (h *Host) Exec(ctx context.Context, id string, req api.ExecRequest) (api.ExecResponse, error) {
	command, err := ExecCommand(req)
	if err != nil {
		return api.ExecResponse{}, err
	}
	timeout := time.Duration(req.Timeout) * time.Second
	orElse(&timeout, defaultExecTimeout)
	run, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, errs := &capped{}, &capped{}
	streams := sandbox.Streams{Stdin: strings.NewReader(req.Stdin), Stdout: out, Stderr: errs}
	code, err := h.ExecStream(run, id, ExecSpec{Command: command, Container: req.Container}, streams)
	if err != nil && run.Err() != nil && ctx.Err() == nil {
		return api.ExecResponse{}, api.Errorf(api.CodeTimeout, "the command in machine %q did not end within %s and was killed", id, timeout)
	}
	if err != nil {
		return api.ExecResponse{}, err
	}
	answer := api.ExecResponse{ExitCode: code, Stdout: out.String(), Stderr: errs.String()}
	if sig := code - 128; sig >= 1 && sig <= rules.MaxSignal {
		answer.ExitSignal = sig
	}
	return answer, nil
}

// ExecCommand is what a request runs, or what is wrong with it.
func ExecCommand(req api.ExecRequest) ([]string, error) {
	command := req.Command
	if len(command) == 0 && req.Cmd != "" {
		var err error
		if command, err = splitWords(req.Cmd); err != nil {
			return nil, invalid("cmd", "%v", err)
		}
	}
	switch {
	case len(req.Command) > 0 && req.Cmd != "":
		return nil, invalid("cmd", "is %q, and there is a command: give one of both", api.Clip(req.Cmd))
	case len(command) == 0 || command[0] == "":
		return nil, invalid("command", "is missing")
	case req.Timeout < 0 || req.Timeout > maxExecTimeout:
		return nil, invalid("timeout", "is %d; it can be 1 to %d seconds", req.Timeout, maxExecTimeout)
	}
	return command, rules.Args("command", command, nil, nil)
}

// ExecStream runs a command in a running machine with the caller's streams and
// returns its exit code, 128+n if signal n ended it. The command is killed when
// ctx ends. A machine that is paused or suspended is woken for it, and stays
// awake until the command ends.
func (h *Host) ExecStream(ctx context.Context, id string, spec ExecSpec, streams sandbox.Streams) (int, error) {
	if err := checkProgram(&spec); err != nil {
		return -1, err
	}
	return h.execStream(ctx, id, spec, streams)
}

// execStream is ExecStream for a spec that is right.
func (h *Host) execStream(ctx context.Context, id string, spec ExecSpec, streams sandbox.Streams) (int, error) {
	if err := rules.Env("env", spec.Env); err != nil {
		return -1, err
	}
	m, err := h.find(ctx, id)
	if err != nil {
		return -1, err
	}
	m.busy.Add(1)
	defer m.busy.Add(-1)
	if err := h.wakeFor(ctx, m); err != nil {
		return -1, err
	}
	if err := m.contains(spec.Container); err != nil {
		return -1, err
	}
	own, life, err := h.execSpec(ctx, m, spec)
	if err != nil {
		return -1, err
	}
	code, err := h.cfg.Sandbox.Exec(ctx, life, own, streams)
	switch {
	case errors.Is(err, sandbox.ErrInvalid):
		return -1, invalid("command", "%v", err)
	case err != nil && commandFault(err):
		return -1, noProgram(err, id, spec.name())
	case errors.Is(err, sandbox.ErrNotFound), errors.Is(err, sandbox.ErrState):
		return -1, api.Errorf(api.CodePrecondition, "machine %q stopped before the command ran", id)
	case err != nil && ctx.Err() == nil && m.left(life):
		return -1, api.Errorf(api.CodePrecondition, "the command in machine %q was ended: the machine is %s", id, m.now().rec.State).
			WithHint("run it again; a machine that sleeps is woken for it")
	case err != nil:
		return -1, internal(err, "cannot run %q in machine %q", spec.name(), id)
	}
	return code, nil
}

// left reports whether the machine has ended this life, or is about to.
func (m *machine) left(life string) bool {
	r := &m.now().rec
	return r.State != api.StateStarted || r.Sandbox != life
}

// programs are those of ours that callers may name.
var programs = []sandbox.Program{sandbox.ProgramSFTP}

// checkProgram wants a command or a program of ours.
func checkProgram(s *ExecSpec) error {
	switch known := slices.Contains(programs, sandbox.Program(s.Program)); {
	case s.Program == "" && len(s.Command) == 0:
		return invalid("command", "is missing")
	case s.Program != "" && len(s.Command) > 0:
		return invalid("program", "is %q, and there is a command: give one of both", s.Program)
	case s.Program != "" && !known:
		return invalid("program", "is %q; it can be one of %q", s.Program, programs)
	case s.Program != "" && s.Terminal:
		return invalid("tty", "is not for program %q", s.Program)
	}
	return nil
}

// name is what to call the command by.
func (s *ExecSpec) name() string {
	if s.Program != "" {
		return s.Program
	}
	return s.Command[0]
}

// noProgram says of a commandFault whether the program is not there (invalid),
// or is there and cannot be run (unsupported).
func noProgram(err error, id, program string) error {
	for _, why := range []string{"permission denied", "exec format error"} {
		if strings.Contains(err.Error(), why) {
			return api.Errorf(api.CodeUnsupported, "machine %q cannot run %q: %s", id, program, why).WithField("command")
		}
	}
	return api.Errorf(api.CodeInvalid, "machine %q has no program %q", id, program).WithField("command")
}

// contains refuses the name of a container that the machine does not have.
func (m *machine) contains(container string) error {
	all := m.now().rec.Config.Containers
	if container == "" || len(all) == 1 && all[0].Name == container {
		return nil
	}
	return invalid("container", "machine %q has no container %q", m.id, container).WithHint("leave it out: a machine holds one image")
}

// wakeFor wakes a sleeper whose memory is kept; a machine that does not run at
// all is its owner's affair.
func (h *Host) wakeFor(ctx context.Context, m *machine) error {
	switch m.now().rec.State {
	case api.StatePaused, api.StateSuspended, api.StateSuspending:
		_, err := h.Wake(ctx, m.id)
		return err
	}
	return m.need("entered", api.StateStarted)
}

// execSpec resolves user and environment; it takes the turn for a moment, for
// the plan and the life belong to it.
func (h *Host) execSpec(ctx context.Context, m *machine, spec ExecSpec) (sandbox.ExecSpec, string, error) {
	out := sandbox.ExecSpec{Args: spec.Command, Program: sandbox.Program(spec.Program), Cwd: spec.Dir, Terminal: spec.Terminal, Size: spec.Size}
	if err := m.take(ctx); err != nil {
		return out, "", err
	}
	defer m.give()
	if err := m.need("entered", api.StateStarted); err != nil {
		return out, "", err
	}
	if spec.User == "" && len(spec.Env) == 0 && !spec.Terminal {
		return out, m.life.id, nil
	}
	if err := h.planned(ctx, m); err != nil {
		return out, "", err
	}
	return out, m.life.id, h.fillExec(ctx, m, spec, &out)
}

func (h *Host) fillExec(ctx context.Context, m *machine, spec ExecSpec, out *sandbox.ExecSpec) error {
	r, p := m.now().rec, *m.plan
	secrets, err := h.secrets(ctx, &r)
	if err != nil {
		return err
	}
	if r.NoSecrets {
		secrets = nil
	}
	if spec.User != "" {
		if err := p.user(h.cfg.Images, spec.User, true); err != nil {
			return api.AsError(err).WithField("user")
		}
		out.User, out.UID, out.GID, out.AdditionalGIDs = true, p.uid, p.gid, p.groups
	}
	env := map[string]string{}
	if spec.Terminal {
		env["TERM"] = "xterm-256color"
	}
	for k, v := range spec.Env {
		env[k] = v
	}
	out.Env = p.environ(&r, secrets)
	for k, v := range env {
		out.Env = append(out.Env, k+"="+v) // the last one counts
	}
	return nil
}

// splitWords splits a line at spaces as a shell would, with its quotes and
// backslashes, and no expansions.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, begun, escaped := rune(0), false, false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, begun = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, begun = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed, or the line ends in a backslash")
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}

// capped keeps the first bytes written to it and drops the rest.
type capped struct{ b bytes.Buffer } // not embedded: io.Copy would go round Write by its ReadFrom

// Write never fails, so that the command is not stopped for talking much.
func (c *capped) Write(b []byte) (int, error) {
	if room := maxExecOutput - c.b.Len(); room > 0 {
		c.b.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

// String is what was kept.
func (c *capped) String() string { return c.b.String() }
