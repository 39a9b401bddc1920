package ssh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
	gossh "golang.org/x/crypto/ssh"
)

type programs = map[string]func(machine.ExecSpec, sandbox.Streams) int

// do runs a command and returns all there is to know.
func do(t testing.TB, c *gossh.Client, command string) (stdout, stderr string, code int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	if err = s.Run(command); err != nil {
		var exit *gossh.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%q: %v", command, err)
		}
		code = exit.ExitStatus()
	}
	return out.String(), errs.String(), code
}

func TestCommands(t *testing.T) {
	exits := func(code int) func(machine.ExecSpec, sandbox.Streams) int {
		return func(machine.ExecSpec, sandbox.Streams) int { return code }
	}
	for _, c := range []struct {
		name, command  string
		programs       programs
		stdout, stderr string
		code           int
		did            string
	}{
		{"bash first", "a | b", programs{"/bin/bash": echoArgs, "/bin/sh": exits(9)}, "root: /bin/bash|-c|a | b", "", 0, "a"},
		{"then sh", "a", programs{"/bin/sh": echoArgs}, "root: /bin/sh|-c|a", "", 0, "a"},
		{"exit code", "false x", programs{"/bin/sh": exits(3)}, "", "", 3, "false"},
		{"signal", "sleep", programs{"/bin/sh": exits(137)}, "", "", 137, "sleep"},
		{"no shell", `/app 'a b' c`, programs{"/app": echoArgs}, "root: /app|a b|c", "", 0, "/app"},
		{"no shell, no program", "/none", nil, "", `has no program "/none", and its image has no shell`, 127, "/none"},
		{"no shell, no words", "a 'b", nil, "", "a quote is not closed", 127, "command"},
		{"blank", "  ", programs{"/bin/sh": echoArgs}, "root: /bin/sh|-l", "", 0, "command"},
	} {
		f := &fake{programs: c.programs}
		out, errs, code := do(t, enter(t, server(t, f, nil)), c.command)
		if out != c.stdout || !strings.Contains(errs, c.stderr) || (c.stderr == "") != (errs == "") || code != c.code {
			t.Errorf("%s: %q %q %d", c.name, out, errs, code)
		}
		sessions, ends := f.seen()
		if len(sessions) != 1 || sessions[0] != (machine.Session{Who: "ann", User: "root", Did: c.did}) || len(ends) != 1 || ends[0] != c.code {
			t.Errorf("%s: events %+v %v", c.name, sessions, ends)
		}
	}
}

func TestShellIsMissing(t *testing.T) {
	s, err := enter(t, server(t, &fake{}, nil)).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	s.Stderr = &errs
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 127 || !strings.Contains(errs.String(), "has no shell; run a program that is in it") {
		t.Errorf("%v, %q", err, errs.String())
	}
}

func TestMachineThatStays(t *testing.T) {
	f := &fake{asleep: api.Errorf(api.CodePrecondition, "machine \"m1\" is stopped").WithHint("start it")}
	if _, errs, code := do(t, enter(t, server(t, f, nil)), "ls"); code != 255 || errs != "perigee: machine \"m1\" is stopped; start it\n" {
		t.Errorf("%d %q", code, errs)
	}
	if sessions, _ := f.seen(); len(sessions) > 0 {
		t.Errorf("events of a session that was none: %v", sessions)
	}
}

func TestTerminalAndInput(t *testing.T) {
	f := &fake{programs: programs{"/bin/sh": func(spec machine.ExecSpec, s sandbox.Streams) int {
		next := <-s.Resize
		b, _ := io.ReadAll(s.Stdin)
		_, _ = io.WriteString(s.Stdout, spec.Env["TERM"]+spec.Env["LANG"]+string(b))
		if !spec.Terminal || spec.Size != (sandbox.Size{Rows: 24, Cols: 80}) || next != (sandbox.Size{Rows: 50, Cols: 132}) {
			return 1
		}
		return 0
	}}}
	s, err := enter(t, server(t, f, nil)).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("typed"), &out
	err = errors.Join(s.RequestPty("vt100", 24, 80, nil), s.Setenv("LANG", "C"), s.Start("x"), s.WindowChange(50, 132), s.Wait())
	if err != nil || out.String() != "vt100Ctyped" {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestEnvironmentIsBounded(t *testing.T) {
	s, err := enter(t, server(t, &fake{}, nil)).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "A=B", "A\x00", strings.Repeat("A", 100_000)} {
		if s.Setenv(name, "x") == nil {
			t.Errorf("variable %.10q is taken", name)
		}
	}
	refused := 0
	for i := range 100 {
		if s.Setenv("V"+strings.Repeat("x", i), "x") != nil {
			refused++
		}
	}
	if refused != 100-maxEnv {
		t.Errorf("%d of 100 variables are refused", refused)
	}
}

func TestHangingUpEndsTheCommand(t *testing.T) {
	ended := make(chan struct{})
	f := &fake{programs: programs{"/bin/sh": func(_ machine.ExecSpec, s sandbox.Streams) int {
		_, _ = io.ReadAll(s.Stdin)
		close(ended)
		return 0
	}}}
	c := enter(t, server(t, f, nil))
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the command goes on")
	}
}

