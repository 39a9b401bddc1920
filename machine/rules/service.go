package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/api"
)

func checkServices(c *api.MachineConfig, _ Node) error {
	if len(c.Services) > maxServices {
		return invalid("config.services", "has %d services, the most is %d", len(c.Services), maxServices)
	}
	for i := range c.Services {
		field := fmt.Sprintf("config.services[%d]", i)
		if err := checkService(field, &c.Services[i]); err != nil {
			return err
		}
	}
	return checkPublicPorts(c.Services)
}

func checkService(field string, s *api.Service) error {
	switch {
	case s.Protocol == "udp":
		return unsupported(field+".protocol", "udp services are not available on this node yet")
	case s.Protocol != "" && s.Protocol != "tcp":
		return invalid(field+".protocol", "is %q; it can be tcp", s.Protocol)
	case s.InternalPort < 1 || s.InternalPort > 65535:
		return invalid(field+".internal_port", "is %d; a port is 1 to 65535", s.InternalPort)
	case s.MinMachinesRunning != nil && *s.MinMachinesRunning < 0:
		return invalid(field+".min_machines_running", "is %d; it cannot be negative", *s.MinMachinesRunning)
	case s.Autostop != nil && !slices.Contains([]api.Autostop{"", api.AutostopOff, api.AutostopStop, api.AutostopSuspend}, *s.Autostop):
		return invalid(field+".autostop", "is %q; it can be off, stop or suspend", *s.Autostop)
	case len(s.Ports) > maxPorts:
		return invalid(field+".ports", "has %d entries, the most is %d", len(s.Ports), maxPorts)
	case len(s.Checks) > maxChecks:
		return invalid(field+".checks", "has %d checks, the most is %d", len(s.Checks), maxChecks)
	}
	if err := checkConcurrency(field+".concurrency", s.Concurrency); err != nil {
		return err
	}
	for i := range s.Ports {
		if err := checkPort(fmt.Sprintf("%s.ports[%d]", field, i), &s.Ports[i]); err != nil {
			return err
		}
	}
	for i := range s.Checks {
		ch := s.Checks[i]
		orElse(&ch.Port, s.InternalPort)
		orElse(&ch.Type, "tcp")
		if err := checkCheck(fmt.Sprintf("%s.checks[%d]", field, i), &ch); err != nil {
			return err
		}
	}
	return nil
}

func checkConcurrency(field string, c *api.Concurrency) error {
	switch {
	case c == nil:
		return nil
	case !slices.Contains([]string{"", "connections", "requests"}, c.Type):
		return invalid(field+".type", "is %q; it can be connections or requests", c.Type)
	case c.SoftLimit < 0:
		return invalid(field+".soft_limit", "is %d; it cannot be negative", c.SoftLimit)
	case c.HardLimit < 0:
		return invalid(field+".hard_limit", "is %d; it cannot be negative", c.HardLimit)
	case c.HardLimit > 0 && c.SoftLimit > c.HardLimit:
		return invalid(field+".soft_limit", "is %d, more than the hard limit of %d", c.SoftLimit, c.HardLimit)
	}
	return nil
}

func checkPort(field string, p *api.Port) error {
	first, last := portRange(p)
	switch {
	case p.Port != 0 && (p.StartPort != 0 || p.EndPort != 0):
		return invalid(field, "has both port and a range; give one of them")
	case first < 1 || last > 65535 || first > last:
		return invalid(field+".port", "%d to %d is no range of ports between 1 and 65535", first, last)
	}
	if err := checkHandlers(field+".handlers", p.Handlers); err != nil {
		return err
	}
	if o := p.ProxyProtoOptions; o != nil && !slices.Contains([]string{"", "v1", "v2"}, o.Version) {
		return invalid(field+".proxy_proto_options.version", "is %q; it can be v1 or v2", o.Version)
	}
	return nil
}

