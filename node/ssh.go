package node

import (
	"context"
	"net/http"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/ssh"
)

// openShells makes the SSH server of this node's machines. Its secret is made from
// the key of the secrets, which all nodes of a cloud have: what one has signed opens
// machines of all.
func (n *Node) openShells(context.Context) error {
	secret, err := n.apps.Derive("ssh")
	if err != nil {
		return err
	}
	authority, err := ssh.NewAuthority(secret)
	if err != nil {
		return err
	}
	n.shells, err = ssh.New(ssh.Config{Authority: authority, Machines: n.machines, Permit: n.permit, Noted: n.noteSession, Logger: n.log})
	return err
}

// visit is a place at the SSH server of a machine of this node.
func (n *Node) visit(ctx context.Context, id string) (fleet.Visit, error) {
	v, err := n.shells.Admit(ctx, id)
	if err != nil {
		return nil, err // not a nil *ssh.Visit, which is a Visit
	}
	return v, nil
}

// permit refuses certificates of tokens that are not good any more. What root of a
// node, or the cloud's own token, asked for depends on no token.
func (n *Node) permit(_ context.Context, g ssh.Grant) error {
	if g.Token == "" {
		return nil
	}
	return n.tokens.Stands(g.Token)
}

// noteSession writes a session into the audit log: the certificate may have been
// asked for days ago.
func (n *Node) noteSession(m ssh.Machine, g ssh.Grant) {
	n.audit.Record(api.AuditEntry{Who: g.Who, Token: g.Token, Operation: "SSH_session", Org: m.Org, App: m.App, Machine: m.ID, Status: http.StatusOK})
}
