package node

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// registryHosts are the names of the built-in registry: what docker on this
// server calls it, and the address that others use.
func (c *Config) registryHosts() []string {
	host, port, _ := net.SplitHostPort(c.Listen)
	hosts := []string{"localhost:" + port, "127.0.0.1:" + port}
	if host != "" && host != "127.0.0.1" && host != "localhost" && host != "0.0.0.0" && host != "::" {
		hosts = append(hosts, c.Listen)
	}
	return append(hosts, "registry."+c.Domain)
}

// isRegistry reports whether another name of a registry leads to the built-in one too:
// an address of this server with the API's port, however it is written, or the name
// that the router serves it by. What is there is not free for all, as images of other
// registries are.
func (c *Config) isRegistry(name string) bool {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = name, ""
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == strings.ToLower("registry."+c.Domain) {
		return true
	}
	listen, own, _ := net.SplitHostPort(c.Listen)
	return samePort(port, own) && (host == strings.ToLower(listen) || host == strings.ToLower(c.Address) || isOwn(host))
}

func samePort(a, b string) bool {
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	return err1 == nil && err2 == nil && x == y
}

// isOwn reports whether a host in lower case is this server by its form or address.
func isOwn(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if a = a.Unmap().WithZone(""); a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, _ := net.InterfaceAddrs() // none: it is refused for want of a credential
	for _, i := range addrs {
		if p, err := netip.ParsePrefix(i.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}
