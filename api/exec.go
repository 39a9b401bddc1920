package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/coder/websocket"
)

// The exec stream (WebSocket …/machines/{id}/exec/stream).
//
// The client's first message is text: an ExecStreamRequest in JSON. All others
// are binary, and their first byte says what the rest is:
//
//	client → node  0 stdin; nothing after the byte ends it
//	               3 size of the terminal, a TerminalSize in JSON
//	node → client  1 stdout (with a terminal, all output)
//	               2 stderr
//	               4 the end: an ExecExit in JSON, then the node closes
//
// Should the client's connection end, the command is killed.
const (
	FrameStdin  byte = 0
	FrameStdout byte = 1
	FrameStderr byte = 2
	FrameResize byte = 3
	FrameExit   byte = 4
)

// ExecStreamRequest begins an exec stream.
type ExecStreamRequest struct {
	Command []string          `json:"command,omitempty" doc:"Program and arguments; no shell is added"`
	Program string            `json:"program,omitempty" enum:"sftp" doc:"A program of Perigee's to run instead of a command: it need not be in the image"`
	Env     map[string]string `json:"env,omitempty" doc:"Beyond the machine's own"`
	User    string            `json:"user,omitempty" doc:"Default the machine's"`
	Dir     string            `json:"dir,omitempty" doc:"Default the machine's working directory"`
	TTY     bool              `json:"tty,omitempty"`
	Size    *TerminalSize     `json:"size,omitempty"`
}

// TerminalSize is a terminal's size in characters.
type TerminalSize struct {
	Cols uint16 `json:"cols"`
	Rows uint16 `json:"rows"`
}

// ExecExit is the end of an exec stream.
type ExecExit struct {
	ExitCode   int    `json:"exit_code"`
	ExitSignal int    `json:"exit_signal,omitempty"`
	Error      *Error `json:"error,omitempty" doc:"Why the command could not be run"`
}

// ExecIO is what a command run by ExecStream is connected to; every field may
// be nil.
type ExecIO struct {
	// Stdin is read in a goroutine that may outlive the call by one Read, for a
	// terminal cannot be interrupted. Nil: the command's stdin is empty.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Resize gives the terminal's new sizes.
	Resize <-chan TerminalSize
}

const maxFrame = 1 << 20

// ExecStream runs a command connected to streams and returns how it ended.
func (c *Client) ExecStream(ctx context.Context, app, id string, req ExecStreamRequest, streams ExecIO) (ExecExit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.socket(ctx, machinePath(app, id, "/exec/stream"))
	if err != nil {
		return ExecExit{}, err
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxFrame + 1)
	first, err := json.Marshal(req)
	if err != nil {
		return ExecExit{}, err
	}
	if err := conn.Write(ctx, websocket.MessageText, first); err != nil {
		return ExecExit{}, fmt.Errorf("cannot begin exec: %w", err)
	}
	out := &frameWriter{ctx: ctx, conn: conn}
	go out.pump(streams.Stdin)
	go out.resize(streams.Resize)
	return readExec(ctx, conn, streams)
}

func readExec(ctx context.Context, conn *websocket.Conn, s ExecIO) (ExecExit, error) {
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return ExecExit{}, fmt.Errorf("the exec stream broke off: %w", err)
		}
		if len(b) == 0 {
			continue
		}
		switch b[0] {
		case FrameStdout:
			err = writeTo(s.Stdout, b[1:])
		case FrameStderr:
			err = writeTo(s.Stderr, b[1:])
		case FrameExit:
			return execExit(conn, b[1:])
		}
		if err != nil {
			return ExecExit{}, fmt.Errorf("cannot write the command's output: %w", err)
		}
	}
}

func writeTo(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

func execExit(conn *websocket.Conn, b []byte) (x ExecExit, err error) {
	if err := json.Unmarshal(b, &x); err != nil {
		return x, fmt.Errorf("cannot read the end of the exec stream: %w", err)
	}
	conn.Close(websocket.StatusNormalClosure, "")
	if x.Error != nil {
		x.Error.Status = Codes[x.Error.Code]
		return x, x.Error
	}
	return x, nil
}

// frameWriter sends frames; stdin and sizes come from two goroutines.
type frameWriter struct {
	ctx  context.Context
	conn *websocket.Conn
	mu   sync.Mutex // one frame at a time
}

func (w *frameWriter) frame(kind byte, b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conn.Write(w.ctx, websocket.MessageBinary, append([]byte{kind}, b...))
}

// pump sends stdin to its end.
func (w *frameWriter) pump(r io.Reader) {
	buf := make([]byte, 32<<10)
	for r != nil {
		n, err := r.Read(buf)
		if n > 0 && w.frame(FrameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			break
		}
	}
	_ = w.frame(FrameStdin, nil) // a broken stream shows where it is read
}

func (w *frameWriter) resize(sizes <-chan TerminalSize) {
	if sizes == nil {
		return
	}
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			b, err := json.Marshal(s)
			if err = errors.Join(err, w.frame(FrameResize, b)); err != nil {
				return
			}
		case <-w.ctx.Done():
			return
		}
	}
}
