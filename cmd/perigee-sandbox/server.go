package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/perigee-run/perigee/sandbox"
)

// serve is the supervisor's life.
func serve(args []string) error {
	fs := flag.NewFlagSet("perigee-sandbox serve", flag.ContinueOnError)
	state := fs.String("state", "", "directory of the supervisor's own")
	socket := fs.String("socket", "", "unix socket to serve on")
	group := fs.String("cgroup", "perigee", "control group above all machines")
	readyFD := fs.Int("ready-fd", -1, "descriptor to write \"ok\" to when serving")
	if err := fs.Parse(args); err != nil {
		return err
	}
	ready := openReady(*readyFD)
	err := runSupervisor(*state, *socket, *group, ready)
	if err != nil {
		ready(err.Error())
	}
	return err
}

// openReady returns the function that says, once, that we serve or why not.
func openReady(fd int) func(string) {
	if fd < 0 {
		return func(string) {}
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "ready")
	return func(words string) {
		_, _ = f.WriteString(words)
		f.Close()
	}
}

func runSupervisor(state, socket, group string, ready func(string)) error {
	if state == "" || socket == "" {
		return errors.New("give -state and -socket")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	silence()
	if err := settle(); err != nil {
		return err
	}
	lock, err := lockState(state)
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := newSupervisor(state, group, log)
	if err != nil {
		return err
	}
	return s.listen(ctx, stop, socket, ready)
}

// settle gives the process the files and limits that it wants. gVisor changes
// the owner of what it takes for a sandbox's standard files: these must not be
// /dev/null or our log.
func settle() error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	os.Stdin, os.Stdout, os.Stderr = r, w, w
	unix.Umask(0) // each file says its mode itself
	return raiseOpenFiles()
}

// raiseOpenFiles asks for as many as machines are promised, or what may be had.
func raiseOpenFiles() error {
	limit := unix.Rlimit{Cur: openFilesHard, Max: openFilesHard}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		return nil
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("cannot raise the limit of open files: %w", err)
	}
	return nil
}

// lockState makes sure that a state directory has one supervisor.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock state directory: %w", err)
	}
	// A predecessor that was told to go may need a moment.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock state directory: %w", err)
	}
	return f, nil
}

func (s *supervisor) listen(ctx context.Context, stop func(), socket string, ready func(string)) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot serve on %q: %w", socket, err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("cannot serve on %q: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return fmt.Errorf("cannot serve on %q: %w", socket, err)
	}
	server := &http.Server{Handler: s.handler(stop), BaseContext: func(net.Listener) context.Context { return ctx }}
	var closing sync.WaitGroup
	closing.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	s.log.Info("serving", "socket", socket, "version", s.build.Version)
	ready("ok")
	err = server.Serve(l)
	stop()
	closing.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// operation answers one call.
type operation func(context.Context, *sandbox.Call) (any, error)

// handler is the table of what the supervisor does.
func (s *supervisor) handler(stop func()) http.Handler {
	none := func(err error) (any, error) { return struct{}{}, err }
	operations := map[string]operation{
		"ping":     func(context.Context, *sandbox.Call) (any, error) { return s.ping() },
		"shutdown": func(context.Context, *sandbox.Call) (any, error) { stop(); return none(nil) },
		"prepare":  func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.prepare(ctx, c.ID, c.Netns)) },
		"start":    func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.start(ctx, c.Spec, c.From)) },
		"restore": func(ctx context.Context, c *sandbox.Call) (any, error) {
			return none(s.restore(ctx, c.Spec, c.From, c.Dir))
		},
		"pause":      func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.pause(ctx, c.ID)) },
		"resume":     func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.resume(ctx, c.ID)) },
		"checkpoint": func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.checkpoint(ctx, c.ID, c.Dir)) },
		"signal": func(ctx context.Context, c *sandbox.Call) (any, error) {
			return none(s.signal(ctx, c.ID, c.Signal, false))
		},
		"wait":      func(ctx context.Context, c *sandbox.Call) (any, error) { return s.wait(ctx, c.ID) },
		"stats":     func(ctx context.Context, c *sandbox.Call) (any, error) { return s.stats(ctx, c.ID) },
		"processes": func(ctx context.Context, c *sandbox.Call) (any, error) { return s.processes(ctx, c.ID) },
		"limit":     func(_ context.Context, c *sandbox.Call) (any, error) { return none(s.limitMemory(c.ID, c.MemoryMiB)) },
		"reclaim":   func(_ context.Context, c *sandbox.Call) (any, error) { return s.reclaim(c.ID, c.MemoryMiB) },
		"list":      func(context.Context, *sandbox.Call) (any, error) { return s.list(), nil },
		"destroy":   func(ctx context.Context, c *sandbox.Call) (any, error) { return none(s.destroy(ctx, c.ID)) },
	}
	mux := http.NewServeMux()
	for name, op := range operations {
		mux.HandleFunc("POST "+sandbox.CallPath+name, func(w http.ResponseWriter, r *http.Request) { answer(w, r, op) })
	}
	mux.HandleFunc("POST "+sandbox.CallPath+"exec", s.serveExec)
	return mux
}

