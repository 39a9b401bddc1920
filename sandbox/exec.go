package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// Streams are an Exec's standard input, output and error. A nil Stdin is empty,
// a nil Stdout or Stderr drops what is written. With a terminal Stderr is not
// used.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Resize changes the terminal's size with each value; may be nil.
	Resize <-chan Size
}

// name is what to call the command by.
func (e *ExecSpec) name() string {
	if e.Program != "" || len(e.Args) == 0 {
		return string(e.Program)
	}
	return e.Args[0]
}

// Exec runs a command beside a running machine's main process and returns its
// exit code (128+n if signal n ended it) once it has ended and its output is
// copied. If ctx ends first the command is killed and the error is ctx's. A
// read from Stdin that blocks is left behind: close it to end it.
func (c *Client) Exec(ctx context.Context, id string, spec ExecSpec, streams Streams) (int, error) {
	if err := c.Ensure(ctx); err != nil {
		return -1, err
	}
	conn, in, err := c.upgrade(ctx, id, spec)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	code, err := runExec(conn, in, spec, streams)
	if ctx.Err() != nil {
		return -1, fmt.Errorf("cannot finish %q in %q: %w", spec.name(), id, ctx.Err())
	}
	return code, err
}

// upgrade asks for an exec and returns the connection to go on with.
func (c *Client) upgrade(ctx context.Context, id string, spec ExecSpec) (*net.UnixConn, *bufio.Reader, error) {
	b, err := json.Marshal(Call{ID: id, Exec: &spec})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot exec in %q: %w", id, err)
	}
	dialed, err := c.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot exec in %q: %w", id, err)
	}
	conn := dialed.(*net.UnixConn)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://sandbox"+CallPath+"exec", bytes.NewReader(b))
	if err == nil {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", ExecUpgrade)
		err = req.Write(conn)
	}
	in := bufio.NewReader(conn)
	var res *http.Response
	if err == nil {
		res, err = http.ReadResponse(in, req)
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("cannot exec in %q: %w", id, err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		defer res.Body.Close()
		return nil, nil, failureIn("exec", res)
	}
	return conn, in, nil
}

func runExec(conn *net.UnixConn, in *bufio.Reader, spec ExecSpec, streams Streams) (int, error) {
	ends, err := openEnds(spec)
	if err != nil {
		return -1, err
	}
	defer ends.close()
	if err := ends.send(conn); err != nil {
		return -1, err
	}
	if _, err := readResult(in); err != nil { // started, or why not
		return -1, err
	}
	copied := ends.copy(streams)
	done := make(chan struct{})
	var resizing sync.WaitGroup
	resizing.Go(func() { resize(conn, ends, streams.Resize, done) })
	result, err := readResult(in)
	close(done)
	resizing.Wait()
	if err != nil {
		return -1, err
	}
	copied.Wait()
	return result.Code, nil
}

func readResult(in *bufio.Reader) (ExecResult, error) {
	var r ExecResult
	line, err := in.ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		err = errLost
	}
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err != nil {
		return r, fmt.Errorf("cannot follow the command: %w", err)
	}
	return r, r.Failure.Err()
}

// ends are our ends of a command's files, and its.
type ends struct {
	stdin          io.WriteCloser
	stdout, stderr *os.File
	tty            *os.File // our end of the terminal, or nil
	theirs         []*os.File
}

func openEnds(spec ExecSpec) (*ends, error) {
	if spec.Terminal {
		return openTerminal(spec.Size)
	}
	e := &ends{}
	var files [6]*os.File
	for i := 0; i < 6; i += 2 {
		var err error
		if files[i], files[i+1], err = os.Pipe(); err != nil {
			e.theirs = files[:i]
			e.close()
			return nil, fmt.Errorf("cannot make a pipe: %w", err)
		}
	}
	e.stdin, e.stdout, e.stderr = files[1], files[2], files[4]
	e.theirs = []*os.File{files[0], files[3], files[5]}
	return e, nil
}

func openTerminal(size Size) (*ends, error) {
	master, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot make a terminal: %w", err)
	}
	e := &ends{stdin: master, stdout: master, tty: master, theirs: []*os.File{tty}}
	e.setSize(size)
	return e, nil
}

func (e *ends) setSize(s Size) {
	if s.Rows > 0 && s.Cols > 0 {
		_ = pty.Setsize(e.tty, &pty.Winsize{Rows: s.Rows, Cols: s.Cols})
	}
}

// send hands the command's ends over and closes ours of them.
func (e *ends) send(conn *net.UnixConn) error {
	var fds []int
	for i := range 3 {
		fds = append(fds, int(e.theirs[min(i, len(e.theirs)-1)].Fd()))
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("cannot hand over the command's files: %w", err)
	}
	for _, f := range e.theirs {
		f.Close()
	}
	e.theirs = nil
	return nil
}

// copy moves bytes both ways; the group it returns is that of the output.
func (e *ends) copy(streams Streams) *sync.WaitGroup {
	go func() {
		if streams.Stdin != nil {
			_, _ = io.Copy(e.stdin, streams.Stdin)
		}
		if e.tty == nil {
			e.stdin.Close()
		}
	}()
	var out sync.WaitGroup
	out.Go(func() { drain(streams.Stdout, e.stdout) })
	if e.stderr != nil {
		out.Go(func() { drain(streams.Stderr, e.stderr) })
	}
	return &out
}

// drain copies to the end, even if nobody wants it any more: the command must
// not block on output that is not read. The end of a terminal is an error.
func drain(w io.Writer, r io.Reader) {
	if w != nil {
		_, _ = io.Copy(w, r)
	}
	_, _ = io.Copy(io.Discard, r)
}

// resize passes new sizes on until done.
func resize(conn io.Writer, e *ends, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok || e.tty == nil {
				<-done
				return
			}
			e.setSize(s)
			_ = json.NewEncoder(conn).Encode(ExecControl{Resized: true})
		case <-done:
			return
		}
	}
}

func (e *ends) close() {
	for _, f := range e.theirs {
		if f != nil {
			f.Close()
		}
	}
	if e.stdin != nil {
		e.stdin.Close()
	}
	for _, f := range []*os.File{e.stdout, e.stderr} {
		if f != nil {
			f.Close()
		}
	}
}
