//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
)

// Error is a build that failed because of what was to be built. The API sends it as it is.
type Error struct {
	// Dockerfile is its path in the context; empty when the fault is elsewhere.
	Dockerfile string `json:"dockerfile,omitempty"`
	// Line counts from 1; 0 when no line is to blame.
	Line int `json:"line,omitempty"`
	// Command is what stands in that line, such as "RUN make".
	Command string `json:"command,omitempty"`
	// ExitCode is what a failing RUN ended with; 0 when the fault is another.
	ExitCode int `json:"exit_code,omitempty"`
	// Message says what was wrong.
	Message string `json:"message"`
	// Hint says what to do about it; may be empty.
	Hint string `json:"hint,omitempty"`
	// Log is the end of the failing step's output, at most 20 lines.
	Log []string `json:"log,omitempty"`
	// Lost says that the builder died in the middle: the same build may work when it is tried again.
	Lost bool `json:"lost,omitempty"`

	err error
}

// Error is one line: where, what, why. Hint and Log are for the caller to show.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("cannot build")
	if e.Dockerfile != "" {
		b.WriteString(" " + e.Dockerfile)
	}
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	if e.Command != "" {
		b.WriteString(": " + e.Command)
	}
	return b.String() + ": " + e.Message
}

// Unwrap gives BuildKit's own error.
func (e *Error) Unwrap() error { return e.err }

// explain says in the words of the person who wrote the Dockerfile what BuildKit's error means.
func explain(ctx context.Context, err error, r Request, w *watcher) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot build %q: %w", r.Name, context.Cause(ctx))
	}
	e := &Error{Message: plainMessage(err), err: err}
	e.locate(err, r)
	e.output(err, w)
	var exit *gatewaypb.ExitError
	switch {
	case lost(err):
		*e = Error{Message: "the builder ended in the middle of the build", Lost: true, err: err,
			Hint: "build again; if it ends again, the build may need more memory than the node has"}
	case errors.As(err, &exit):
		e.ExitCode = int(exit.ExitCode)
		e.Message = exitMessage(e.ExitCode)
	default:
		e.advise()
	}
	return e
}

func lost(err error) bool {
	return grpcerrors.Code(err) == codes.Unavailable || strings.Contains(err.Error(), "no active session for")
}

func exitMessage(code int) string {
	switch code {
	case 137:
		return "exit code 137: it was killed, perhaps for want of memory"
	case 127:
		return "exit code 127: the command was not found"
	case gatewaypb.UnknownExitStatus:
		return "exit code 255, or it could not be started"
	}
	return fmt.Sprintf("exit code %d", code)
}

// locate takes the innermost place in the Dockerfile that BuildKit blames.
func (e *Error) locate(err error, r Request) {
	sources := errdefs.Sources(err)
	if len(sources) == 0 {
		return
	}
	src := sources[0]
	if src.Info == nil || len(src.Ranges) == 0 {
		return
	}
	e.Dockerfile = r.Dockerfile
	from, to := src.Ranges[0].Start.Line, src.Ranges[0].End.Line
	for _, rg := range src.Ranges[1:] {
		from, to = min(from, rg.Start.Line), max(to, rg.End.Line)
	}
	e.Line = int(from)
	e.Command = sourceText(src.Info.Data, e.Line, int(to))
}

// sourceText is the command in those lines as one line, cut when it is long.
func sourceText(data []byte, from, to int) string {
	lines := strings.Split(string(data), "\n")
	if from < 1 || from > len(lines) {
		return ""
	}
	to = min(max(from, to), len(lines))
	var words []string
	for _, l := range lines[from-1 : to] {
		words = append(words, strings.Fields(strings.TrimSuffix(strings.TrimSpace(l), "\\"))...)
	}
	text := strings.Join(words, " ")
	if r := []rune(text); len(r) > 120 {
		text = string(r[:117]) + "..."
	}
	return text
}

func (e *Error) output(err error, w *watcher) {
	var v *errdefs.VertexError
	if errors.As(err, &v) {
		e.Log = w.tail(digest.Digest(v.Vertex.Digest))
	}
}

var (
	// wrapping is what BuildKit puts before the words that matter.
	wrapping = regexp.MustCompile(`^(failed to solve: |rpc error: code = \w+ desc = |failed to solve with frontend [^:]+: |` +
		`dockerfile parse error on line \d+: |dockerfile parse error line \d+: |failed to compute cache key: |failed to build LLB: )`)
	noSource   = regexp.MustCompile(`(?:failed to resolve source metadata for|failed to load cache key: |failed to copy: ) ?([^ ]+): `)
	notInFiles = regexp.MustCompile(`failed to calculate checksum of ref [^ ]+: ("[^"]+"): not found`)
)

func plainMessage(err error) string {
	m := err.Error()
	for {
		cut := wrapping.ReplaceAllString(m, "")
		if cut == m {
			return m
		}
		m = cut
	}
}

// advise puts the usual mistakes in plain words.
func (e *Error) advise() {
	m := e.Message
	switch {
	case notInFiles.MatchString(m):
		e.Message = notInFiles.FindStringSubmatch(m)[1] + " is not there to be copied"
		e.Hint = "check the path and the .dockerignore file"
	case noSource.MatchString(m):
		e.baseImage(noSource.FindStringSubmatch(m)[1])
	case strings.Contains(m, "target stage"):
		e.Hint = "name a stage that the Dockerfile has with FROM … AS …"
	case strings.Contains(m, "unknown instruction"):
		e.Hint = "see the Dockerfile reference for the instructions there are"
	}
}

// baseImage tells an image that is not there from a registry that cannot be reached or does not let us in.
func (e *Error) baseImage(ref string) {
	m := e.Message
	why, hint := m[strings.LastIndex(m, ref)+len(ref):], "check its name and the node's way to the registry"
	switch {
	case strings.HasSuffix(m, "not found"):
		why, hint = "it is not in its registry", "check its name and tag"
	case strings.Contains(m, "401") || strings.Contains(m, "403") || strings.Contains(m, "authorization failed") ||
		strings.Contains(m, "insufficient_scope"):
		why, hint = "its registry does not let us in", "check the name, and the credentials for that registry"
	case strings.Contains(m, "dial tcp") || strings.Contains(m, "no such host"):
		why = "its registry cannot be reached"
		if i := strings.LastIndex(m, "dial tcp"); i >= 0 {
			why += ": " + m[i:]
		}
	}
	e.Message = fmt.Sprintf("cannot get the image %s: %s", ref, strings.TrimPrefix(why, ": "))
	e.Hint = hint
}
