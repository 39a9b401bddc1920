package cluster

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/perigee-run/perigee/api"
)

const (
	maxJoinRequest = 64 << 10
	joinTimeout    = 30 * time.Second
)

// joinRequest is what a new node sends. It proves that it holds the key twice:
// by the signature in Request, and by showing a certificate with the same key in
// the handshake, so that a request which somebody kept is of no use.
type joinRequest struct {
	TokenID string    `json:"token_id"`
	Secret  []byte    `json:"secret"`
	Request []byte    `json:"request"` // PKCS #10, DER
	Node    Node      `json:"node"`    // what it says of itself; the rest is not looked at
	Time    time.Time `json:"time"`    // its clock
}

// token is what the request says of its token; whole reports whether that can be
// one.
func (r joinRequest) token() (t Token, whole bool) {
	t.ID = r.TokenID
	copy(t.Secret[:], r.Secret)
	return t, len(r.Secret) == len(t.Secret)
}

// joinResponse makes it a node.
type joinResponse struct {
	Cluster      string            `json:"cluster"`
	Certificate  []byte            `json:"certificate"` // DER
	AuthorityKey []byte            `json:"authority_key,omitempty"`
	Self         Node              `json:"self"`
	Nodes        []Node            `json:"nodes"`
	Shared       map[string][]byte `json:"shared,omitempty"`
}

// elsewhere is the answer of a node that cannot certify.
type elsewhere struct {
	Error string   `json:"error"`
	Try   []string `json:"try"`
}

func (c *Cluster) serveJoin(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		fail(w, &api.Error{Code: api.CodeBadRequest, Status: http.StatusMethodNotAllowed, Message: "want POST"})
		return
	}
	if wait := c.limit.wait(r.RemoteAddr); wait > 0 {
		busy(w, "too many joins failed; wait "+wait.String())
		return
	}
	if !c.Certifies() {
		c.sendElsewhere(w)
		return
	}
	req, pub, err := readJoin(w, r) // before it takes a place: a sender may be slow for long
	if err != nil {
		c.refuseJoin(w, r, err)
		return
	}
	if wait := c.limit.waitAll(); wait > 0 && !c.knowsToken(req) {
		busy(w, "too many joins failed; wait "+wait.String())
		return
	}
	leave, ok := c.limit.enter()
	if !ok {
		busy(w, "too many servers join at this moment; try again")
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), joinTimeout)
	defer cancel()
	resp, err := c.join(ctx, req, pub)
	if err != nil {
		c.refuseJoin(w, r, err)
		return
	}
	c.log.Info("node joins", "node", resp.Self.Name, "region", resp.Self.Region, "from", r.RemoteAddr)
	answer(w, resp)
}

func (c *Cluster) refuseJoin(w http.ResponseWriter, r *http.Request, err error) {
	c.limit.failed(r.RemoteAddr)
	c.log.Warn("refused a node that wants to join", "from", r.RemoteAddr, "error", err)
	fail(w, err)
}

// knowsToken reports whether the request's token is one of ours, by what is in
// memory.
func (c *Cluster) knowsToken(req joinRequest) bool {
	t, err := c.state()
	if err != nil {
		return false
	}
	tok, whole := req.token()
	e, ok := t.tokens.Get(tokenKey(tok.ID))
	return ok && whole && tok.proves(e.Value.Hash)
}

func busy(w http.ResponseWriter, text string) {
	fail(w, &api.Error{Code: api.CodePrecondition, Status: http.StatusTooManyRequests, Message: text})
}

func (c *Cluster) sendElsewhere(w http.ResponseWriter) {
	var try []string
	for _, n := range c.Nodes() {
		if n.Has(RoleState) {
			try = append(try, n.PeerAddr())
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusMisdirectedRequest)
	_ = json.NewEncoder(w).Encode(elsewhere{"this node does not certify; nodes with the role state do", try}) // the caller may be gone
}

func (c *Cluster) join(ctx context.Context, req joinRequest, pub *ecdsa.PublicKey) (*joinResponse, error) {
	t, err := c.state()
	if err != nil {
		return nil, err
	}
	tok, whole := req.token()
	rec, ok := c.findToken(ctx, t, tok.ID)
	if !ok || !whole {
		return nil, errUnknownToken
	}
	key, err := keyHash(pub)
	if err != nil {
		return nil, err
	}
	if _, err := rec.check(tok, key, c.cfg.now()); err != nil {
		return nil, err
	}
	node, err := c.wanted(req, rec, key)
	if err != nil {
		return nil, err
	}
	return c.admit(ctx, t, tok, node, pub)
}

// readJoin reads the request and checks that its sender holds the key.
func readJoin(w http.ResponseWriter, r *http.Request) (req joinRequest, pub *ecdsa.PublicKey, err error) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(10 * time.Second)) // a test's recorder has none
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJoinRequest))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return req, nil, &api.Error{Code: api.CodeBadRequest, Status: http.StatusRequestEntityTooLarge, Message: "the join request is too large"}
		}
		return req, nil, api.Errorf(api.CodeBadRequest, "cannot read the join request: %v", err)
	}
	if err := json.Unmarshal(b, &req); err != nil {
		return req, nil, api.Errorf(api.CodeBadRequest, "cannot read the join request: %v", err)
	}
	if pub, err = requestKey(req.Request); err != nil {
		return req, nil, api.Errorf(api.CodeBadRequest, "%v", err)
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || !pub.Equal(r.TLS.PeerCertificates[0].PublicKey) {
		return req, nil, api.Errorf(api.CodeForbidden, "the key of the connection is not that of the certificate request")
	}
	return req, pub, nil
}

