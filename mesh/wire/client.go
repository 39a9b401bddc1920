package wire

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Client is what a laptop needs to know to enter the mesh.
type Client struct {
	// Name is written as a comment: 1 to 63 letters, digits and hyphens.
	Name string
	// PrivateKey of the laptop, in base64. "" leaves the line out, for a key that
	// only its owner has.
	PrivateKey string
	// Address of the laptop in the mesh.
	Address netip.Addr
	// DNS is the resolver.
	DNS netip.Addr
	// Gateway is the public key of the node where the laptop enters.
	Gateway Key
	// Endpoint is "host:port" of that node.
	Endpoint string
	// Allowed is what is sent through the tunnel.
	Allowed []netip.Prefix
	// MTU of the tunnel. Default 1420.
	MTU int
}

// ClientConfig renders a file that wg-quick takes as it is, and wg setconf
// after wg-quick strip.
func ClientConfig(c Client) (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("cannot write WireGuard configuration: %w", err)
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s = %s\n", name, value) }
	b.WriteString("# Perigee peer " + c.Name + "\n[Interface]\n")
	if c.PrivateKey != "" {
		line("PrivateKey", c.PrivateKey)
	}
	line("Address", c.Address.String()+"/128")
	line("DNS", c.DNS.String())
	line("MTU", strconv.Itoa(c.MTU))
	b.WriteString("\n[Peer]\n")
	line("PublicKey", c.Gateway.String())
	line("AllowedIPs", prefixes(c.Allowed))
	line("Endpoint", c.Endpoint)
	line("PersistentKeepalive", "25")
	return b.String(), nil
}

func prefixes(all []netip.Prefix) string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.Masked().String())
	}
	return strings.Join(texts, ", ")
}

func (c Client) check() error {
	if err := CheckName(c.Name); err != nil {
		return err
	}
	if c.PrivateKey != "" {
		if _, err := ParsePrivateKey(c.PrivateKey); err != nil {
			return err
		}
	}
	if c.Gateway.IsZero() {
		return errors.New("the gateway's key is missing")
	}
	if !c.Address.Is6() || !c.DNS.IsValid() || c.Address.Zone() != "" || c.DNS.Zone() != "" {
		return errors.New("want an IPv6 address and a resolver")
	}
	if len(c.Allowed) == 0 {
		return errors.New("want at least one prefix that is sent through the tunnel")
	}
	return CheckEndpoint(c.Endpoint)
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

// CheckName reports why name cannot be a peer's: it becomes part of a DNS name
// and of a configuration file.
func CheckName(name string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("cannot use %q as name of a peer: want 1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit", name[:min(len(name), 80)])
	}
	return nil
}

// CheckEndpoint reports why s cannot be an endpoint: "host:port", the host an
// IP address or a name.
func CheckEndpoint(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, perr := strconv.ParseUint(port, 10, 16)
	_, aerr := netip.ParseAddr(host)
	if err != nil || perr != nil || n == 0 || aerr != nil && !hostForm.MatchString(host) {
		return fmt.Errorf("cannot use %q as endpoint: want host:port, as 203.0.113.7:51820", s[:min(len(s), 80)])
	}
	return nil
}
