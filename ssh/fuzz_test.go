package ssh

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/perigee-run/perigee/machine/rules"
	"github.com/perigee-run/perigee/sandbox"
	gossh "golang.org/x/crypto/ssh"
)

// FuzzForward: whatever a client says, a forward leads to the machine itself.
func FuzzForward(f *testing.F) {
	type to struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	for _, host := range []string{"localhost", "LOCALHOST.", "127.0.0.1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "10.0.0.1", "shop.internal", "m1", "fe80::1%lo", "\x00", ""} {
		f.Add(gossh.Marshal(to{host, 5432, "here", 1}))
	}
	f.Add(gossh.Marshal(to{"localhost", 70000, "", 0}))
	f.Add([]byte{0, 0, 0, 9, 'x'})
	c := &connection{machine: shop}
	names := append(Names(shop.App, shop.ID), "localhost", "")
	f.Fuzz(func(t *testing.T, b []byte) {
		host, port, ok := target(b)
		if !ok || !c.own(host) {
			return
		}
		a, err := netip.ParseAddr(host)
		if port < 1 || port > 65535 || !slices.Contains(names, strings.ToLower(strings.TrimSuffix(host, "."))) && (err != nil || !a.IsLoopback() && !a.IsUnspecified()) {
			t.Errorf("%q leads to %q port %d", b, host, port)
		}
	})
}

// FuzzRequests gives a session anything for the payload of any request: what it keeps
// for the program stays within bounds.
func FuzzRequests(f *testing.F) {
	kinds := []string{"pty-req", "window-change", "env", "signal", "shell", "exec", "subsystem"}
	pty := gossh.Marshal(struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     string
	}{"xterm", 80, 1 << 31, 0, 0, "\x00"})
	for i := range kinds {
		f.Add(i, pty, gossh.Marshal(struct{ Name, Value string }{"LANG", "C"}))
		f.Add(i, gossh.Marshal(struct{ Name, Value string }{"A=B", "\x00"}), gossh.Marshal(struct{ S string }{"sftp"}))
		f.Add(i, []byte{0xff, 0xff, 0xff, 0xff}, gossh.Marshal(struct{ Cols, Rows, Width, Height uint32 }{1, 2, 3, 4}))
		f.Add(i, gossh.Marshal(struct{ S string }{"KILL"}), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, i int, first, second []byte) {
		s := &session{connection: &connection{machine: shop}, cancel: func() {}, env: map[string]string{}, sizes: make(chan sandbox.Size, 1)}
		do := s.requests(t.Context())
		for n, b := range [][]byte{first, second, first} {
			do[kinds[(int(uint16(i))+n)%len(kinds)]](b)
		}
		const most = 1 << 14
		if len(s.env) > maxEnv+1 || rules.Env("env", s.env) != nil || s.size.Cols > most || s.size.Rows > most {
			t.Errorf("kept %q, %+v", s.env, s.size)
		}
		select {
		case size := <-s.sizes:
			if size.Cols > most || size.Rows > most {
				t.Errorf("passes on %+v", size)
			}
		default:
		}
	})
}
