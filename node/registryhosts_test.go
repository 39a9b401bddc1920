package node

import (
	"net"
	"testing"
)

// TestOwnRegistry: whatever leads to this node's registry is the built-in one, so that
// its images are asked for as an app's and not as those of somewhere else.
func TestOwnRegistry(t *testing.T) {
	c := Config{Listen: "0.0.0.0:4280", Domain: "apps.example.com", Address: "node1.example.com"}
	want := map[string]bool{
		"localhost:4280": true, "LOCALHOST:4280": true, "localhost.:4280": true, "a.localhost:4280": true,
		"127.0.0.2:4280": true, "127.0.0.1:04280": true, "[::1]:4280": true, "[::ffff:127.0.0.1]:4280": true, "0.0.0.0:4280": true,
		"node1.example.com:4280": true, "registry.apps.example.com": true, "Registry.Apps.Example.com:443": true,
		"127.0.0.1:4281": false, "127.0.0.1": false, "203.0.113.7:4280": false, "ghcr.io": false, "docker.io": false,
		"registry.example.com": false, "node1.example.com": false, "": false,
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if p, ok := a.(*net.IPNet); ok {
			want[net.JoinHostPort(p.IP.String(), "4280")] = true
		}
	}
	for name, is := range want {
		if c.isRegistry(name) != is {
			t.Errorf("%q is this node's registry: %v", name, !is)
		}
	}
}
