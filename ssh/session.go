package ssh

import (
	"context"
	"maps"

	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
	gossh "golang.org/x/crypto/ssh"
)

// maxEnv is how many variables a client may set.
const maxEnv = 64

// session is a channel on which one program is to run.
type session struct {
	*connection
	ch     gossh.Channel
	cancel context.CancelFunc

	// Only the goroutine that reads the requests touches these, until the program
	// runs; after that it reads none but sizes and signals.
	env      map[string]string
	terminal bool
	size     sandbox.Size
	begun    bool
	start    func() // the program, once its request is answered

	sizes chan sandbox.Size
}

// session serves the requests of a session until the client closes it.
func (c *connection) session(ctx context.Context, offer gossh.NewChannel) {
	ch, requests, err := offer.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{connection: c, ch: ch, cancel: cancel, env: map[string]string{}, sizes: make(chan sandbox.Size, 1)}
	known := s.requests(ctx)
	for r := range requests {
		do, ok := known[r.Type]
		ok = ok && do(r.Payload)
		if r.WantReply {
			_ = r.Reply(ok, nil)
		}
		if start := s.start; start != nil {
			s.start = nil
			start()
		}
	}
}

// requests are what a session answers. Each reports whether it did.
func (s *session) requests(ctx context.Context) map[string]func([]byte) bool {
	return map[string]func([]byte) bool{
		"pty-req":       s.setTerminal,
		"window-change": s.resize,
		"env":           s.setEnv,
		"signal":        s.signal,
		"shell":         func([]byte) bool { return s.begin(ctx, shell{}) },
		"exec": func(b []byte) bool {
			var m struct{ Line string }
			return gossh.Unmarshal(b, &m) == nil && s.begin(ctx, command{m.Line})
		},
		"subsystem": func(b []byte) bool {
			var m struct{ Name string }
			return gossh.Unmarshal(b, &m) == nil && m.Name == "sftp" && s.begin(ctx, files{})
		},
	}
}

// begin has the program run once its request is answered: one that ends at once
// must not close the channel before the answer.
func (s *session) begin(ctx context.Context, p program) bool {
	if s.begun {
		return false
	}
	s.begun = true
	s.start = func() {
		s.work.Go(func() {
			code := s.run(ctx, p)
			_, _ = s.ch.SendRequest("exit-status", false, gossh.Marshal(struct{ Code uint32 }{uint32(code)}))
			_ = s.ch.CloseWrite()
			s.ch.Close() // what waits for input ends
		})
	}
	return true
}

func (s *session) setTerminal(b []byte) bool {
	var m struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}
	if s.begun || gossh.Unmarshal(b, &m) != nil {
		return false
	}
	s.terminal, s.size = true, size(m.Cols, m.Rows)
	if m.Term != "" && rules.Env("env", map[string]string{"TERM": m.Term}) == nil {
		s.env["TERM"] = m.Term
	}
	return true
}

// resize passes the size on; only the latest counts.
func (s *session) resize(b []byte) bool {
	var m struct{ Cols, Rows, Width, Height uint32 }
	if gossh.Unmarshal(b, &m) != nil {
		return false
	}
	select {
	case <-s.sizes:
	default:
	}
	select {
	case s.sizes <- size(m.Cols, m.Rows):
	default:
	}
	return true
}

func size(cols, rows uint32) sandbox.Size {
	const most = 1 << 14
	return sandbox.Size{Cols: uint16(min(cols, most)), Rows: uint16(min(rows, most))}
}

func (s *session) setEnv(b []byte) bool {
	var m struct{ Name, Value string }
	if s.begun || gossh.Unmarshal(b, &m) != nil || len(s.env) >= maxEnv {
		return false
	}
	next := maps.Clone(s.env)
	next[m.Name] = m.Value
	if rules.Env("env", next) != nil {
		return false
	}
	s.env = next
	return true
}

// signal ends the program for the signals that are to end one.
func (s *session) signal(b []byte) bool {
	var m struct{ Name string }
	if gossh.Unmarshal(b, &m) != nil {
		return false
	}
	switch m.Name {
	case "HUP", "INT", "KILL", "QUIT", "TERM":
		s.cancel()
		return true
	}
	return false
}