// wanted is the record that the request asks for, checked before anything is
// changed.
func (c *Cluster) wanted(req joinRequest, rec tokenRecord, key string) (Node, error) {
	now := c.cfg.now()
	if d := now.Sub(req.Time).Abs(); d > backdate {
		return Node{}, api.Errorf(api.CodePrecondition, "%v by %s: it is %s here and %s on the server that wants to join", ErrClock, d.Round(time.Minute),
			now.UTC().Format(time.DateTime), req.Time.UTC().Format(time.DateTime)).WithHint("set the clocks of both servers, by NTP for example")
	}
	said := req.Node
	n := Node{Name: said.Name, Region: cmp.Or(said.Region, rec.Region, "local"), Roles: said.Roles, Address: said.Address,
		PeerPort: cmp.Or(said.PeerPort, DefaultPeerPort), StatePort: cmp.Or(said.StatePort, DefaultStatePort), RoutePort: cmp.Or(said.RoutePort, DefaultRoutePort),
		WireGuardPort: cmp.Or(said.WireGuardPort, DefaultWireGuardPort), WireGuardKey: said.WireGuardKey, Version: said.Version, JoinedAt: now.UTC(), KeyHash: key}
	if len(n.Roles) == 0 {
		n.Roles = rec.Roles
	}
	if len(n.Roles) == 0 {
		n.Roles = Roles()
	}
	if err := n.check(); err != nil {
		return n, api.Errorf(api.CodeInvalid, "%v", err)
	}
	if err := rec.permits(n); err != nil {
		return n, err
	}
	if old, ok := c.record(n.Name); ok {
		if err := taken(old, key); err != nil {
			return n, err
		}
		if old.Removed && c.cfg.Mourned(n.Name) {
			return n, api.Errorf(api.CodeNameTaken, "the machines of the node %q that was removed are still being made anew elsewhere", n.Name).
				WithHint("wait until perigee machine list shows none of them, or choose another name with --name")
		}
	}
	return n, nil
}

// taken reports why a name cannot be had: another node has it.
func taken(old Node, key string) error {
	if old.Removed || old.KeyHash == key {
		return nil
	}
	return api.Errorf(api.CodeNameTaken, "there is a node %q already, in region %s at %s", old.Name, old.Region, old.Address).
		WithHint("choose another name with --name; or, if this server takes its place, remove the old one first: perigee node remove " + old.Name)
}

// admit makes the node a member of the cloud. What can fail for the node's own
// reasons was checked before; a crash in between leaves a token that this key
// can still use, or a record that the same key gets again.
func (c *Cluster) admit(ctx context.Context, t *tables, tok Token, node Node, pub *ecdsa.PublicKey) (*joinResponse, error) {
	shared, err := c.cfg.Bundle(slices.Clone(node.Roles))
	if err != nil {
		return nil, err
	}
	if err := checkFiles(shared); err != nil {
		return nil, err
	}
	cert, err := c.authority.certify(node.Name, pub, c.cfg.now())
	if err != nil {
		return nil, err
	}
	if err := c.useToken(ctx, t, tok, node.KeyHash, node.Name); err != nil {
		return nil, err
	}
	if node, err = c.enter(ctx, t, node, cert); err != nil {
		return nil, err
	}
	resp := &joinResponse{Cluster: c.id, Certificate: cert.Raw, Self: node, Nodes: c.Nodes(), Shared: shared}
	if node.Has(RoleState) {
		if resp.AuthorityKey, err = keyPEM(c.authority.key); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// enter writes the node's record. A node that repeats its join keeps its number.
func (c *Cluster) enter(ctx context.Context, t *tables, node Node, cert *x509.Certificate) (Node, error) {
	number := uint32(0)
	if e, ok := t.nodes.Get(node.Name); ok {
		number = e.Value.Number // also a removed one's: its addresses are free again
	}
	number, err := t.claimNumber(ctx, node.Name, number)
	if err != nil {
		return node, err
	}
	return change(ctx, t.nodes, node.Name, func(n *Node, there bool) error {
		before := Node{Number: number, JoinedAt: node.JoinedAt}
		if there {
			if err := taken(*n, node.KeyHash); err != nil {
				return err
			}
			if n.KeyHash == node.KeyHash && !n.Removed {
				before = *n
			}
		}
		*n = node
		n.Number, n.JoinedAt, n.Member, n.Cordoned, n.Draining = before.Number, before.JoinedAt, before.Member, before.Cordoned, before.Draining
		n.Serial, n.PreviousSerial, n.CertifiedAt = serialOf(cert), before.Serial, cert.NotBefore
		return nil
	})
}
