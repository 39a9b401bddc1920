package cli

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/perigee-run/perigee/api"
	gossh "golang.org/x/crypto/ssh"
)

// sshInto enters a machine of the app with a key and a certificate of its own,
// which are for this machine alone and kept nowhere.
func (e *env) sshInto(ctx context.Context, f sshFlags) (*gossh.Client, error) {
	client, app, err := e.forApp()
	if err != nil {
		return nil, err
	}
	id, err := e.sshTarget(ctx, client, app, f)
	if err != nil {
		return nil, e.explain(err)
	}
	signer, hosts, err := oneTimeKey(ctx, client, app, id, f.user)
	if err != nil {
		return nil, e.explain(err)
	}
	conn, err := client.SSH(ctx, app, id)
	if err != nil {
		return nil, e.explain(err)
	}
	said := ""
	c, channels, requests, err := gossh.NewClientConn(conn, id+".vm."+app+".internal:22", &gossh.ClientConfig{
		User: f.user, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: hosts.CheckHostKey, HostKeyAlgorithms: []string{gossh.CertAlgoED25519v01},
		ClientVersion: "SSH-2.0-perigee", BannerCallback: func(m string) error { said = strings.TrimSpace(strings.TrimPrefix(m, "perigee: ")); return nil },
	})
	if err != nil {
		conn.Close()
		if said != "" {
			err = fmt.Errorf("machine %s lets nobody in: %s", id, said)
		}
		return nil, err
	}
	return gossh.NewClient(c, channels, requests), nil
}

// oneTimeKey makes a key, has it signed, and says how the machine is known.
func oneTimeKey(ctx context.Context, client *api.Client, app, id, user string) (gossh.Signer, *gossh.CertChecker, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	key, err := gossh.NewSignerFromKey(private)
	if err != nil {
		return nil, nil, err
	}
	made, err := client.IssueSSHCertificate(ctx, app, api.SSHCertificateRequest{
		PublicKey: string(gossh.MarshalAuthorizedKey(key.PublicKey())), Principals: []string{user}, Machines: []string{id},
	})
	if err != nil {
		return nil, nil, err
	}
	cert, err := parseKey(made.Certificate)
	if err != nil {
		return nil, nil, err
	}
	authority, err := parseKey(made.HostAuthority)
	if err != nil {
		return nil, nil, err
	}
	c, ok := cert.(*gossh.Certificate)
	if !ok {
		return nil, nil, errors.New("cannot use the node's answer: it is a key and no certificate")
	}
	signer, err := gossh.NewCertSigner(c, key)
	return signer, &gossh.CertChecker{IsHostAuthority: func(k gossh.PublicKey, _ string) bool { return bytes.Equal(k.Marshal(), authority.Marshal()) }}, err
}

func parseKey(line string) (gossh.PublicKey, error) {
	k, _, _, _, err := gossh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, fmt.Errorf("cannot read the node's answer: %w", err)
	}
	return k, nil
}
