package api

import (
	"context"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// IssueSSHCertificate signs a public key for machines of an app.
func (c *Client) IssueSSHCertificate(ctx context.Context, app string, req SSHCertificateRequest) (out SSHCertificate, err error) {
	return out, c.call(ctx, http.MethodPost, pathf("/apps/%s/ssh/certificates", app), nil, req, &out)
}

// IssueOrgSSHCertificate signs a public key for machines of an org.
func (c *Client) IssueOrgSSHCertificate(ctx context.Context, org string, req SSHCertificateRequest) (out SSHCertificate, err error) {
	return out, c.call(ctx, http.MethodPost, pathf("/orgs/%s/ssh/certificates", org), nil, req, &out)
}

// GetSSHAuthority returns who signs for an org.
func (c *Client) GetSSHAuthority(ctx context.Context, org string) (out SSHAuthority, err error) {
	return out, c.call(ctx, http.MethodGet, pathf("/orgs/%s/ssh/authority", org), nil, nil, &out)
}

// SSH connects to a machine's SSH server, wherever in the cloud the machine is.
// What goes over the connection is SSH as it is; it ends with ctx.
func (c *Client) SSH(ctx context.Context, app, id string) (net.Conn, error) {
	conn, err := c.socket(ctx, machinePath(app, id, "/ssh"))
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(-1) // SSH has limits of its own
	return websocket.NetConn(ctx, conn, websocket.MessageBinary), nil
}

// socket opens a WebSocket.
func (c *Client) socket(ctx context.Context, path string) (*websocket.Conn, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	h := http.Header{}
	c.header(h)
	conn, resp, err := websocket.Dial(ctx, c.base+path, &websocket.DialOptions{HTTPClient: c.sockets, HTTPHeader: h})
	if err != nil && resp != nil && resp.StatusCode >= 400 {
		return nil, refusal(resp)
	}
	return conn, err
}
