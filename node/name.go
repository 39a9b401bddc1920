package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/perigee-run/perigee/internal/durable"
)

// keepName returns the node's name and writes it down at the first start.
// Records, addresses and folders carry it: a node that changed its name would
// not know its own machines.
func keepName(data, name string) (string, error) {
	path := filepath.Join(data, "name")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("cannot read the node's name: %w", err)
	}
	if kept := strings.TrimSpace(string(b)); kept != "" {
		if name != "" && name != kept {
			return "", fmt.Errorf("cannot use %q as node name: the node in %s is %q; leave --name out, or choose another --data", name, data, kept)
		}
		return kept, nil
	}
	if name == "" {
		host, _ := os.Hostname()
		name, _, _ = strings.Cut(strings.ToLower(host), ".")
		name = or(name, "node")
	}
	if !nodeName.MatchString(name) {
		return "", fmt.Errorf("cannot use %q as node name: want 1 to 63 lower-case letters, digits and hyphens; give one with --name", name)
	}
	return name, durable.WriteFile(path, 0o600, []byte(name+"\n"))
}

// keepDomain returns the domain and writes it down, so that it need not be given
// again and nodes that join can be told. It may change: no record holds it.
func keepDomain(data, domain string) (string, error) {
	path := filepath.Join(data, "domain")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("cannot read the node's domain: %w", err)
	}
	kept := strings.TrimSpace(string(b))
	if domain == "" || domain == kept {
		return or(kept, "perigee.localhost"), nil
	}
	return domain, durable.WriteFile(path, 0o600, []byte(domain+"\n"))
}