// maxCall bounds a call's body: a spec with its files.
const maxCall = 64 << 20

func readCall(r *http.Request) (*sandbox.Call, error) {
	c := &sandbox.Call{}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxCall)).Decode(c); err != nil {
		return nil, invalid("cannot read the call: %v", err)
	}
	if c.Spec == nil {
		c.Spec = &sandbox.Spec{}
	}
	return c, nil
}

func answer(w http.ResponseWriter, r *http.Request, op operation) {
	c, err := readCall(r)
	if err != nil {
		fail(w, err)
		return
	}
	result, err := op(r.Context(), c)
	if err != nil {
		fail(w, err)
		return
	}
	_ = json.NewEncoder(w).Encode(result)
}

func fail(w http.ResponseWriter, err error) {
	f, status := sandbox.FailureOf(err)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(f)
}

func (s *supervisor) ping() (any, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return nil, fmt.Errorf("cannot look at this program: %w", err)
	}
	return sandbox.Pong{Pid: os.Getpid(), Version: s.build.Version, Device: st.Dev, Inode: st.Ino}, nil
}

// serveExec runs a command on files that the client sends.
func (s *supervisor) serveExec(w http.ResponseWriter, r *http.Request) {
	c, err := readCall(r)
	if err == nil && c.Exec == nil {
		err = invalid("exec: give a command")
	}
	if err == nil {
		_, err = s.find(c.ID)
	}
	if err != nil {
		fail(w, err)
		return
	}
	conn, err := upgrade(w)
	if err != nil {
		s.log.Warn("exec not begun", "id", c.ID, "error", err)
		return
	}
	defer conn.Close()
	if err := s.runExec(conn, c); err != nil {
		f, _ := sandbox.FailureOf(err)
		_ = json.NewEncoder(conn).Encode(sandbox.ExecResult{Code: -1, Failure: f})
	}
}

// upgrade takes the connection over before it agrees: the server's reader must
// not be the one that receives the files.
func upgrade(w http.ResponseWriter) (*net.UnixConn, error) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("cannot take the connection over: %w", err)
	}
	const agreed = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + sandbox.ExecUpgrade + "\r\n\r\n"
	if _, err := io.WriteString(conn, agreed); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot answer: %w", err)
	}
	return conn.(*net.UnixConn), nil
}

func (s *supervisor) runExec(conn *net.UnixConn, c *sandbox.Call) error {
	files, err := receiveFiles(conn)
	if err != nil {
		return err
	}
	x, err := s.exec(context.Background(), c.ID, c.Exec, files)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return err
	}
	out := json.NewEncoder(conn)
	if err := out.Encode(sandbox.ExecResult{Started: true}); err != nil {
		_ = x.signal(unix.SIGKILL)
		return err
	}
	go x.obey(conn)
	code, err := x.wait()
	if err != nil {
		return err
	}
	return out.Encode(sandbox.ExecResult{Code: code})
}

// obey does what the client asks for during the exec. A client that goes away
// takes its command with it.
func (x *execution) obey(conn io.Reader) {
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var c sandbox.ExecControl
		if json.Unmarshal(lines.Bytes(), &c) != nil {
			break
		}
		if c.Resized {
			x.resized()
		}
		if c.Signal != 0 {
			_ = x.signal(unix.Signal(c.Signal))
		}
	}
	select {
	case <-x.over:
	default:
		_ = x.signal(unix.SIGKILL)
	}
}

func receiveFiles(conn *net.UnixConn) ([]*os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(3*4))
	_, n, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, fmt.Errorf("cannot receive the command's files: %w", err)
	}
	fds, err := parseRights(oob[:n])
	if err != nil {
		return nil, fmt.Errorf("cannot receive the command's files: %w", err)
	}
	var files []*os.File
	for _, fd := range fds {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "stdio"))
	}
	if len(files) != 3 {
		for _, f := range files {
			f.Close()
		}
		return nil, invalid("exec: %d files, not 3", len(files))
	}
	return files, nil
}
