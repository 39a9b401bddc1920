package fleet_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/fleet"
	gossh "golang.org/x/crypto/ssh"
)

func (n *node) visit(ctx context.Context, id string) (fleet.Visit, error) {
	v, err := n.shells.Admit(ctx, id)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// enter is a client of a machine, by a certificate of this node.
func (n *node) enter(t *testing.T, app, id string) (*gossh.Client, error) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := must[gossh.Signer](t)(gossh.NewSignerFromKey(private))
	made := must[api.SSHCertificate](t)(n.IssueSSHCertificate(t.Context(), app, api.SSHCertificateRequest{PublicKey: string(gossh.MarshalAuthorizedKey(key.PublicKey()))}))
	cert, _, _, _, err := gossh.ParseAuthorizedKey([]byte(made.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	signer := must[gossh.Signer](t)(gossh.NewCertSigner(cert.(*gossh.Certificate), key))
	conn, err := n.SSH(t.Context(), app, id)
	if err != nil {
		return nil, err
	}
	c, channels, requests, err := gossh.NewClientConn(conn, id, &gossh.ClientConfig{User: "root", Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey()})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return gossh.NewClient(c, channels, requests), nil
}

// TestSSHIsPassedOn enters the machine of another node, by a certificate of this
// one, and sees it when that node falls silent.
func TestSSHIsPassedOn(t *testing.T) {
	c := newCloud(t, "n1", "n2")
	c.app(t, "shop")
	n1, n2 := c.nodes[0], c.nodes[1]
	m := n1.machine(t, "shop", "n2")
	client, err := n1.enter(t, "shop", m.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s := must[*gossh.Session](t)(client.NewSession())
	var out bytes.Buffer
	s.Stdin, s.Stdout = strings.NewReader("typed"), &out
	var exit *gossh.ExitError
	if err := s.Run("cat; exit 5"); !errors.As(err, &exit) || exit.ExitStatus() != 5 || out.String() != "typed" {
		t.Errorf("%v, %q", err, out.String())
	}
	if e := must[[]api.Event](t)(n2.host.Events(t.Context(), m.ID)); e[0].Type != "ssh" || e[0].Detail["exit_code"] != 5 {
		t.Errorf("the latest event is %+v", e[0])
	}
	n2.cut.set("silent")
	defer n2.cut.set("")
	done := make(chan error, 1)
	go func() { done <- client.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * patience):
		t.Error("the connection goes on though the node is silent")
	}
	began := time.Now()
	if _, err := n1.SSH(t.Context(), "shop", m.ID); !api.IsCode(err, api.CodeUnreachable) || time.Since(began) > 10*patience {
		t.Errorf("to a silent node: %v after %s", err, time.Since(began))
	}
}
