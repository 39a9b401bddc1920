package node

import (
	"context"
	"crypto/x509"
	"net/netip"
)

// certificateView is the certificates as the API sees them.
type certificateView struct{ n *Node }

// Peek implements httpapi.Certificates.
func (v certificateView) Peek(ctx context.Context, host string) (*x509.Certificate, string) {
	return v.n.certs.Peek(ctx, host)
}

// Obtain implements httpapi.Certificates.
func (v certificateView) Obtain(ctx context.Context, host string) error {
	return v.n.certs.Obtain(ctx, host)
}

// Addresses implements httpapi.Certificates: the app's own, else those of all edges.
func (v certificateView) Addresses(app string) []netip.Addr {
	if own := v.n.apps.Addresses(app); len(own) > 0 {
		return own
	}
	var out []netip.Addr
	for _, e := range (clientView{v.n}).Edges() {
		out = append(out, e.IPv4...)
		out = append(out, e.IPv6...)
	}
	return out
}
