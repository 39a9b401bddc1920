package api

import "time"

// WireGuardPeer is a laptop, or another machine of somebody's own, that enters
// the private network of an org.
type WireGuardPeer struct {
	Name string `json:"name" doc:"Name, unique in the org"`
	Org  string `json:"org" doc:"Org whose machines it reaches"`
	// Address is the peer's own in the private network.
	Address   string `json:"address" doc:"The peer's IPv6 address in the private network"`
	PublicKey string `json:"public_key" doc:"The peer's public key"`
	Node      string `json:"node" doc:"Node where the peer enters"`
	Region    string `json:"region" doc:"Region of that node"`
	// The other end, for the peer's configuration.
	GatewayKey string     `json:"gateway_key" doc:"Public key of that node; empty while it is not known"`
	Endpoint   string     `json:"endpoint" doc:"Host and UDP port of that node; empty while they are not known"`
	DNS        string     `json:"dns" doc:"Resolver of the private network"`
	AllowedIPs []string   `json:"allowed_ips" doc:"What to send through the tunnel"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty" doc:"When it ends by itself; missing if never"`
}

// CreateWireGuardPeerRequest asks for a way in. The private key stays with the peer.
type CreateWireGuardPeerRequest struct {
	Name      string `json:"name" doc:"1 to 63 lower-case letters, digits and hyphens"`
	PublicKey string `json:"public_key" doc:"The peer's public key, base64"`
	Region    string `json:"region,omitempty" doc:"Enter there; default the node that is asked"`
	TTL       int    `json:"ttl,omitempty" doc:"Seconds until it ends by itself; default never"`
}
