package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/machine"
	"github.com/perigee-run/perigee/sandbox"
	gossh "golang.org/x/crypto/ssh"
)

var secret = bytes.Repeat([]byte{7}, 32)

var shop = Machine{Org: "acme", App: "shop", ID: "m1"}

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority(secret)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) gossh.Signer {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := gossh.NewSignerFromKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// certificate has a key signed for an org at a time.
func certificate(t testing.TB, a *Authority, key gossh.Signer, org string, req api.SSHCertificateRequest, at time.Time) *gossh.Certificate {
	t.Helper()
	req.PublicKey = line(key.PublicKey(), "")
	made, err := a.issue(org, "ann", "t1", time.Time{}, req, at)
	if err != nil {
		t.Fatal(err)
	}
	k, err := publicLine(made.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return k.(*gossh.Certificate)
}

func publicLine(s string) (gossh.PublicKey, error) {
	k, _, _, _, err := gossh.ParseAuthorizedKey([]byte(s))
	return k, err
}

// fake is a node with one machine that has the programs named in it.
type fake struct {
	mu       sync.Mutex
	programs map[string]func(spec machine.ExecSpec, s sandbox.Streams) int
	asleep   error
	sessions []machine.Session
	exits    []int
	dial     func(port int) (net.Conn, error)
}

func (f *fake) Whose(_ context.Context, id string) (string, string, error) {
	if id != shop.ID {
		return "", "", api.Errorf(api.CodeNotFound, "no machine %q", id)
	}
	return shop.Org, shop.App, nil
}

func (f *fake) Enter(context.Context, string) error { return f.asleep }

func (f *fake) ExecStream(ctx context.Context, id string, spec machine.ExecSpec, s sandbox.Streams) (int, error) {
	run := f.programs[spec.Command[0]]
	if run == nil {
		return -1, api.Errorf(api.CodeInvalid, "machine %q has no program %q", id, spec.Command[0]).WithField("command")
	}
	code := make(chan int, 1)
	go func() { code <- run(spec, s) }()
	select {
	case c := <-code:
		return c, nil
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

func (f *fake) Dial(_ context.Context, _ string, port int) (io.ReadWriteCloser, error) {
	return f.dial(port)
}

func (f *fake) NoteSession(_ context.Context, _ string, s machine.Session) func(int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = append(f.sessions, s)
	return func(code int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.exits = append(f.exits, code)
	}
}

func (f *fake) seen() (sessions []machine.Session, exits []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(sessions, f.sessions...), append(exits, f.exits...)
}

func echoArgs(spec machine.ExecSpec, s sandbox.Streams) int {
	_, _ = io.WriteString(s.Stdout, spec.User+": "+strings.Join(spec.Command, "|"))
	return 0
}

// serve begins a connection and returns the client's end.
func serve(t testing.TB, s *Server) net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Admit(t.Context(), shop.ID)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = v.Serve(context.Background(), far)
	}()
	t.Cleanup(func() { near.Close(); <-done })
	return near
}

// client lets a user in with a signer.
func client(t testing.TB, s *Server, user string, signer gossh.Signer) (*gossh.Client, string, error) {
	t.Helper()
	said := ""
	hosts, err := publicLine(func() string { _, h := s.cfg.Authority.Keys(shop.Org); return h }())
	if err != nil {
		t.Fatal(err)
	}
	check := gossh.CertChecker{IsHostAuthority: func(k gossh.PublicKey, _ string) bool { return bytes.Equal(k.Marshal(), hosts.Marshal()) }}
	c, channels, requests, err := gossh.NewClientConn(serve(t, s), "m1.vm.shop.internal:22", &gossh.ClientConfig{
		User: user, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: check.CheckHostKey, HostKeyAlgorithms: []string{gossh.CertAlgoED25519v01},
		BannerCallback: func(m string) error { said += m; return nil }, Timeout: 10 * time.Second,
	})
	if err != nil {
		return nil, said, err
	}
	out := gossh.NewClient(c, channels, requests)
	t.Cleanup(func() { out.Close() })
	return out, said, nil
}

// enter lets root in, who must be.
func enter(t testing.TB, s *Server) *gossh.Client {
	t.Helper()
	key := newKey(t)
	signer, err := gossh.NewCertSigner(certificate(t, s.cfg.Authority, key, shop.Org, api.SSHCertificateRequest{}, time.Now()), key)
	if err != nil {
		t.Fatal(err)
	}
	c, said, err := client(t, s, "root", signer)
	if err != nil {
		t.Fatalf("%v, %q", err, said)
	}
	return c
}

func server(t testing.TB, f *fake, edit func(*Config)) *Server {
	t.Helper()
	cfg := Config{Authority: authority(t), Machines: f}
	if edit != nil {
		edit(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
