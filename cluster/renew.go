package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/internal/durable"
)

// renewRequest asks for a new certificate; who asks is known from the old one.
type renewRequest struct {
	Request []byte `json:"request"` // PKCS #10, DER
}

type renewResponse struct {
	Certificate []byte `json:"certificate"` // DER
}

func (c *Cluster) serveRenew(w http.ResponseWriter, r *http.Request, old *x509.Certificate) {
	resp, err := c.renewFor(w, r, old)
	if err != nil {
		c.log.Warn("cannot renew a node's certificate", "node", old.Subject.CommonName, "error", err)
		fail(w, err)
		return
	}
	answer(w, resp)
}

func (c *Cluster) renewFor(w http.ResponseWriter, r *http.Request, old *x509.Certificate) (*renewResponse, error) {
	if !c.Certifies() {
		return nil, api.Errorf(api.CodeUnsupported, "this node does not certify")
	}
	var req renewRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJoinRequest)).Decode(&req); err != nil {
		return nil, api.Errorf(api.CodeBadRequest, "cannot read the request: %v", err)
	}
	pub, err := requestKey(req.Request)
	if err != nil {
		return nil, api.Errorf(api.CodeBadRequest, "%v", err)
	}
	if !pub.Equal(old.PublicKey) {
		return nil, api.Errorf(api.CodeForbidden, "the request is for another key than the node's")
	}
	cert, err := c.reissue(r.Context(), old, pub)
	if err != nil {
		return nil, err
	}
	return &renewResponse{cert.Raw}, nil
}

// reissue signs a certificate in old's place and writes it down first: an answer
// that is lost leaves the node with the one that it has.
func (c *Cluster) reissue(ctx context.Context, old *x509.Certificate, pub *ecdsa.PublicKey) (*x509.Certificate, error) {
	t, err := c.state()
	if err != nil {
		return nil, err
	}
	cert, err := c.authority.certify(old.Subject.CommonName, pub, c.cfg.now())
	if err != nil {
		return nil, err
	}
	_, err = change(ctx, t.nodes, old.Subject.CommonName, func(n *Node, there bool) error {
		if !there {
			return fmt.Errorf("there is no record of node %q yet", old.Subject.CommonName)
		}
		if err := c.current(old); err != nil {
			return err
		}
		n.Serial, n.PreviousSerial, n.CertifiedAt = serialOf(cert), serialOf(old), cert.NotBefore
		return nil
	})
	return cert, err
}

// renewAt is when a certificate is renewed: at two thirds of its life.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// renewIfDue renews the own certificate if it is time, through any node that
// certifies.
func (c *Cluster) renewIfDue(ctx context.Context) error {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	pair := c.cert.Load()
	if c.cfg.now().Before(renewAt(pair.Leaf)) {
		return nil
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the node's key is not of the kind that is made here")
	}
	cert, err := c.renewed(ctx, pair.Leaf, key)
	if err != nil {
		return fmt.Errorf("cannot renew this node's certificate, which ends on %s: %w", pair.Leaf.NotAfter.UTC().Format(time.DateOnly), err)
	}
	return c.takeCertificate(cert, key)
}

func (c *Cluster) renewed(ctx context.Context, old *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if c.Certifies() {
		return c.reissue(ctx, old, &key.PublicKey)
	}
	csr, err := request(old.Subject.CommonName, key)
	if err != nil {
		return nil, err
	}
	err = errors.New("no node that certifies is known")
	for _, n := range c.Nodes() {
		if !n.Has(RoleState) {
			continue
		}
		var cert *x509.Certificate
		if cert, err = c.renewAtNode(ctx, n.Name, csr); err == nil {
			return cert, nil
		}
	}
	return nil, err
}

func (c *Cluster) renewAtNode(ctx context.Context, node string, csr []byte) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	client, base, err := c.HTTPClient(node)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(renewRequest{csr})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+renewPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp)
	}
	var r renewResponse
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(&r); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(r.Certificate)
}

// takeCertificate writes a new certificate and uses it from now on.
func (c *Cluster) takeCertificate(cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	if err := c.authority.verify(cert, c.cfg.now()); err != nil {
		return err
	}
	if !key.PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != c.Self().Name {
		return errors.New("the renewed certificate is another node's")
	}
	own, err := keyPEM(key)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(filepath.Join(c.home, nodeFile), 0o600, append(own, certPEM(cert)...)); err != nil {
		return err
	}
	c.useCertificate(tls.Certificate{PrivateKey: key, Leaf: cert})
	c.log.Info("renewed this node's certificate", "until", cert.NotAfter)
	return nil
}
