package httpapi

import (
	"context"
	"time"

	"github.com/coder/websocket"
	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/fleet"
	"github.com/perigee-run/perigee/token"
)

// SSH leads to the machines' SSH servers; *fleet.Fleet does.
type SSH interface {
	SSH(ctx context.Context, id string) (fleet.Visit, error)
}

// SSHAuthority signs for orgs; *ssh.Authority is one.
type SSHAuthority interface {
	// Issue signs for who, who asks with the token of that id, which ends then.
	Issue(org, who, token string, end time.Time, req api.SSHCertificateRequest) (api.SSHCertificate, error)
	Keys(org string) (users, hosts string)
}

var _ SSH = (*fleet.Fleet)(nil)

const pOrgSSH = "/v1/orgs/{org_slug}/ssh"

func (s *Server) sshRoutes() []route {
	return []route{
		{rGet, pOrgSSH + "/authority", reads, "SSH_authority", "Show who signs the org's SSH certificates", nil, get(s.sshAuthority)},
		{rPost, pOrgSSH + "/certificates", shells, "SSH_issue", "Sign a public key for machines of the org, for some hours", nil, take(s.issueForOrg).asking()},
		{rPost, pApp + "/ssh/certificates", shells, "SSH_issue_app", "Sign a public key for machines of the app, for some hours", nil, take(s.issueForApp).asking()},
		{rGet, pMachine + "/ssh", shells, "Machines_ssh", "Speak SSH with a machine's server over a WebSocket, in binary messages", nil, raw{"", s.sshInto}},
	}
}

func (s *Server) authority() (SSHAuthority, error) {
	if s.cfg.SSHAuthority == nil || s.cfg.SSH == nil {
		return nil, api.Errorf(api.CodeUnsupported, "this node has no SSH server")
	}
	return s.cfg.SSHAuthority, nil
}

func (s *Server) sshAuthority(c *call) (api.SSHAuthority, error) {
	a, err := s.authority()
	if err != nil {
		return api.SSHAuthority{}, err
	}
	users, hosts := a.Keys(c.path("org_slug"))
	return api.SSHAuthority{UserAuthority: users, HostAuthority: hosts}, nil
}

func (s *Server) issueForOrg(c *call, in api.SSHCertificateRequest) (api.SSHCertificate, error) {
	org := c.path("org_slug")
	if err := c.mayEnter(org, &in); err != nil {
		return api.SSHCertificate{}, err
	}
	for _, name := range in.Apps {
		if a, err := s.cfg.Apps.Get(name); err != nil || a.Org != org {
			return api.SSHCertificate{}, api.Errorf(api.CodeNotFound, "org %q has no app %q", org, api.Clip(name)).WithField("apps")
		}
	}
	return s.issue(c, org, in)
}

func (s *Server) issueForApp(c *call, in api.SSHCertificateRequest) (api.SSHCertificate, error) {
	name, err := s.app(c)
	if err != nil {
		return api.SSHCertificate{}, err
	}
	for _, other := range in.Apps {
		if other != name {
			return api.SSHCertificate{}, invalid("apps", "apps names %q, and this asks for app %q; POST /v1/orgs/{org_slug}/ssh/certificates is for several", api.Clip(other), name)
		}
	}
	in.Apps = []string{name}
	if err := c.mayEnter("", &in); err != nil {
		return api.SSHCertificate{}, err
	}
	a, err := s.cfg.Apps.Get(name)
	if err != nil {
		return api.SSHCertificate{}, err
	}
	return s.issue(c, a.Org, in)
}

func (s *Server) issue(c *call, org string, in api.SSHCertificateRequest) (api.SSHCertificate, error) {
	a, err := s.authority()
	if err != nil {
		return api.SSHCertificate{}, err
	}
	var end time.Time
	if l, ok := c.who.Scope.(interface{ Ends() time.Time }); ok {
		end = l.Ends()
	}
	return a.Issue(org, c.who.Name, c.who.Token, end, in)
}

// mayEnter asks for all apps and machines that a certificate is to be for. Where it names
// none, those that the token is limited to are meant.
func (c *call) mayEnter(org string, in *api.SSHCertificateRequest) error {
	if l, ok := c.who.Scope.(interface {
		Only() (apps, machines []string)
	}); ok {
		apps, machines := l.Only()
		in.Apps, in.Machines = orElse(in.Apps, apps), orElse(in.Machines, machines)
	}
	for _, app := range orElse(in.Apps, []string{""}) {
		if app != "" {
			org = c.server.orgOf(app)
		}
		for _, id := range orElse(in.Machines, []string{""}) {
			if err := c.may(token.Want{Class: shells, Org: org, App: app, Machine: id}); err != nil {
				return err
			}
		}
	}
	return nil
}

// orElse is the list, or another where it is empty.
func orElse(list, other []string) []string {
	if len(list) == 0 {
		return other
	}
	return list
}

// sshInto carries SSH between the client and the node that owns the machine.
func (s *Server) sshInto(c *call) error {
	id, err := s.id(c)
	if err != nil {
		return err
	}
	if _, err := s.authority(); err != nil {
		return err
	}
	visit, err := s.cfg.SSH.SSH(c.r.Context(), id)
	if err != nil {
		return err
	}
	defer visit.Leave()
	conn, err := c.webSocket()
	if conn == nil {
		return err
	}
	conn.SetReadLimit(-1) // SSH has limits of its own
	if err := visit.Serve(c.r.Context(), websocket.NetConn(c.r.Context(), conn, websocket.MessageBinary)); err != nil {
		s.cfg.Logger.Debug("SSH ended", "machine", id, "who", c.who.Name, "error", err)
	}
	return nil
}