// checkHandlers refuses what the router would.
func checkHandlers(field string, handlers []string) error {
	has := func(h string) bool { return slices.Contains(handlers, h) }
	for i, h := range handlers {
		switch at := fmt.Sprintf("%s[%d]", field, i); {
		case h == "edge_http":
			return unsupported(at, "edge_http is not available on this node").WithHint("use http, with tls where it is encrypted")
		case !slices.Contains([]string{"http", "tls", "pg_tls", "proxy_proto"}, h):
			return invalid(at, "is %q; it can be http, tls, pg_tls or proxy_proto", h)
		}
	}
	if has("pg_tls") && (has("tls") || has("http")) || has("proxy_proto") && has("http") {
		return invalid(field, "%s do not go together", strings.Join(handlers, " and "))
	}
	return nil
}

func portRange(p *api.Port) (first, last int) {
	if p.StartPort == 0 && p.EndPort == 0 {
		return p.Port, p.Port
	}
	return p.StartPort, p.EndPort
}

// checkPublicPorts refuses two services of one machine behind one public port.
func checkPublicPorts(services []api.Service) error {
	owner := map[int]int{}
	for i := range services {
		for j := range services[i].Ports {
			first, last := portRange(&services[i].Ports[j])
			for port := first; port <= last; port++ {
				if at, taken := owner[port]; taken {
					return invalid(fmt.Sprintf("config.services[%d].ports[%d].port", i, j), "%d is taken by services[%d]", port, at)
				}
				owner[port] = i
			}
		}
	}
	return nil
}

func checkNamedChecks(c *api.MachineConfig, _ Node) error {
	if len(c.Checks) > maxChecks {
		return invalid("config.checks", "has %d checks, the most is %d", len(c.Checks), maxChecks)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Checks)) {
		field := "config.checks." + name
		if !metadataForm.MatchString(name) {
			return invalid(field, "%q cannot name a check; use letters, digits, and _ . : / -", name)
		}
		ch := c.Checks[name]
		if ch.Port == 0 {
			ch.Port = FirstPort(c)
		}
		if err := checkCheck(field, &ch); err != nil {
			return err
		}
	}
	return nil
}

// FirstPort is the internal port of the first service, which a named check
// without a port means; 0 if there is no service.
func FirstPort(c *api.MachineConfig) int {
	if len(c.Services) == 0 {
		return 0
	}
	return c.Services[0].InternalPort
}

func checkCheck(field string, c *api.Check) error {
	switch {
	case c.Type != "tcp" && c.Type != "http":
		return invalid(field+".type", "is %q; it can be tcp or http", c.Type)
	case c.Port < 1 || c.Port > 65535:
		return invalid(field+".port", "is %d; a port is 1 to 65535", c.Port)
	case !slices.Contains([]string{"", "informational", "readiness"}, c.Kind):
		return invalid(field+".kind", "is %q; it can be informational or readiness", c.Kind)
	case !slices.Contains([]string{"", "http", "https"}, c.Protocol):
		return invalid(field+".protocol", "is %q; it can be http or https", c.Protocol)
	case c.Method != "" && !methodForm.MatchString(strings.ToUpper(c.Method)):
		return invalid(field+".method", "%q is not an HTTP method", c.Method)
	case c.Path != "" && (!strings.HasPrefix(c.Path, "/") || len(c.Path) > 2048 || strings.ContainsFunc(c.Path, notPrintable)):
		return invalid(field+".path", "%q is not a path that begins with a slash", c.Path)
	case c.TLSServerName != "" && !hostForm.MatchString(c.TLSServerName):
		return invalid(field+".tls_server_name", "%q is not a host name", c.TLSServerName)
	}
	for i, h := range c.Headers {
		if !headerForm.MatchString(h.Name) || slices.ContainsFunc(h.Values, func(v string) bool { return strings.ContainsAny(v, "\r\n\x00") }) {
			return invalid(fmt.Sprintf("%s.headers[%d]", field, i), "%q is not a header that can be sent", h.Name)
		}
	}
	return checkTimes(field, c)
}

func checkTimes(field string, c *api.Check) error {
	if err := checkSpan(field+".interval", c.Interval, time.Second, time.Hour); err != nil && c.Interval != nil {
		return err
	}
	if err := checkSpan(field+".timeout", c.Timeout, 10*time.Millisecond, time.Minute); err != nil && c.Timeout != nil {
		return err
	}
	return checkSpan(field+".grace_period", c.GracePeriod, 0, time.Hour)
}