func TestForwards(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	f := &fake{dial: func(port int) (net.Conn, error) {
		if port != 5432 {
			return nil, errors.New("nothing listens there")
		}
		return net.Dial("tcp", l.Addr().String())
	}}
	var noted atomic.Int32
	c := enter(t, server(t, f, func(c *Config) { c.Noted = func(Machine, Grant) { noted.Add(1) } }))
	for _, to := range []string{"localhost:5432", "127.0.0.1:5432", "[::1]:5432", "shop.internal:5432", "m1.vm.shop.internal:5432"} {
		conn, err := c.Dial("tcp", to)
		if err != nil {
			t.Errorf("%s: %v", to, err)
			continue
		}
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		if b, err := io.ReadAll(conn); string(b) != "hello" {
			t.Errorf("%s: %q, %v", to, b, err)
		}
	}
	for to, want := range map[string]string{"10.0.0.1:5432": "lead to machine m1 itself", "example.com:80": "lead to machine", "localhost:1": "nothing listens"} {
		if _, err := c.Dial("tcp", to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", to, err, want)
		}
	}
	if n := noted.Load(); n != 1 {
		t.Errorf("the forwards of one connection are noted %d times", n)
	}
}

// TestNothingElse checks that a machine gets no way back to the client.
func TestNothingElse(t *testing.T) {
	c := enter(t, server(t, &fake{}, nil))
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("the server listens for the client")
	}
	if _, _, err := c.OpenChannel("direct-streamlocal@openssh.com", nil); err == nil {
		t.Error("a unix socket is forwarded")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"auth-agent-req@openssh.com", "x11-req", "subsystem", "no-such"} {
		if ok, _ := s.SendRequest(r, true, gossh.Marshal(struct{ S string }{"x"})); ok {
			t.Errorf("%s is granted", r)
		}
	}
}

func TestRefusedInWords(t *testing.T) {
	s := server(t, &fake{}, nil)
	if _, said, err := client(t, s, "root", newKey(t)); err == nil || !strings.Contains(said, "certificates only") {
		t.Errorf("a plain key: %v, %q", err, said)
	}
	key := newKey(t)
	late, err := gossh.NewCertSigner(certificate(t, s.cfg.Authority, key, shop.Org, api.SSHCertificateRequest{}, time.Now().Add(-3*time.Hour)), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, said, err := client(t, s, "root", late); err == nil || !strings.Contains(said, "the certificate ended 2h") {
		t.Errorf("one that has ended: %v, %q", err, said)
	}
}

func TestRevoked(t *testing.T) {
	var revoked atomic.Bool
	s := server(t, &fake{programs: programs{"/bin/sh": echoArgs}}, func(c *Config) {
		c.Beat = 20 * time.Millisecond
		c.Permit = func(_ context.Context, g Grant) error {
			if revoked.Load() {
				return errors.New("token " + g.Token + " is revoked")
			}
			return nil
		}
	})
	c := enter(t, s)
	if _, _, code := do(t, c, "x"); code != 0 {
		t.Fatal("nothing goes")
	}
	revoked.Store(true)
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the connection outlives its token")
	}
}

// TestTokenRunsOut: a connection ends with the token as it was presented, though its
// record, which a narrowed one shares with others, goes on.
func TestTokenRunsOut(t *testing.T) {
	t.Parallel()
	s := server(t, &fake{}, func(c *Config) { c.Beat = 20 * time.Millisecond })
	key, end := newKey(t), time.Now().Add(3*time.Second)
	made, err := s.cfg.Authority.Issue(shop.Org, "ann", "t1", end, api.SSHCertificateRequest{PublicKey: line(key.PublicKey(), "")})
	if err != nil {
		t.Fatal(err)
	}
	k, err := publicLine(made.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewCertSigner(k.(*gossh.Certificate), key)
	if err != nil {
		t.Fatal(err)
	}
	c, said, err := client(t, s, "root", signer)
	if err != nil {
		t.Fatal(err, said)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	select {
	case <-done:
		if left := time.Until(end); left > time.Second { // certificates know whole seconds
			t.Errorf("it ended %s early", left)
		}
	case <-time.After(20 * time.Second):
		t.Error("the connection outlives its token")
	}
}

func TestLimits(t *testing.T) {
	s := server(t, &fake{}, func(c *Config) { c.Connections, c.Channels, c.Grace = 2, 2, 100*time.Millisecond })
	c := enter(t, s)
	silent := serve(t, s)
	if _, err := s.Admit(t.Context(), shop.ID); !api.IsCode(err, api.CodeConflict) {
		t.Errorf("the third connection: %v", err)
	}
	if b, err := io.ReadAll(silent); err != nil && !errors.Is(err, io.EOF) {
		t.Logf("the silent one was told %q, %v", b, err)
	}
	for i := range 3 {
		if _, err := c.NewSession(); (err != nil) != (i == 2) {
			t.Errorf("session %d: %v", i, err)
		}
	}
	v, err := s.Admit(t.Context(), shop.ID)
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); v, err = s.Admit(t.Context(), shop.ID) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Fatalf("a place that was given up: %v", err)
	}
	v.Leave()
	v.Leave()
	if _, err := s.Admit(t.Context(), "m9"); !api.IsCode(err, api.CodeNotFound) {
		t.Errorf("no machine: %v", err)
	}
}
